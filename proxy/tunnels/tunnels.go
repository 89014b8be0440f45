// Package tunnels answers: which way is there to that node?
//
// Each tunnel is one verified node's live connection. Newer tunnels of a node stand in front of older ones,
// which go on carrying what they carry; a tunnel whose certificate has ended takes nothing new. What is
// attached is reported to auth, as the nodes' own signed words, whenever it changes and before the lease
// ends.
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
	"github.com/threshold-access/threshold/internal/tunnel"
)

const (
	// maxPerNode bounds the tunnels of one node; one more ends the oldest.
	maxPerNode = 4
	// maxPendingHellos bounds the connections of one node that have not greeted yet: a stolen key must not
	// fill the port.
	maxPendingHellos = 8
	// retirePoll is how often a tunnel whose certificate has ended is looked at, whether its last session is
	// over.
	retirePoll = 10 * time.Second
)

// Rules is what tunnels hand on to nodes.
type Rules interface {
	Subscribe() (news <-chan tunnel.RulesPush, stop func())
}

// Config says what Tunnels need.
type Config struct {
	Proxy string           // this proxy's name, which nodes sign
	Auth  *authrpc.Client  // required
	Rules Rules            // required
	Now   func() time.Time // zero: time.Now
	Log   *slog.Logger     // required
}

// Tunnels holds the live ones. It is safe for concurrent use.
type Tunnels struct {
	cfg     Config
	changed chan struct{} // holds one token when auth should hear

	mu            sync.Mutex // guards what follows
	byID          map[identity.MachineID][]*attached
	byName        map[string]identity.MachineID
	pendingHellos map[identity.MachineID]int // who is greeting now, and how often
}

// attached is one tunnel to one node.
type attached struct {
	peer   identity.Peer
	tunnel *tunnel.Attached
}

// New makes an empty set.
func New(cfg Config) *Tunnels {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Tunnels{
		cfg:           cfg,
		changed:       make(chan struct{}, 1),
		byID:          map[identity.MachineID][]*attached{},
		byName:        map[string]identity.MachineID{},
		pendingHellos: map[identity.MachineID]int{},
	}
}

// Attach greets the node on its verified connection. It returns what keeps the tunnel until it ends or ctx
// does; nil if there is none. It takes conn over.
func (t *Tunnels) Attach(ctx context.Context, conn net.Conn, node identity.Peer) (serve func()) {
	log := t.cfg.Log.With("node", node.Name, "id", node.ID, "from", conn.RemoteAddr())
	end, err := t.acceptTunnel(ctx, conn, node)
	switch {
	case errors.Is(err, tunnel.ErrNoGreeting): // its tunnel to this proxy stands: this was a look for another one
		log.Debug("spare tunnel", "err", err)
		return nil
	case err != nil:
		log.Warn("tunnel refused", "err", err)
		return nil
	}
	return func() {
		w := &attached{peer: node, tunnel: end}
		t.add(w)
		log.Info("node attached", "version", end.Version())
		err := t.pushRules(ctx, w)
		t.remove(w)
		end.Close()
		if err != nil {
			log = log.With("err", err)
		}
		log.Info("node detached")
	}
}

// acceptTunnel greets the node, unless it is being greeted on many connections already.
func (t *Tunnels) acceptTunnel(
	ctx context.Context,
	conn net.Conn,
	node identity.Peer,
) (*tunnel.Attached, error) {
	t.mu.Lock()
	full := t.pendingHellos[node.ID] >= maxPendingHellos
	if !full {
		t.pendingHellos[node.ID]++
	}
	t.mu.Unlock()
	if full {
		conn.Close()
		return nil, errors.New("too many connections of this node are without a greeting")
	}
	defer func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.pendingHellos[node.ID]--; t.pendingHellos[node.ID] == 0 {
			delete(t.pendingHellos, node.ID)
		}
	}()
	return tunnel.Accept(ctx, conn, node, t.cfg.Proxy, t.cfg.Now)
}

