package state

import (
	"context"
	"time"

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/tunnel"
	"github.com/threshold-access/threshold/raftstore"
)

// Attachment says that a node has a tunnel to a proxy. It ends with the proxy's lease.
type Attachment struct {
	Node    identity.MachineID `json:"node"`
	ProxyID identity.MachineID `json:"proxy_id"`
	Proxy   string             `json:"proxy"` // the proxy's name
	Since   time.Time          `json:"since"` // when the node signed it
	Version string             `json:"version,omitempty"`
	// Signed is the statement that the node signed. Only the record by proxy has it: the next report of
	// that proxy is compared with it.
	Signed tunnel.SignedAttachment `json:"signed,omitzero"`
}

// proxyLease names the lease of a proxy's attachments. The record itself ends with that lease.
type proxyLease struct {
	Lease raftstore.LeaseID `json:"lease"`
}

// lastSeenRecord says when a node was last known to be attached.
type lastSeenRecord struct {
	Time time.Time `json:"time"`
}

// An attachment is stored twice: by node, for whoever looks for the node, and by proxy, for that proxy's
// next report.
var (
	attachmentsByNode = table[Attachment]{
		prefix: "attached/node/", noun: "attachment", remedy: "look at the node's log",
	}
	attachmentsByProxy = table[Attachment]{
		prefix: "attached/proxy/", noun: "attachment", remedy: "look at the proxy's log",
	}
	proxyLeases = table[proxyLease]{
		prefix: "attached/lease/", noun: "lease of proxy", remedy: "report again",
	}
	lastSeen = table[lastSeenRecord]{
		prefix: "last-seen/", noun: "last-seen time of", remedy: "run: tsh ls",
	}
)

// AttachmentsByNode returns the node's attachments, one for each proxy. Their Signed is empty.
func (r *Reader) AttachmentsByNode(ctx context.Context, node identity.MachineID) ([]Attachment, error) {
	got, err := attachmentsByNode.listUnder(ctx, r, string(node)+"/", Page{})
	if err != nil {
		return nil, err
	}
	return values(got.Items), nil
}

// AttachmentsByProxy returns the attachments to the proxy, as it last reported them, by the node's id.
func (r *Reader) AttachmentsByProxy(
	ctx context.Context, proxy identity.MachineID,
) (map[identity.MachineID]Attachment, error) {
	out := map[identity.MachineID]Attachment{}
	for p := (Page{}); ; {
		got, err := attachmentsByProxy.listUnder(ctx, r, string(proxy)+"/", p)
		if err != nil {
			return nil, err
		}
		for _, a := range got.Items {
			out[a.Value.Node] = a.Value
		}
		if got.Next == "" {
			return out, nil
		}
		p.After = got.Next
	}
}

// LastSeen returns when the node was last known to be attached, or the zero time if it never was.
func (r *Reader) LastSeen(ctx context.Context, node identity.MachineID) (time.Time, error) {
	got, err := lastSeen.getOrNew(ctx, r, string(node))
	return got.Value.Time, err
}

// AttachedMachines returns the ids of the nodes that are attached to a proxy or were last known to be at
// since or after it, and of the proxies that report to auth.
func (r *Reader) AttachedMachines(
	ctx context.Context, since time.Time,
) (map[identity.MachineID]struct{}, error) {
	out := map[identity.MachineID]struct{}{}
	leases, err := proxyLeases.all(ctx, r)
	if err != nil {
		return nil, err
	}
	for _, lease := range leases {
		out[identity.MachineID(lease.Key)] = struct{}{}
	}
	attached, err := attachmentsByNode.all(ctx, r)
	if err != nil {
		return nil, err
	}
	for _, a := range attached {
		out[a.Value.Node] = struct{}{}
	}
	seen, err := lastSeen.all(ctx, r)
	for _, s := range seen {
		if !s.Value.Time.Before(since) {
			out[identity.MachineID(s.Key)] = struct{}{}
		}
	}
	return out, err
}

// Attachments changes which nodes are attached to which proxy. It also reads.
type Attachments struct{ writer }

// KeepProxyLease makes sure that the proxy has a lease for its attachments. A lease that exists gets its full
// time again: kept is true, and nothing is written to the store. Otherwise the proxy gets a new lease that
// lives for ttl: kept is false, and the attachments of the old lease are gone with it.
func (a *Attachments) KeepProxyLease(
	ctx context.Context, proxy identity.MachineID, ttl time.Duration,
) (kept bool, err error) {
	have, err := proxyLeases.getOrNew(ctx, a.Reader, string(proxy))
	if err != nil {
		return false, err
	}
	if hasLease := have.Revision != 0; hasLease {
		err := a.store.KeepAlive(ctx, have.Value.Lease)
		if err == nil {
			return true, nil
		}
		if ended := fault.Is(err, fault.Expired); !ended {
			return false, err
		}
	}
	lease, err := a.store.Grant(ctx, ttl)
	if err != nil {
		return false, err
	}
	var c change
	proxyLeases.setLeased(&c, string(proxy), proxyLease{lease}, lease)
	_, err = a.commit(ctx, &c)
	return false, err
}

// attachmentsPerTxn is how many attachments change in one transaction. Each is two writes and one for the
// last-seen time, so a transaction stays well under raftstore's bound.
const attachmentsPerTxn = 500

// ChangeAttachments stores the attachments in attached and removes those in detached, all of one proxy. A new
// attachment disappears when the proxy's lease ends; if the proxy has no lease, the call returns fault
// NotFound. now becomes the time when each node in attached or detached was last seen. A long list takes
// several transactions: after an error some of them may be committed, and the proxy's next report does the
// rest.
func (a *Attachments) ChangeAttachments(
	ctx context.Context, proxy identity.MachineID, attached, detached []Attachment, now time.Time,
) error {
	lease, err := proxyLeases.get(ctx, a.Reader, string(proxy))
	if err != nil {
		return err
	}
	for len(attached)+len(detached) > 0 {
		var c change
		n := min(len(attached), attachmentsPerTxn)
		for _, attachment := range attached[:n] {
			attach(&c, proxy, attachment, lease.Value.Lease, now)
		}
		attached = attached[n:]
		n = min(len(detached), attachmentsPerTxn)
		for _, attachment := range detached[:n] {
			a.detach(ctx, &c, proxy, attachment, now)
		}
		detached = detached[n:]
		if _, err := a.commit(ctx, &c); err != nil {
			return err
		}
	}
	return nil
}

// attach adds both records of an attachment to c. What the node signed goes only into the record by proxy.
func attach(c *change, proxy identity.MachineID, at Attachment, lease raftstore.LeaseID, now time.Time) {
	attachmentsByProxy.setLeased(c, string(proxy)+"/"+string(at.Node), at, lease)
	at.Signed = tunnel.SignedAttachment{}
	attachmentsByNode.setLeased(c, string(at.Node)+"/"+string(proxy), at, lease)
	lastSeen.set(c, string(at.Node), lastSeenRecord{now.UTC()})
}

// detach removes both records of an attachment. The node was attached until now, so now is its last-seen
// time.
func (a *Attachments) detach(
	ctx context.Context, c *change, proxy identity.MachineID, at Attachment, now time.Time,
) {
	attachmentsByNode.deleteKey(c, string(at.Node)+"/"+string(proxy))
	attachmentsByProxy.deleteKey(c, string(proxy)+"/"+string(at.Node))
	if _, err := a.Machine(ctx, at.Node); err == nil { // a removed node keeps no last-seen time
		lastSeen.set(c, string(at.Node), lastSeenRecord{now.UTC()})
	}
}
