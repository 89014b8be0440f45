package state

import (
	"context"
	"time"

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/tunnel"
	"github.com/threshold-access/threshold/raftstore"
)

// Attachment says that a node is attached to a proxy. It goes with the proxy's lease.
type Attachment struct {
	Node    identity.MachineID      `json:"node"`
	ProxyID identity.MachineID      `json:"proxy_id"`
	Proxy   string                  `json:"proxy"` // its name
	Since   time.Time               `json:"since"` // when the node signed it
	Version string                  `json:"version,omitempty"`
	Signed  tunnel.SignedAttachment `json:"signed,omitzero"` // kept by proxy alone: it is what the next report is compared with
}

// proxyLease is the lease of a proxy's attachments; the record ends with the lease itself.
type proxyLease struct {
	Lease raftstore.LeaseID `json:"lease"`
}

// lastSeenRecord is when a node was last known to be attached.
type lastSeenRecord struct {
	Time time.Time `json:"at"`
}

// An attachment is kept twice: by node, for whoever looks for the node, and by proxy, for that proxy's next
// report.
var (
	attachmentsByNode = table[Attachment]{
		prefix: "attached/node/",
		noun:   "attachment",
		remedy: "look at the node's log",
	}
	attachmentsByProxy = table[Attachment]{
		prefix: "attached/proxy/",
		noun:   "attachment",
		remedy: "look at the proxy's log",
	}
	proxyLeases = table[proxyLease]{
		prefix: "attached/lease/",
		noun:   "lease of proxy",
		remedy: "report again",
	}
	lastSeen = table[lastSeenRecord]{prefix: "seen/", noun: "last sight of", remedy: "run: tsh ls"}
)

// AttachmentsByNode returns where the node is attached, without its signed word.
func (s *State) AttachmentsByNode(ctx context.Context, node identity.MachineID) ([]Attachment, error) {
	got, err := attachmentsByNode.listUnder(ctx, s, string(node)+"/", Page{})
	if err != nil {
		return nil, err
	}
	return values(got.Items), nil
}

// AttachmentsByProxy returns what the proxy last reported, by node.
func (s *State) AttachmentsByProxy(
	ctx context.Context,
	proxy identity.MachineID,
) (map[identity.MachineID]Attachment, error) {
	out := map[identity.MachineID]Attachment{}
	for p := (Page{}); ; {
		got, err := attachmentsByProxy.listUnder(ctx, s, string(proxy)+"/", p)
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

// LastSeen returns when the node was last known to be attached; the zero time when it never was.
func (s *State) LastSeen(ctx context.Context, node identity.MachineID) (time.Time, error) {
	got, err := lastSeen.getOrNew(ctx, s, string(node))
	return got.Value.Time, err
}

// KeepProxyLease gives the proxy's lease its full time again, and reports whether there was one. Without one
// it makes one of length ttl, and nothing is attached to the proxy yet. Keeping one writes nothing.
func (s *State) KeepProxyLease(
	ctx context.Context,
	proxy identity.MachineID,
	ttl time.Duration,
) (kept bool, err error) {
	have, err := proxyLeases.getOrNew(ctx, s, string(proxy))
	if err != nil {
		return false, err
	}
	if have.Revision != 0 {
		err := s.store.KeepAlive(ctx, have.Value.Lease)
		if !fault.Is(err, fault.Expired) {
			return err == nil, err
		}
	}
	lease, err := s.store.Grant(ctx, ttl)
	if err != nil {
		return false, err
	}
	var c change
	proxyLeases.setLeased(&c, string(proxy), proxyLease{lease}, lease)
	_, err = s.commit(ctx, &c)
	return false, err
}

// attachmentsPerTxn is how many attachments change in one transaction: two writes and one for last seen each,
// well under raftstore's bound.
const attachmentsPerTxn = 500

// ChangeAttachments notes which nodes came to and which left the proxy, under its lease.
func (s *State) ChangeAttachments(
	ctx context.Context,
	proxy identity.MachineID,
	came, left []Attachment,
	now time.Time,
) error {
	have, err := proxyLeases.get(ctx, s, string(proxy))
	if err != nil {
		return err
	}
	lease := have.Value.Lease
	for len(came)+len(left) > 0 {
		var c change
		n := min(len(came), attachmentsPerTxn)
		for _, a := range came[:n] {
			attachmentsByProxy.setLeased(&c, string(proxy)+"/"+string(a.Node), a, lease)
			a.Signed = tunnel.SignedAttachment{}
			attachmentsByNode.setLeased(&c, string(a.Node)+"/"+string(proxy), a, lease)
			lastSeen.set(&c, string(a.Node), lastSeenRecord{now.UTC()})
		}
		came = came[n:]
		n = min(len(left), attachmentsPerTxn)
		for _, a := range left[:n] {
			attachmentsByNode.deleteKey(&c, string(a.Node)+"/"+string(proxy))
			attachmentsByProxy.deleteKey(&c, string(proxy)+"/"+string(a.Node))
			if _, err := s.Machine(ctx, a.Node); err == nil { // not of one that was removed
				lastSeen.set(&c, string(a.Node), lastSeenRecord{now.UTC()})
			}
		}
		left = left[n:]
		if _, err := s.commit(ctx, &c); err != nil {
			return err
		}
	}
	return nil
}

func values[T any](list []Stored[T]) []T {
	out := make([]T, len(list))
	for i, v := range list {
		out[i] = v.Value
	}
	return out
}
