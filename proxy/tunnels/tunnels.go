// Package tunnels answers: which way is there to that node?
//
// Each tunnel is one verified node's live connection. Newer tunnels of a node stand in front of older ones, which go on carrying what
// they carry; a tunnel whose certificate has ended takes nothing new. What is attached is reported to auth, as the nodes' own signed
// words, whenever it changes and before the lease ends.
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
	// maxGreetings bounds the connections of one node that have not greeted yet: a stolen key must not fill the port.
	maxGreetings = 8
	// retirePoll is how often a tunnel whose certificate has ended is looked at, whether its last session is over.
	retirePoll = 10 * time.Second
)

// Rules is what tunnels hand on to nodes.
type Rules interface {
	Follow() (news <-chan tunnel.News, stop func())
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

	mu     sync.Mutex // guards what follows
	byID   map[identity.NodeID][]*way
	byName map[string]identity.NodeID
	greets map[identity.NodeID]int // who is greeting now, and how often
}

// way is one tunnel to one node.
type way struct {
	node identity.Peer
	end  *tunnel.Attached
}

// New makes an empty set.
func New(cfg Config) *Tunnels {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Tunnels{cfg: cfg, changed: make(chan struct{}, 1), byID: map[identity.NodeID][]*way{}, byName: map[string]identity.NodeID{},
		greets: map[identity.NodeID]int{}}
}

// Attach greets the node on its verified connection. It returns what keeps the tunnel until it ends or ctx does; nil if there is none.
// It takes conn over.
func (t *Tunnels) Attach(ctx context.Context, conn net.Conn, node identity.Peer) (serve func()) {
	log := t.cfg.Log.With("node", node.Name, "id", node.ID, "from", conn.RemoteAddr())
	end, err := t.greet(ctx, conn, node)
	switch {
	case errors.Is(err, tunnel.ErrLeft): // its tunnel to this proxy stands: this was a look for another one
		log.Debug("spare tunnel", "err", err)
		return nil
	case err != nil:
		log.Warn("tunnel refused", "err", err)
		return nil
	}
	return func() {
		w := &way{node: node, end: end}
		t.add(w)
		log.Info("node attached", "version", end.Version())
		err := t.carry(ctx, w)
		t.remove(w)
		end.Close()
		if err != nil {
			log = log.With("err", err)
		}
		log.Info("node detached")
	}
}

// greet greets the node, unless it is being greeted on many connections already.
func (t *Tunnels) greet(ctx context.Context, conn net.Conn, node identity.Peer) (*tunnel.Attached, error) {
	t.mu.Lock()
	full := t.greets[node.ID] >= maxGreetings
	if !full {
		t.greets[node.ID]++
	}
	t.mu.Unlock()
	if full {
		conn.Close()
		return nil, errors.New("too many connections of this node are without a greeting")
	}
	defer func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.greets[node.ID]--; t.greets[node.ID] == 0 {
			delete(t.greets, node.ID)
		}
	}()
	return tunnel.Accept(ctx, conn, node, t.cfg.Proxy, t.cfg.Now)
}

// carry pushes rules until the tunnel, its certificate or ctx ends.
func (t *Tunnels) carry(ctx context.Context, w *way) error {
	news, stop := t.cfg.Rules.Follow()
	defer stop()
	expired := time.NewTimer(w.node.Expires.Sub(t.cfg.Now()))
	defer expired.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-w.end.Done():
			return nil
		case n := <-news:
			if err := w.end.PushRules(ctx, n); err != nil {
				return err
			}
		case <-expired.C:
			t.remove(w) // a node that has renewed attaches anew; what runs may end in peace
			if w.end.Streams() == 0 {
				return nil
			}
			expired.Reset(retirePoll)
		}
	}
}

func (t *Tunnels) add(w *way) {
	t.mu.Lock()
	ways := append(t.byID[w.node.ID], w)
	var oldest *way
	if len(ways) > maxPerNode {
		oldest, ways = ways[0], slices.Clone(ways[1:])
	}
	t.byID[w.node.ID] = ways
	t.name(w)
	t.mu.Unlock()
	if oldest != nil {
		oldest.end.Close()
	}
	t.tell()
}

func (t *Tunnels) remove(w *way) {
	t.mu.Lock()
	defer t.mu.Unlock()
	old := t.byID[w.node.ID]
	left := slices.DeleteFunc(slices.Clone(old), func(o *way) bool { return o == w })
	if len(left) == len(old) {
		return
	}
	if t.byID[w.node.ID] = left; len(left) == 0 {
		delete(t.byID, w.node.ID)
	}
	t.unname(w)
	t.tell()
}

func (t *Tunnels) tell() {
	select {
	case t.changed <- struct{}{}:
	default:
	}
}

// name points the node's name at it. Auth gives no name to two nodes; after a removal the younger certificate is the right one.
func (t *Tunnels) name(w *way) {
	holder := t.byID[t.byName[w.node.Name]]
	if len(holder) == 0 || !newest(holder).node.Cert.NotBefore.After(w.node.Cert.NotBefore) {
		t.byName[w.node.Name] = w.node.ID
	}
}

// unname takes the name away once no tunnel of the node bears it.
func (t *Tunnels) unname(w *way) {
	named := func(o *way) bool { return o.node.Name == w.node.Name }
	if t.byName[w.node.Name] == w.node.ID && !slices.ContainsFunc(t.byID[w.node.ID], named) {
		delete(t.byName, w.node.Name)
	}
}

// Find returns the attached node of that whole name or id, as its newest certificate describes it.
func (t *Tunnels) Find(node string) (access.Node, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	id := identity.NodeID(node)
	if named, ok := t.byName[node]; ok {
		id = named
	}
	ways := t.byID[id]
	if len(ways) == 0 {
		return access.Node{}, false
	}
	n := newest(ways).node
	return access.Node{ID: n.ID, Name: n.Name, Labels: n.Labels}, true
}

func newest(ways []*way) *way { return ways[len(ways)-1] }

// Open opens a session stream to the node by its newest tunnel, or an older one where that fails.
func (t *Tunnels) Open(ctx context.Context, id identity.NodeID, h tunnel.Header) (net.Conn, error) {
	t.mu.Lock()
	ways := slices.Clone(t.byID[id])
	t.mu.Unlock()
	err := error(fault.New(fault.Unavailable, "proxy.Open", "the node has just gone offline", "try again in a few seconds"))
	for _, w := range slices.Backward(ways) {
		var conn net.Conn
		if conn, err = w.end.Open(ctx, h); err == nil {
			return conn, nil
		}
	}
	return nil, err
}

// attached lists every node with its newest tunnel's evidence.
func (t *Tunnels) attached() []authrpc.AttachedNode {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := make([]authrpc.AttachedNode, 0, len(t.byID))
	for id, ways := range t.byID {
		w := newest(ways)
		out = append(out, authrpc.AttachedNode{Node: id, Attachment: w.end.Evidence(), Version: w.end.Version()})
	}
	slices.SortFunc(out, func(a, b authrpc.AttachedNode) int { return cmp.Compare(a.Node, b.Node) })
	return out
}
