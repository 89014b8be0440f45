// Package forward answers: what may pass through a connection besides its sessions, from where to where, and
// when does it end?
//
// It serves what a client forwards (RFC 4254 section 7, OpenSSH PROTOCOL section 2.4): connections from the
// node outwards, listeners on the node's loopback and in its file system, and the client's agent. Whether a
// person may was decided before, by package sshd, which also records it; what can be reached, the kernel
// decides by the rights of the account.
package forward

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/time/rate"

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/limit"
)

const (
	// maxOpenPerConnection and maxListenersPerConnection bound one connection: channels that are open or
	// being opened, and listeners.
	maxOpenPerConnection      = 256
	maxListenersPerConnection = 64
	// maxOpen and maxListeners bound this node; one client address may have up to a quarter of each.
	maxOpen      = 4096
	maxListeners = 512
	// auditBurst and auditRate (a second) bound how fast one connection makes events: what goes somewhere new
	// beyond them waits.
	auditBurst, auditRate = 256, 4
	// maxAudited is how many ways of one connection are kept in mind, so that each is recorded once; then all
	// are recorded anew.
	maxAudited = 4096
)

// Direction is a direction.
type Direction string

// The ways that something is forwarded.
const (
	Local  Direction = "local"  // from the client to what the node reaches: ssh -L, -D, -W
	Remote Direction = "remote" // from a listener on the node to the client: ssh -R
	Agent  Direction = "agent"  // from programs on the node to the client's ssh-agent: ssh -A
)

// Sockets does what must be done as the account that the client is logged in as. Unix sockets that it makes
// are removed at their end.
type Sockets interface {
	Dial(ctx context.Context, to netip.AddrPort) (net.Conn, error)
	Listen(at netip.AddrPort) (net.Listener, error)
	DialUnix(ctx context.Context, path string) (net.Conn, error)
	ListenUnix(ctx context.Context, path string) (net.Listener, error)
	ListenAgent(ctx context.Context) (net.Listener, error)
}

// Limits bounds what all connections of a node hold together.
type Limits struct{ open, listeners *limit.Quota }

// NewLimits makes the room of one node.
func NewLimits() *Limits {
	return &Limits{limit.NewQuota(maxOpen, maxOpen/4), limit.NewQuota(maxListeners, maxListeners/4)}
}

// Config is what the forwards of one connection need of it.
type Config struct {
	Limits *Limits
	// ClientAddr is the client's address.
	ClientAddr string
	// Client opens channels to the client.
	Client interface {
		OpenChannel(name string, extra []byte) (ssh.Channel, <-chan *ssh.Request, error)
	}
	// Sockets is asked for anew each time: it says no once the account is gone.
	Sockets func() (Sockets, error)
	// Permit says whether the rules still allow what a listener was allowed for. It is asked for everyone who
	// connects there.
	Permit func(Direction) error
	// Audit returns once it is on record that something goes this way to, or comes from, the target, as the
	// rule allows.
	Audit func(way Direction, target, rule string) error
	// OnData is told whenever the client sends data to what it forwarded. Nil: nobody wants to know.
	OnData func()
	// Guard runs what goes on beside the caller, and keeps its defects from ending the process. Nil: they end
	// it.
	Guard func(work func())
	// Resolve finds the addresses of a name. Nil means the machine's resolver.
	Resolve func(ctx context.Context, host string) ([]netip.Addr, error)
}

// Forwarder are those of one connection.
type Forwarder struct {
	cfg          Config
	auditLimiter *rate.Limiter // of events

	running sync.WaitGroup // listeners, and what came by them

	mu        sync.Mutex // guards what follows
	open      int
	listeners map[string]*listener
	audited   map[string]bool

	agentMu sync.Mutex // one agent is asked for at a time; taken before mu
	agent   *listener  // nil: none; guarded by asking
}

// New starts nothing. Close ends what was begun.
func New(cfg Config) *Forwarder {
	if cfg.Resolve == nil {
		cfg.Resolve = resolve
	}
	if cfg.OnData == nil {
		cfg.OnData = func() {}
	}
	if cfg.Guard == nil {
		cfg.Guard = func(work func()) { work() }
	}
	return &Forwarder{
		cfg:          cfg,
		auditLimiter: rate.NewLimiter(auditRate, auditBurst),
		listeners:    map[string]*listener{},
		audited:      map[string]bool{},
	}
}

// goGuarded runs work as one of a group.
func (f *Forwarder) goGuarded(group *sync.WaitGroup, work func()) {
	group.Go(func() { f.cfg.Guard(work) })
}

// Close ends every listener and waits for what came by them, which must have been told to end by its context.
func (f *Forwarder) Close() {
	f.mu.Lock()
	var all []*listener
	for _, l := range f.listeners {
		all = append(all, l)
	}
	f.mu.Unlock()
	f.agentMu.Lock()
	if f.agent != nil {
		all = append(all, f.agent)
	}
	f.agentMu.Unlock()
	for _, l := range all {
		l.close()
	}
	f.running.Wait()
}

// OpenCount counts the channels that are open, or being opened.
func (f *Forwarder) OpenCount() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.open
}

// Acquire takes a place for one channel, to be had before Direct is called.
func (f *Forwarder) Acquire() (leave func(), err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.open >= maxOpenPerConnection {
		return nil, fault.New(
			fault.Exhausted,
			"node",
			fmt.Sprintf("this connection has %d forwarded connections already", f.open),
			"end some, or open a new connection",
		)
	}
	free, ok := f.cfg.Limits.open.TryAcquire(f.cfg.ClientAddr)
	if !ok {
		return nil, fault.New(
			fault.Exhausted,
			"node",
			"this node forwards as many connections as it can",
			"try again later",
		)
	}
	f.open++
	return sync.OnceFunc(func() {
		free()
		f.mu.Lock()
		defer f.mu.Unlock()
		f.open--
	}), nil
}

// audit makes sure that each way to each target is on record once, and holds up a connection that finds ever
// new ones.
func (f *Forwarder) audit(ctx context.Context, way Direction, target, rule string) error {
	key := string(way) + " " + target
	f.mu.Lock()
	known := f.audited[key]
	f.mu.Unlock()
	if known {
		return nil
	}
	if err := f.auditLimiter.Wait(ctx); err != nil {
		return fault.Wrap(
			err,
			fault.Exhausted,
			"node",
			"this connection reaches for too many places at once",
			"go on more slowly",
		)
	}
	if err := f.cfg.Audit(way, target, rule); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.audited) >= maxAudited {
		clear(f.audited)
	}
	f.audited[key] = true
	return nil
}

// RejectionReason is the reason to give for not opening a channel (RFC 4254 section 5.1).
func RejectionReason(err error) ssh.RejectionReason {
	switch {
	case fault.Is(err, fault.Denied):
		return ssh.Prohibited
	case fault.Is(err, fault.Exhausted):
		return ssh.ResourceShortage
	}
	return ssh.ConnectionFailed
}

// resolveTimeout and dialTimeout bound the search for a name's addresses, and the connect to the first that
// answers.
const (
	resolveTimeout = 10 * time.Second
	dialTimeout    = 20 * time.Second
)