// pushRules pushes rules until the tunnel, its certificate or ctx ends.
func (t *Tunnels) pushRules(ctx context.Context, w *attached) error {
	news, stop := t.cfg.Rules.Subscribe()
	defer stop()
	expired := time.NewTimer(w.peer.Expires.Sub(t.cfg.Now()))
	defer expired.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-w.tunnel.Done():
			return nil
		case n := <-news:
			if err := w.tunnel.PushRules(ctx, n); err != nil {
				return err
			}
		case <-expired.C:
			t.remove(w) // a node that has renewed attaches anew; what runs may end in peace
			if w.tunnel.Streams() == 0 {
				return nil
			}
			expired.Reset(retirePoll)
		}
	}
}

func (t *Tunnels) add(w *attached) {
	t.mu.Lock()
	ways := append(t.byID[w.peer.ID], w)
	var oldest *attached
	if len(ways) > maxPerNode {
		oldest, ways = ways[0], slices.Clone(ways[1:])
	}
	t.byID[w.peer.ID] = ways
	t.claimName(w)
	t.mu.Unlock()
	if oldest != nil {
		oldest.tunnel.Close()
	}
	t.notify()
}

func (t *Tunnels) remove(w *attached) {
	t.mu.Lock()
	defer t.mu.Unlock()
	old := t.byID[w.peer.ID]
	left := slices.DeleteFunc(slices.Clone(old), func(o *attached) bool { return o == w })
	if len(left) == len(old) {
		return
	}
	if t.byID[w.peer.ID] = left; len(left) == 0 {
		delete(t.byID, w.peer.ID)
	}
	t.releaseName(w)
	t.notify()
}

func (t *Tunnels) notify() {
	select {
	case t.changed <- struct{}{}:
	default:
	}
}

// claimName points the node's name at it. Auth gives no name to two nodes; after a removal the younger
// certificate is the right one.
func (t *Tunnels) claimName(w *attached) {
	holder := t.byID[t.byName[w.peer.Name]]
	if len(holder) == 0 || !newest(holder).peer.Cert.NotBefore.After(w.peer.Cert.NotBefore) {
		t.byName[w.peer.Name] = w.peer.ID
	}
}

// releaseName takes the name away once no tunnel of the node bears it.
func (t *Tunnels) releaseName(w *attached) {
	named := func(o *attached) bool { return o.peer.Name == w.peer.Name }
	if t.byName[w.peer.Name] == w.peer.ID && !slices.ContainsFunc(t.byID[w.peer.ID], named) {
		delete(t.byName, w.peer.Name)
	}
}

// Find returns the attached node of that whole name or id, as its newest certificate describes it.
func (t *Tunnels) Find(node string) (access.Node, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	id := identity.MachineID(node)
	if named, ok := t.byName[node]; ok {
		id = named
	}
	ways := t.byID[id]
	if len(ways) == 0 {
		return access.Node{}, false
	}
	n := newest(ways).peer
	return access.Node{ID: n.ID, Name: n.Name, Labels: n.Labels}, true
}

func newest(ways []*attached) *attached { return ways[len(ways)-1] }

// Open opens a session stream to the node by its newest tunnel, or an older one where that fails.
func (t *Tunnels) Open(ctx context.Context, id identity.MachineID, h tunnel.Header) (net.Conn, error) {
	t.mu.Lock()
	ways := slices.Clone(t.byID[id])
	t.mu.Unlock()
	err := error(
		fault.New(
			fault.Unavailable,
			"proxy.Open",
			"the node has just gone offline",
			"try again in a few seconds",
		),
	)
	for _, w := range slices.Backward(ways) {
		var conn net.Conn
		if conn, err = w.tunnel.Open(ctx, h); err == nil {
			return conn, nil
		}
	}
	return nil, err
}

// attachedNodes lists every node with its newest tunnel's evidence.
func (t *Tunnels) attachedNodes() []authrpc.AttachedNode {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := make([]authrpc.AttachedNode, 0, len(t.byID))
	for id, ways := range t.byID {
		w := newest(ways)
		out = append(
			out,
			authrpc.AttachedNode{Node: id, Attachment: w.tunnel.Attachment(), Version: w.tunnel.Version()},
		)
	}
	slices.SortFunc(out, func(a, b authrpc.AttachedNode) int { return cmp.Compare(a.Node, b.Node) })
	return out
}
