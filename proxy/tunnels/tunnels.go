// Package tunnels answers: through which tunnel is that node reached?
//
// A tunnel is the live connection of one verified node. A node may have several: streams are opened over
// the newest, and older ones stay open while they have streams. A tunnel whose certificate has expired takes
// no new streams. The package reports to the auth service which nodes are attached to this proxy, as
// attachments that the nodes have signed, after each change and before the lease of the last report expires.
package tunnels

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/limit"
	"github.com/threshold-access/threshold/internal/rules"
	"github.com/threshold-access/threshold/internal/tunnel"
	"github.com/threshold-access/threshold/internal/wire"
)

const (
	// maxPerNode is how many tunnels a node may have. One more closes the oldest.
	maxPerNode = 4
	// maxPendingHellos is how many connections of a node may be waiting for the node's first message. It
	// keeps a stolen key from using up the connections of the proxy.
	maxPendingHellos = 8
	// retirePoll is how often a tunnel with an expired certificate is checked for open streams.
	retirePoll = 10 * time.Second
	// lockedDelay is how long the tunnel of a locked node stays open. An honest node tells the people in its
	// sessions meanwhile why they end. The tunnel takes no new streams.
	lockedDelay = time.Second
)

// Rules is where tunnels get the rules for their nodes.
type Rules interface {
	// Subscribe returns a channel with the present rules and then each newer version. stop ends the
	// subscription.
	Subscribe() (pushes <-chan tunnel.RulesPush, stop func())
	// Current returns the rules in force, which name the locked nodes. It is never nil.
	Current() *rules.Trust
	// Changed returns a channel that is closed when other documents get in force.
	Changed() <-chan struct{}
}

// Config says what Tunnels needs. Every field is required, except Now.
type Config struct {
	// Acknowledge returns where a tunnel hands over what its node acknowledges of the rules. end ends that.
	Acknowledge func(node identity.MachineID) (take func(acknowledgement []byte), end func())
	Proxy       string // the name of this proxy, which is in the attachments that nodes sign
	ProxyID     identity.MachineID
	Auth        *authrpc.Client
	Rules       Rules
	Now         func() time.Time // the clock; nil means time.Now
	Log         *slog.Logger
}

// Tunnels is the set of live tunnels. Its methods may be called by several goroutines at once.
type Tunnels struct {
	cfg           Config
	changed       chan struct{} // holds one token when a report is due
	pendingHellos limit.PerKey[identity.MachineID]

	mu sync.Mutex // guards the fields below; no other lock is taken while it is held
	// byID has the tunnels of each attached node, the newest last. No list is empty.
	byID map[identity.MachineID][]*nodeTunnel
	// byName has the id of the attached node with each name. claimName decides between two.
	byName map[string]identity.MachineID
}

// nodeTunnel is one tunnel of one node, an entry of the set.
type nodeTunnel struct {
	peer   identity.Peer // the node, as its certificate for this tunnel describes it
	tunnel *tunnel.Attached
}

// New makes an empty set. It starts nothing.
func New(cfg Config) *Tunnels {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Tunnels{
		cfg:     cfg,
		changed: make(chan struct{}, 1),
		byID:    map[identity.MachineID][]*nodeTunnel{},
		byName:  map[string]identity.MachineID{},
	}
}

// Attach takes over conn, a connection of the verified node, and exchanges the first messages of the tunnel
// protocol. It returns a function for the caller to run: the function adds the tunnel to the set and serves
// it until the tunnel or ctx ends. Attach returns nil when there is no tunnel; then it has logged why and
// closed conn.
func (t *Tunnels) Attach(ctx context.Context, conn net.Conn, node identity.Peer) (serve func()) {
	log := t.cfg.Log.With("node", node.Name, "id", node.ID, "from", conn.RemoteAddr())
	accepted, err := t.acceptTunnel(ctx, conn, node)
	switch {
	case errors.Is(err, tunnel.ErrNoGreeting):
		// The node looks for a further proxy, and found that it has a tunnel to this one.
		log.Debug("tunnel not needed", "err", err)
		return nil
	case err != nil:
		log.Warn("tunnel refused", "err", err)
		return nil
	}
	return func() {
		entry := &nodeTunnel{peer: node, tunnel: accepted}
		t.add(entry)
		log.Info("node attached", "version", accepted.Version(), "instance", accepted.Instance())
		err := t.pushRules(ctx, entry) // for as long as the tunnel is used
		t.remove(entry)                // before Close, so that no stream is opened over a closed tunnel
		accepted.Close()
		if err != nil {
			log = log.With("err", err)
		}
		log.Info("node detached")
	}
}

