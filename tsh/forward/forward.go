package forward

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/fault"
)

const (
	// socksTime bounds the wait for a SOCKS request, and dialTime the way to where -R leads on this side.
	socksTime = 10 * time.Second
	dialTime  = 30 * time.Second
	// maxRemoteConns is how many connections the node may have to this side at once: more than programs there
	// need, and few enough for this machine and its ssh-agent.
	maxRemoteConns = 256
)

// Config is what is to be forwarded.
type Config struct {
	Local  []Rule // -L and -D
	Remote []Rule // -R
	Agent  string // -A: the socket of ssh-agent; empty: none
	Notify func(string)
}

// Forwarder is what one SSH connection forwards.
type Forwarder struct {
	cfg         Config
	listeners   []localListener
	accepting   sync.WaitGroup
	conns       sync.WaitGroup
	connEnded   chan struct{} // has room for one; filled when a connection ends
	remoteSlots chan struct{} // one for each connection that the node has to this side

	mu         sync.Mutex // guards what follows
	ports      map[uint32]Rule
	paths      map[string]Rule
	open       int
	lastNotice string // the latest word about a connection that failed
}

// New takes the rules and starts nothing.
func New(cfg Config) *Forwarder {
	return &Forwarder{
		cfg:         cfg,
		ports:       map[uint32]Rule{},
		paths:       map[string]Rule{},
		connEnded:   make(chan struct{}, 1),
		remoteSlots: make(chan struct{}, maxRemoteConns),
	}
}

// localListener is a listener on this machine, for a rule.
type localListener struct {
	net.Listener
	to Addr
}

// Listen opens the listeners on this machine; the first that cannot be had ends it. Close closes them.
func (f *Forwarder) Listen() error {
	for _, r := range f.cfg.Local {
		list, err := listen(r.From)
		for _, l := range list {
			f.listeners = append(f.listeners, localListener{l, r.To})
		}
		if err != nil {
			f.Close()
			return listenFault(r.From, err)
		}
	}
	return nil
}

// listen opens the listeners of one address. A socket is its owner's alone. localhost is what programs
// understand by it: both loopbacks, as far as the machine has them, on one port, so that nobody else answers
// on the other.
func listen(a Addr) ([]net.Listener, error) {
	switch {
	case a.Path != "":
		old := syscall.Umask(0o177)
		defer syscall.Umask(old)
		l, err := net.Listen("unix", a.file())
		return one(l, err)
	case a.Host != "localhost":
		l, err := net.Listen("tcp", net.JoinHostPort(a.Host, fmt.Sprint(a.Port)))
		return one(l, err)
	}
	four, err := net.Listen("tcp4", fmt.Sprintf("127.0.0.1:%d", a.Port))
	if err != nil {
		return nil, err
	}
	six, err := net.Listen("tcp6", fmt.Sprintf("[::1]:%d", a.Port))
	if errors.Is(err, syscall.EADDRINUSE) {
		return []net.Listener{four}, err
	}
	if err != nil { // no IPv6 here
		return []net.Listener{four}, nil
	}
	return []net.Listener{four, six}, nil
}

func one(l net.Listener, err error) ([]net.Listener, error) {
	if err != nil {
		return nil, err
	}
	return []net.Listener{l}, nil
}

func listenFault(a Addr, err error) error {
	what := fmt.Sprintf("%s on this machine cannot be listened to: %s", a, fault.DescribeNetwork(err))
	switch {
	case errors.Is(err, syscall.EADDRINUSE) && a.Path != "":
		return fault.Wrap(err, fault.Conflict, "", what, "if nobody uses the socket any more: rm "+a.Path)
	case errors.Is(err, syscall.EADDRINUSE):
		return fault.Wrap(
			err,
			fault.Conflict,
			"",
			what,
			"choose another port, or end the program that has it",
		)
	case errors.Is(err, os.ErrPermission) && a.Path == "":
		return fault.Wrap(err, fault.Denied, "", what, "choose a port above 1023")
	}
	return fault.Wrap(err, fault.Invalid, "", what, "choose an address of this machine")
}

// Addrs are the addresses on this machine that are listened to.
func (f *Forwarder) Addrs() []net.Addr {
	var out []net.Addr
	for _, l := range f.listeners {
		out = append(out, l.Addr())
	}
	return out
}

// Close closes the listeners on this machine. Connections go on.
func (f *Forwarder) Close() {
	for _, l := range f.listeners {
		_ = l.Close()
	}
}

// Open is how many forwarded connections there are.
func (f *Forwarder) Open() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.open
}

// Start serves the connections of both sides, and asks the node for the remote listeners: the first that it
// refuses is the error.
func (f *Forwarder) Start(c *ssh.Client) error {
	if len(f.cfg.Remote) > 0 {
		f.handleChannels(c, "forwarded-tcpip", func(nc ssh.NewChannel) { f.serveRemote(nc, f.forPort) })
		f.handleChannels(
			c,
			"forwarded-streamlocal@openssh.com",
			func(nc ssh.NewChannel) { f.serveRemote(nc, f.forPath) },
		)
	}
	if f.cfg.Agent != "" {
		f.handleChannels(c, "auth-agent@openssh.com", f.serveAgent)
	}
	for _, l := range f.listeners {
		f.accepting.Go(func() { f.accept(c, l) })
	}
	for _, r := range f.cfg.Remote {
		if err := f.requestListener(c, r); err != nil {
			return err
		}
	}
	return nil
}

// Drain waits, after Close, until no forwarded connection is open or ctx ends.
func (f *Forwarder) Drain(ctx context.Context) {
	for f.Open() > 0 {
		select {
		case <-f.connEnded:
		case <-ctx.Done():
			return
		}
	}
}

// Wait waits, once listeners and the SSH connection are closed, until all has ended.
func (f *Forwarder) Wait() {
	f.accepting.Wait()
	f.conns.Wait()
}

// notify says why a connection failed, but not again and again: a browser tries often.
func (f *Forwarder) notify(what string) {
	f.mu.Lock()
	again := f.lastNotice == what
	f.lastNotice = what
	f.mu.Unlock()
	if !again {
		f.cfg.Notify(what)
	}
}

// count keeps the number of open connections: call what it returns at the end of one.
func (f *Forwarder) count() (done func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.open++
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.open--
		select {
		case f.connEnded <- struct{}{}:
		default:
		}
	}
}
