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
	// maxRemoteConns bounds the connections that the node may open to this side at once, by -R and -A. A
	// node's programs need fewer, and this machine and its ssh-agent can serve that many.
	maxRemoteConns = 256
)

// Config says what is forwarded.
type Config struct {
	Local  []Rule // -L and -D
	Remote []Rule // -R
	Agent  string // -A: the socket of ssh-agent; empty: no agent is forwarded
	// Notify is called with each message for the user, from several goroutines. It may be nil only if Start
	// is not called.
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

	mu         sync.Mutex      // guards the next fields; nothing else is locked or called while it is held
	ports      map[uint32]Rule // -R by port of the listener on the node
	paths      map[string]Rule // -R by path of the listener on the node
	open       int             // forwarded connections
	lastNotice string          // the latest message of notify
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

// Listen opens the listeners on this machine, for -L and -D. They accept connections, which wait until Start.
// If a listener cannot be opened, Listen closes all and returns a fault: see listenFault.
func (f *Forwarder) Listen() error {
	for _, rule := range f.cfg.Local {
		listeners, err := listen(rule.From)
		if err != nil {
			f.Close()
			return listenFault(rule.From, err)
		}
		for _, l := range listeners {
			f.listeners = append(f.listeners, localListener{l, rule.To})
		}
	}
	return nil
}

// listen opens the listeners for one address and returns them: one, or two for localhost. localhost means
// both loopback addresses, 127.0.0.1 and ::1, on the same port: on an address without a listener of tsh
// another program could answer in its place. Without IPv6 on this machine it is one listener. A Unix socket
// gets mode
// 0600. On an error no listener stays open.
func listen(addr Addr) ([]net.Listener, error) {
	switch {
	case addr.Path != "":
		// The umask, not a chmod afterwards, sets the mode: no other user can connect even for a moment.
		previous := syscall.Umask(0o177)
		defer syscall.Umask(previous)
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
		_ = v4.Close()
		return nil, err
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

// listenFault returns the fault for err, the error of opening the listener of -L or -D on addr: Conflict if
// the address is in use, Denied for a port that needs privileges, else Invalid.
func listenFault(addr Addr, err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE) && addr.Path != "":
		return forwardSocketUsed.Wrap(err, "", fault.Args{
			"address": addr,
			"why":     fault.DescribeNetwork(err),
			"path":    addr.Path,
		})
	case errors.Is(err, syscall.EADDRINUSE):
		return forwardPortUsed.Wrap(err, "", fault.Args{"address": addr, "why": fault.DescribeNetwork(err)})
	case errors.Is(err, os.ErrPermission) && addr.Path == "":
		return forwardPortPrivileged.Wrap(err, "", fault.Args{
			"address": addr,
			"why":     fault.DescribeNetwork(err),
		})
	}
	return forwardAddressUnusable.Wrap(err, "", fault.Args{
		"address": addr,
		"why":     fault.DescribeNetwork(err),
	})
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

// Start starts the goroutines that serve connections from this machine and channels from the node, and then
// requests the listeners on the node. It does not wait for connections. It returns the fault for the first
// listener that the node refuses; then the caller closes the SSH connection, which ends the goroutines.
func (f *Forwarder) Start(client *ssh.Client) error {
	// The handlers come before the requests, because a connection may arrive before the answer. A type of
	// channel that the user did not ask for has no handler, so x/crypto/ssh rejects it.
	if len(f.cfg.Remote) > 0 {
		f.handleChannels(client, "forwarded-tcpip", func(nc ssh.NewChannel) {
			f.serveRemote(nc, f.ruleForPort)
		})
		f.handleChannels(client, "forwarded-streamlocal@openssh.com", func(nc ssh.NewChannel) {
			f.serveRemote(nc, f.ruleForPath)
		})
	}
	if f.cfg.Agent != "" {
		f.handleChannels(client, "auth-agent@openssh.com", f.serveAgent)
	}
	for _, l := range f.listeners {
		f.accepting.Go(func() { f.accept(client, l) })
	}
	for _, rule := range f.cfg.Remote {
		if err := f.requestListener(client, rule); err != nil {
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

// countOpen counts a connection as open until the caller calls done, which it must do once.
func (f *Forwarder) countOpen() (done func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.open++
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.open--
		select {
		case f.connEnded <- struct{}{}:
		default: // Drain has not read the last signal yet; one is enough
		}
	}
}
