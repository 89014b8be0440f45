// Package forward answers: what may pass through a connection besides its sessions, from where to where, and
// when does it end?
//
// It serves what a client forwards (RFC 4254 section 7, OpenSSH PROTOCOL section 2.4): connections from the
// node to others, listeners on the node's loopback addresses and in its file system, and the client's SSH
// agent. Package sshd decides whether a user may forward, and audits it. The kernel decides what can be
// reached, by the rights of the account.
package forward

import (
	"context"
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
	// maxOpenPerConnection and maxListenersPerConnection bound one connection: its channels that are open or
	// being opened, and its listeners.
	maxOpenPerConnection      = 256
	maxListenersPerConnection = 64
	// maxOpen and maxListeners bound this node. One client network may have up to a quarter of each.
	maxOpen      = 4096
	maxListeners = 512
	// auditBurst and auditRate (a second) bound the audit events of one connection. Beyond them a forward to
	// a new target waits.
	auditBurst, auditRate = 256, 4
	// maxAudited is how many targets of one connection are remembered, so that each is audited only once.
	// When it is reached they are forgotten, and every target is audited again at its next use.
	maxAudited = 4096
	// resolveTimeout and dialTimeout bound the lookup of a name, and the attempts to connect to all of its
	// addresses.
	resolveTimeout = 10 * time.Second
	dialTimeout    = 20 * time.Second
)

// Direction says who opens the forwarded connections.
type Direction string

const (
	Local  Direction = "local"  // the client, to what the node reaches: ssh -L, -D, -W
	Remote Direction = "remote" // programs that connect to a listener on the node, to the client: ssh -R
	Agent  Direction = "agent"  // programs on the node, to the client's SSH agent: ssh -A
)

// Sockets opens sockets with the rights of the account that the client is logged in as. Closing a listener
// removes the Unix socket that was made for it.
type Sockets interface {
	Dial(ctx context.Context, to netip.AddrPort) (net.Conn, error)
	Listen(at netip.AddrPort) (net.Listener, error)
	DialUnix(ctx context.Context, path string) (net.Conn, error)
	ListenUnix(ctx context.Context, path string) (net.Listener, error)
	ListenAgent(ctx context.Context) (net.Listener, error)
}

// Limits bounds what all connections of a node hold together.
type Limits struct{ open, listeners *limit.Quota }

// NewLimits returns the limits of one node.
func NewLimits() *Limits {
	return &Limits{limit.NewQuota(maxOpen, maxOpen/4), limit.NewQuota(maxListeners, maxListeners/4)}
}

// Config is what the forwards of one connection need from it.
type Config struct {
	Limits *Limits
	// ClientAddr is the client's address and port; quotas count by its network.
	ClientAddr string
	// Client opens channels to the client.
	Client interface {
		OpenChannel(name string, extra []byte) (ssh.Channel, <-chan *ssh.Request, error)
	}
	// Sockets is called for each forward. It returns an error once the account may not be used any more.
	Sockets func() (Sockets, error)
	// Admit returns an error if the rules do not allow forwards in this direction now. It is called for each
	// connection to a listener, because the rules may have changed since the listener was allowed. The
	// connection ends when allowed ends, because the rules do not allow it any more. closed is called when it
	// has ended.
	Admit func(Direction) (allowed context.Context, closed func(), err error)
	// Audit records that the rule allowed a forward to or from the target, and returns when the event is
	// durable. Nothing is forwarded before that. If it returns an error, nothing is forwarded at all.
	Audit func(direction Direction, target, rule string) error
	// OnData is called whenever the client sends data to what it forwards. Nil: nothing is called.
	OnData func()
	// Guard calls the work of each goroutine and recovers a panic in it, so that the process goes on. Nil: a
	// panic ends the process.
	Guard func(work func())
	// Resolve returns the addresses of a name. Nil means the machine's resolver.
	Resolve func(ctx context.Context, host string) ([]netip.Addr, error)
}

// Forwarder serves the forwards of one connection. Its methods may be called concurrently.
//
// Lock order: agentMu, then mu. Neither is held while a forward's bytes are copied.
type Forwarder struct {
	cfg          Config
	auditLimiter *rate.Limiter

	// running counts the goroutines of listeners and of connections to them. Close waits for them; each ends
	// with its listener or with the context given to Listen or Agent. Direct runs on its caller's goroutine
	// and is not counted.
	running sync.WaitGroup

	mu        sync.Mutex // guards what follows
	open      int
	listeners map[string]*listener // by Target.String
	audited   map[string]bool      // direction and target

	agentMu sync.Mutex // guards agent; held while the agent's socket is made, so that there is only one
	agent   *listener  // nil: none
}

// New starts nothing. Close ends what the methods started.
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

// goGuarded runs work on a goroutine of the group.
func (f *Forwarder) goGuarded(group *sync.WaitGroup, work func()) {
	group.Go(func() { f.cfg.Guard(work) })
}

// Close closes every listener and waits for the connections to them. The caller must have ended the contexts
// of Listen and Agent before: those end the connections.
func (f *Forwarder) Close() {
	f.mu.Lock()
	var all []*listener
	for _, opened := range f.listeners {
		all = append(all, opened)
	}
	f.mu.Unlock()
	f.agentMu.Lock()
	if f.agent != nil {
		all = append(all, f.agent)
	}
	f.agentMu.Unlock()
	for _, opened := range all {
		opened.close()
	}
	f.running.Wait()
}

// OpenCount returns the number of channels that are open or being opened.
func (f *Forwarder) OpenCount() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.open
}

// Acquire counts one channel against the limits of the connection and of the node, until release is called;
// release may be called more than once. The caller calls it before Direct. The error is a fault of kind
// Exhausted.
func (f *Forwarder) Acquire() (release func(), err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.open >= maxOpenPerConnection {
		return nil, forwardConnectionFull.New("node", fault.Args{"count": f.open})
	}
	releaseQuota, ok := f.cfg.Limits.open.TryAcquire(f.cfg.ClientAddr)
	if !ok {
		return nil, forwardNodeFull.New("node")
	}
	f.open++
	return sync.OnceFunc(func() {
		releaseQuota()
		f.mu.Lock()
		defer f.mu.Unlock()
		f.open--
	}), nil
}

// audit makes sure that there is an audit event for forwards in this direction to this target. It calls
// Config.Audit only for targets that this connection has not used before, and for those it waits if they come
// faster than auditRate. After maxAudited targets it forgets them all, and audits each once more when it is
// used. Two goroutines that use a new target at the same time may both audit it. The error is a fault of kind
// Exhausted if ctx ends during that wait, or that of Config.Audit.
func (f *Forwarder) audit(ctx context.Context, direction Direction, target, rule string) error {
	key := string(direction) + " " + target
	f.mu.Lock()
	known := f.audited[key]
	f.mu.Unlock()
	if known {
		return nil
	}
	if err := f.auditLimiter.Wait(ctx); err != nil {
		return forwardTooFast.Wrap(err, "node")
	}
	if err := f.cfg.Audit(direction, target, rule); err != nil {
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

// RejectionReason returns the reason code for an error that keeps a channel from being opened (RFC 4254
// section 5.1).
func RejectionReason(err error) ssh.RejectionReason {
	switch {
	case fault.Is(err, fault.Denied):
		return ssh.Prohibited
	case fault.Is(err, fault.Exhausted):
		return ssh.ResourceShortage
	}
	return ssh.ConnectionFailed
}
