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
	// socksTime bounds the wait for a SOCKS request.
	socksTime = 10 * time.Second
	// dialTime bounds a connection to the target of -R on this side.
	dialTime = 30 * time.Second
	// maxRemoteConns bounds the connections that the node may have to this side at once. Programs there need
	// fewer, and this machine and its ssh-agent can serve that many.
	maxRemoteConns = 256
)

// Config says what is forwarded.
type Config struct {
	Local  []Rule // -L and -D
	Remote []Rule // -R
	Agent  string // -A: the socket of ssh-agent; empty: no agent is forwarded
	// Notify is called with each message for the user, from several goroutines. It must not be nil unless
	// nothing is started.
	Notify func(string)
}

// Forwarder forwards the connections of one SSH connection. The calls come in this order: New, Listen, Start,
// Close, Drain (if open connections are to end by themselves), then Wait once the SSH connection is closed.
type Forwarder struct {
	cfg       Config
	listeners []localListener
	accepting sync.WaitGroup // one goroutine for each listener, until Close
	conns     sync.WaitGroup // the goroutines of connections and channels, until the SSH connection ends

	connEnded   chan struct{} // has room for one; filled whenever a connection ends
	remoteSlots chan struct{} // has one element for each connection that the node has to this side

	mu         sync.Mutex // guards what follows; nothing else is locked or called while it is held
	ports      map[uint32]Rule
	paths      map[string]Rule
	open       int    // connections
	lastNotice string // the latest message of notify
}

// New returns a Forwarder. It starts nothing.
func New(cfg Config) *Forwarder {
	return &Forwarder{
		cfg:         cfg,
		ports:       map[uint32]Rule{},
		paths:       map[string]Rule{},
		connEnded:   make(chan struct{}, 1),
		remoteSlots: make(chan struct{}, maxRemoteConns),
	}
}

// localListener is a listener on this machine. to is where its connections lead on the node's side; the zero
// value means that the client says so in SOCKS.
type localListener struct {
	net.Listener
	to Addr
}

// Listen opens the listeners on this machine. If one cannot be opened, it closes the others and returns the
// error.
func (f *Forwarder) Listen() error {
	for _, rule := range f.cfg.Local {
		list, err := listen(rule.From)
		for _, l := range list {
			f.listeners = append(f.listeners, localListener{l, rule.To})
		}
		if err != nil {
			f.Close()
			return listenFault(rule.From, err)
		}
	}
	return nil
}

// listen returns the listeners for one address. A Unix socket has mode 0600. localhost gives two listeners,
// for both loopback addresses on the same port, so that no other program can answer on the second one;
// without IPv6 it gives one. If the port is in use on the second, it returns the first listener and an error:
// the caller closes it.
func listen(addr Addr) ([]net.Listener, error) {
	switch {
	case addr.Path != "":
		old := syscall.Umask(0o177)
		defer syscall.Umask(old)
		l, err := net.Listen("unix", addr.file())
		return single(l, err)
	case addr.Host != "localhost":
		l, err := net.Listen("tcp", net.JoinHostPort(addr.Host, fmt.Sprint(addr.Port)))
		return single(l, err)
	}
	v4, err := net.Listen("tcp4", fmt.Sprintf("127.0.0.1:%d", addr.Port))
	if err != nil {
		return nil, err
	}
	v6, err := net.Listen("tcp6", fmt.Sprintf("[::1]:%d", addr.Port))
	if errors.Is(err, syscall.EADDRINUSE) {
		return []net.Listener{v4}, err
	}
	if err != nil { // this machine has no IPv6
		return []net.Listener{v4}, nil
	}
	return []net.Listener{v4, v6}, nil
}

// single adapts the results of net.Listen to those of listen.
func single(l net.Listener, err error) ([]net.Listener, error) {
	if err != nil {
		return nil, err
	}
	return []net.Listener{l}, nil
}

// listenFault describes why the listener for -L or -D cannot be opened, with the remedy for the cause.
func listenFault(addr Addr, err error) error {
	msg := fmt.Sprintf("cannot listen on %s on this machine: %s", addr, fault.DescribeNetwork(err))
	switch {
	case errors.Is(err, syscall.EADDRINUSE) && addr.Path != "":
		hint := "if no program uses the socket any more: rm " + addr.Path
		return fault.Wrap(err, fault.Conflict, "", msg, hint)
	case errors.Is(err, syscall.EADDRINUSE):
		hint := "choose another port, or end the program that uses it"
		return fault.Wrap(err, fault.Conflict, "", msg, hint)
	case errors.Is(err, os.ErrPermission) && addr.Path == "":
		return fault.Wrap(err, fault.Denied, "", msg, "choose a port above 1023")
	}
	return fault.Wrap(err, fault.Invalid, "", msg, "choose an address of this machine")
}

// Addrs returns the addresses of the listeners on this machine.
func (f *Forwarder) Addrs() []net.Addr {
	var out []net.Addr
	for _, l := range f.listeners {
		out = append(out, l.Addr())
	}
	return out
}

// Close closes the listeners on this machine. Open connections continue. It may be called more than once.
func (f *Forwarder) Close() {
	for _, l := range f.listeners {
		_ = l.Close()
	}
}

// Open returns the number of forwarded connections.
func (f *Forwarder) Open() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.open
}

// Start serves the connections of both sides and requests the listeners on the node. It returns an error for
// the first listener that the node refuses.
func (f *Forwarder) Start(c *ssh.Client) error {
	if len(f.cfg.Remote) > 0 {
		f.handleChannels(c, "forwarded-tcpip", func(nc ssh.NewChannel) { f.serveRemote(nc, f.ruleForPort) })
		f.handleChannels(c, "forwarded-streamlocal@openssh.com", func(nc ssh.NewChannel) {
			f.serveRemote(nc, f.ruleForPath)
		})
	}
	if f.cfg.Agent != "" {
		f.handleChannels(c, "auth-agent@openssh.com", f.serveAgent)
	}
	for _, l := range f.listeners {
		f.accepting.Go(func() { f.accept(c, l) })
	}
	for _, rule := range f.cfg.Remote {
		if err := f.requestListener(c, rule); err != nil {
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

// Wait returns when all goroutines have ended. Close and the end of the SSH connection end them.
func (f *Forwarder) Wait() {
	f.accepting.Wait()
	f.conns.Wait()
}

// notify tells the user why a connection failed. It does not repeat the latest message, because programs such
// as browsers retry often.
func (f *Forwarder) notify(msg string) {
	f.mu.Lock()
	repeated := f.lastNotice == msg
	f.lastNotice = msg
	f.mu.Unlock()
	if !repeated {
		f.cfg.Notify(msg)
	}
}

// count adds an open connection. The caller calls done when the connection has ended.
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