// acceptTunnel exchanges the first messages, and then returns the tunnel. It takes conn over, and closes it
// when it returns an error: also when maxPendingHellos other connections of this node wait for their first
// message.
func (t *Tunnels) acceptTunnel(
	ctx context.Context, conn net.Conn, node identity.Peer,
) (*tunnel.Attached, error) {
	if _, ok := t.pendingHellos.TryAcquire(node.ID, maxPendingHellos); !ok {
		conn.Close()
		return nil, errors.New("too many connections of this node are waiting for its first message")
	}
	defer t.pendingHellos.Release(node.ID)
	return tunnel.Accept(ctx, conn, node, tunnel.Proxy{
		ID:   t.cfg.ProxyID,
		Name: t.cfg.Proxy,
		Now:  t.cfg.Now,
		Refuse: func() *fault.Error {
			return t.locked(node.Identity)
		},
	})
}

// locked returns a fault with the lock that denies the node, or nil.
func (t *Tunnels) locked(node identity.Identity) *fault.Error {
	trust := t.cfg.Rules.Current()
	lock, ok := trust.Policy.Locks.MachineDenied(node.ID, trust.Now(t.cfg.Now()))
	if !ok {
		return nil
	}
	denial := lock.Denial("node " + node.Name)
	return nodeLocked.New("proxy.tunnels", fault.Args{"why": denial.Reason, "hint": denial.Remedy})
}

// pushRules sends the node each new version of the rules, and hands over what the node acknowledges of them.
// It returns when the tunnel is not used any more: when the tunnel or ctx ends, lockedDelay after the node
// was locked, or when the node's certificate has expired and no stream is open. The error says why the tunnel
// must end early; nil means that it has ended or is not needed.
func (t *Tunnels) pushRules(ctx context.Context, entry *nodeTunnel) error {
	pushes, stop := t.cfg.Rules.Subscribe()
	defer stop()
	takeAcknowledgement, end := t.cfg.Acknowledge(entry.peer.ID)
	defer end()
	var last tunnel.RulesPush // the present rules; nil before the first push
	expired := time.NewTimer(entry.peer.Expires.Sub(t.cfg.Now()))
	defer expired.Stop()
	var refusal *fault.Error      // by a lock; nil: there is none
	var lockEnds <-chan time.Time // set with refusal
	for {
		changed := t.cfg.Rules.Changed() // before the rules are read, so that no change is missed
		if refusal == nil {
			if refusal = t.locked(entry.peer.Identity); refusal != nil {
				t.remove(entry)
				lockEnds = time.After(lockedDelay)
			}
		}
		select {
		case <-lockEnds:
			return refusal
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		case <-entry.tunnel.Done():
			return nil
		case last = <-pushes:
			if err := entry.tunnel.PushRules(ctx, last); err != nil {
				return err
			}
		case acknowledgement := <-entry.tunnel.Acknowledged():
			takeAcknowledgement(acknowledgement)
		case <-entry.tunnel.RulesWanted():
			if last == nil {
				continue
			}
			if err := entry.tunnel.PushRules(ctx, last); err != nil {
				return err
			}
		case <-expired.C:
			// A node that has renewed its certificate attaches again. This tunnel gets no new streams, but
			// its open streams may go on: the node decides how long.
			t.remove(entry)
			if entry.tunnel.Streams() == 0 {
				return nil
			}
			expired.Reset(retirePoll)
		}
	}
}

// add makes entry the newest tunnel of its node, and closes the oldest if the node has more than maxPerNode.
func (t *Tunnels) add(entry *nodeTunnel) {
	t.mu.Lock()
	tunnels := append(t.byID[entry.peer.ID], entry)
	var oldest *nodeTunnel
	if len(tunnels) > maxPerNode {
		oldest, tunnels = tunnels[0], slices.Clone(tunnels[1:])
	}
	t.byID[entry.peer.ID] = tunnels
	t.claimName(entry)
	t.mu.Unlock()
	if oldest != nil {
		oldest.tunnel.Close() // it waits for a goroutine, so mu is not held
	}
	t.notify()
}

