// Package tunnels answers: through which tunnel is that node reached?
//
// A tunnel is the live connection of one verified node. A node may have several: streams are opened over
// the newest, and older ones stay open for the streams they carry. A tunnel whose certificate has expired
// takes no new streams. The package reports which nodes are attached to the auth service, as attachments
// that the nodes have signed, after each change and before the lease of the last report ends.
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
	"github.com/threshold-access/threshold/internal/tunnel"
)

const (
	// maxPerNode is how many tunnels a node may have. One more closes the oldest.
	maxPerNode = 4
	// maxPendingHellos is how many connections of a node may be waiting for the node's first message. It
	// keeps a stolen key from using up the connections of the proxy.
	maxPendingHellos = 8
	// retirePoll is how often a tunnel with an expired certificate is checked for open streams.
	retirePoll = 10 * time.Second
)

// Rules is where tunnels get the rules for their nodes.
type Rules interface {
	// Subscribe returns a channel with the present rules and then each newer version. stop ends the
	// subscription.
	Subscribe() (pushes <-chan tunnel.RulesPush, stop func())
}

// Config says what Tunnels needs. Every field is required, except Now.
type Config struct {
	Proxy string // the name of this proxy, which is in the attachments that nodes sign
	Auth  *authrpc.Client
	Rules Rules
	Now   func() time.Time // the clock; nil means time.Now
	Log   *slog.Logger
}

// Tunnels is the set of live tunnels. Its methods may be called by several goroutines at once.
type Tunnels struct {
	cfg           Config
	changed       chan struct{} // holds one token when a report is due
	pendingHellos limit.PerKey[identity.MachineID]

	mu sync.Mutex // guards the fields below; no other lock is taken while it is held
	// byID has the tunnels of each attached node, the newest last. No entry is empty.
	byID map[identity.MachineID][]*attached
	// byName has the node that each name leads to.
	byName map[string]identity.MachineID
}

// attached is one tunnel of one node.
type attached struct {
	peer   identity.Peer // as the certificate of this tunnel describes the node
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
		byID:    map[identity.MachineID][]*attached{},
		byName:  map[string]identity.MachineID{},
	}
}

// Attach exchanges the first messages with the node on its verified connection, which it takes over. It
// returns a function that serves the tunnel until the tunnel or ctx ends, or nil when there is no tunnel.
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
		a := &attached{peer: node, tunnel: accepted}
		t.add(a)
		log.Info("node attached", "version", accepted.Version())
		err := t.pushRules(ctx, a)
		t.remove(a)
		accepted.Close()
		if err != nil {
			log = log.With("err", err)
		}
		log.Info("node detached")
	}
}

// acceptTunnel exchanges the first messages. It closes conn instead when too many connections of the node
// have not got that far.
func (t *Tunnels) acceptTunnel(
	ctx context.Context, conn net.Conn, node identity.Peer,
) (*tunnel.Attached, error) {
	if _, ok := t.pendingHellos.TryAcquire(node.ID, maxPendingHellos); !ok {
		conn.Close()
		return nil, errors.New("too many connections of this node are waiting for its first message")
	}
	defer t.pendingHellos.Release(node.ID)
	return tunnel.Accept(ctx, conn, node, t.cfg.Proxy, t.cfg.Now)
}

// pushRules sends rules to the node until the tunnel or ctx ends, or the certificate has expired and no
// stream is open.
func (t *Tunnels) pushRules(ctx context.Context, a *attached) error {
	pushes, stop := t.cfg.Rules.Subscribe()
	defer stop()
	expired := time.NewTimer(a.peer.Expires.Sub(t.cfg.Now()))
	defer expired.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-a.tunnel.Done():
			return nil
		case push := <-pushes:
			if err := a.tunnel.PushRules(ctx, push); err != nil {
				return err
			}
		case <-expired.C:
			// A node that has renewed its certificate attaches again. Streams of this tunnel may go on.
			t.remove(a)
			if a.tunnel.Streams() == 0 {
				return nil
			}
			expired.Reset(retirePoll)
		}
	}
}

// add makes a the newest tunnel of its node.
func (t *Tunnels) add(a *attached) {
	t.mu.Lock()
	tunnels := append(t.byID[a.peer.ID], a)
	var oldest *attached
	if len(tunnels) > maxPerNode {
		oldest, tunnels = tunnels[0], slices.Clone(tunnels[1:])
	}
	t.byID[a.peer.ID] = tunnels
	t.claimName(a)
	t.mu.Unlock()
	if oldest != nil {
		oldest.tunnel.Close()
	}
	t.notify()
}

// remove takes a out of the set. It does nothing when a has been removed already.
func (t *Tunnels) remove(a *attached) {
	t.mu.Lock()
	defer t.mu.Unlock()
	old := t.byID[a.peer.ID]
	left := slices.DeleteFunc(slices.Clone(old), func(other *attached) bool { return other == a })
	if len(left) == len(old) {
		return
	}
	if t.byID[a.peer.ID] = left; len(left) == 0 {
		delete(t.byID, a.peer.ID)
	}
	t.releaseName(a)
	t.notify()
}

// notify asks Run for a report. It never blocks.
func (t *Tunnels) notify() {
	select {
	case t.changed <- struct{}{}:
	default:
	}
}

// claimName lets the name of a's node lead to that node. The auth service gives no name to two nodes, but a
// removed node may still be attached when a new one gets its name: the younger certificate wins. The caller
// holds mu.
func (t *Tunnels) claimName(a *attached) {
	holder := t.byID[t.byName[a.peer.Name]]
	if len(holder) == 0 || !newest(holder).peer.Cert.NotBefore.After(a.peer.Cert.NotBefore) {
		t.byName[a.peer.Name] = a.peer.ID
	}
}

// releaseName forgets the name of a's node once none of its tunnels has that name. The caller holds mu.
func (t *Tunnels) releaseName(a *attached) {
	hasName := func(other *attached) bool { return other.peer.Name == a.peer.Name }
	if t.byName[a.peer.Name] == a.peer.ID && !slices.ContainsFunc(t.byID[a.peer.ID], hasName) {
		delete(t.byName, a.peer.Name)
	}
}

// Find returns the attached node with this exact name or id, as its newest certificate describes it. A name
// takes precedence over an id.
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
	n := newest(tunnels).peer
	return access.Node{ID: n.ID, Name: n.Name, Labels: n.Labels}, true
}

func newest(tunnels []*attached) *attached { return tunnels[len(tunnels)-1] }

// Open opens a stream to the node over its newest tunnel, or over the next older one when that fails. The
// header is sent first.
func (t *Tunnels) Open(ctx context.Context, id identity.MachineID, h tunnel.Header) (net.Conn, error) {
	t.mu.Lock()
	tunnels := slices.Clone(t.byID[id])
	t.mu.Unlock()
	err := error(fault.New(fault.Unavailable, "proxy.Open",
		"the node has just gone offline", "try again in a few seconds"))
	for _, a := range slices.Backward(tunnels) {
		var conn net.Conn
		if conn, err = a.tunnel.Open(ctx, h); err == nil {
			return conn, nil
		}
	}
	return nil, err
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