// remove takes entry out of the set. It does nothing when entry has been removed already.
func (t *Tunnels) remove(entry *nodeTunnel) {
	t.mu.Lock()
	defer t.mu.Unlock()
	old := t.byID[entry.peer.ID]
	left := slices.DeleteFunc(slices.Clone(old), func(other *nodeTunnel) bool { return other == entry })
	if len(left) == len(old) {
		return
	}
	if t.byID[entry.peer.ID] = left; len(left) == 0 {
		delete(t.byID, entry.peer.ID)
	}
	t.releaseName(entry)
	t.notify()
}

// notify asks Run for a report. It never blocks.
func (t *Tunnels) notify() {
	select {
	case t.changed <- struct{}{}:
	default:
	}
}

// claimName makes byName map the name in entry's certificate to entry's node, unless another attached node
// has the name by a younger certificate. The auth service gives no name to two nodes, but a removed node may
// still be attached when a new node gets its name; the new node has the younger certificate. The caller holds
// mu.
func (t *Tunnels) claimName(entry *nodeTunnel) {
	issued := func(e *nodeTunnel) time.Time { return e.peer.Cert.NotBefore }
	holder := t.byID[t.byName[entry.peer.Name]] // empty if no node has the name
	if len(holder) > 0 && issued(newest(holder)).After(issued(entry)) {
		return
	}
	t.byName[entry.peer.Name] = entry.peer.ID
}

// releaseName removes the name of entry from byName, unless another node has claimed it or another tunnel of
// the same node still has it. The caller holds mu.
func (t *Tunnels) releaseName(entry *nodeTunnel) {
	hasName := func(other *nodeTunnel) bool { return other.peer.Name == entry.peer.Name }
	if t.byName[entry.peer.Name] == entry.peer.ID && !slices.ContainsFunc(t.byID[entry.peer.ID], hasName) {
		delete(t.byName, entry.peer.Name)
	}
}

// Find returns the attached node with this exact name or id, as its newest certificate describes it, and
// false when there is none. If the string is the name of one node and the id of another, the name counts.
func (t *Tunnels) Find(node string) (access.Node, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	id := identity.MachineID(node)
	if holder, ok := t.byName[node]; ok {
		id = holder
	}
	tunnels := t.byID[id]
	if len(tunnels) == 0 {
		return access.Node{}, false
	}
	peer := newest(tunnels).peer
	return access.Node{ID: peer.ID, Name: peer.Name, Labels: peer.Labels}, true
}

// newest returns the newest of a node's tunnels. There is at least one.
func newest(tunnels []*nodeTunnel) *nodeTunnel { return tunnels[len(tunnels)-1] }

// Open opens a stream to the node over its newest tunnel, or over the next older one when that fails. It
// sends the header first. features is what the node understands. The error is a fault of kind Unavailable for
// a node without a tunnel, else that of the oldest tunnel.
func (t *Tunnels) Open(
	ctx context.Context, id identity.MachineID, header tunnel.Header,
) (conn net.Conn, features wire.Features, err error) {
	t.mu.Lock()
	tunnels := slices.Clone(t.byID[id])
	t.mu.Unlock()
	err = nodeJustGone.New("proxy.Open")
	for _, entry := range slices.Backward(tunnels) {
		if conn, err = entry.tunnel.Open(ctx, header); err == nil {
			return conn, entry.tunnel.Features(), nil
		}
	}
	return nil, nil, err
}

// attachedNodes lists every attached node with the attachment of its newest tunnel, sorted by id.
func (t *Tunnels) attachedNodes() []authrpc.AttachedNode {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := make([]authrpc.AttachedNode, 0, len(t.byID))
	for id, tunnels := range t.byID {
		a := newest(tunnels).tunnel
		out = append(out, authrpc.AttachedNode{Node: id, Attachment: a.Attachment(), Version: a.Version()})
	}
	slices.SortFunc(out, func(a, b authrpc.AttachedNode) int { return cmp.Compare(a.Node, b.Node) })
	return out
}
