package forward

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/fault"
)

const (
	// acceptPause is the wait after a failed accept, for example without free descriptors.
	acceptPause = 100 * time.Millisecond
	// portTries is how many ports the kernel may choose until one is free on both loopback addresses.
	portTries = 8
)

// listener is what one request listens on: one socket, or two on the same port of both loopback addresses.
type listener struct {
	direction Direction
	sockets   []net.Listener
	release   func()        // returns its place in the quota
	done      chan struct{} // closed when no socket accepts connections any more
}

func (l *listener) close() {
	for _, ln := range l.sockets {
		_ = ln.Close()
	}
	l.release()
}

// ended reports whether the listener accepts no more connections, as when the account helper was killed.
func (l *listener) ended() bool {
	select {
	case <-l.done:
		return true
	default:
		return false
	}
}

// opener returns the name and the extra data of the channel to open for a connection to a listener.
type opener func(net.Conn) (name string, data []byte)

// Listen listens where the client asks and returns the data of the reply: the port, for a client that asked
// for any. Until ctx ends, each connection to the listener is forwarded to the client.
func (f *Forwarder) Listen(ctx context.Context, at Target, rule string) (reply []byte, err error) {
	sockets, err := f.cfg.Sockets()
	if err != nil {
		return nil, err
	}
	release, err := f.acquireListener()
	if err != nil {
		return nil, err
	}
	l := &listener{direction: Remote, release: release, done: make(chan struct{})}
	if err := f.listen(ctx, sockets, l, &at, rule); err != nil {
		release()
		return nil, err
	}
	f.mu.Lock()
	if old := f.listeners[at.String()]; old != nil {
		old.release() // a listener that ended by itself: the target would not have been free otherwise
	}
	f.listeners[at.String()] = l
	f.mu.Unlock()
	f.serveListener(ctx, l, func(conn net.Conn) (string, []byte) { return forwardedOpen(at, conn) })
	return ssh.Marshal(struct{ Port uint32 }{uint32(at.Port)}), nil
}

// listen audits the target and opens the sockets. It sets the port of at. A port is opened before it is
// audited, because the kernel may choose it; nothing is accepted until then.
func (f *Forwarder) listen(ctx context.Context, sockets Sockets, l *listener, at *Target, rule string) error {
	if at.Path != "" {
		if err := f.audit(ctx, Remote, at.String(), rule); err != nil {
			return err
		}
		ln, err := sockets.ListenUnix(ctx, at.Path)
		l.sockets = []net.Listener{ln}
		return socketFault(err, at.Path)
	}
	on, err := listenLoopback(sockets, at.Host, at.Port)
	if err != nil {
		return portFault(err, at.Port)
	}
	l.sockets = on
	at.Port = uint16(on[0].Addr().(*net.TCPAddr).Port)
	if err := f.audit(ctx, Remote, at.String(), rule); err != nil {
		for _, ln := range on {
			_ = ln.Close()
		}
		return err
	}
	return nil
}

// listenLoopback listens on loopback addresses only, whatever host was asked for, as OpenSSH's server does by
// default. An IPv4 or IPv6 address gets the loopback address of its family. Any other host gets both, because
// a program that connects to "localhost" may take either.
func listenLoopback(sockets Sockets, host string, port uint16) ([]net.Listener, error) {
	v4, v6 := netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()
	if a, err := netip.ParseAddr(host); err == nil {
		only := v6
		if a.Unmap().Is4() {
			only = v4
		}
		ln, err := sockets.Listen(netip.AddrPortFrom(only, port))
		return []net.Listener{ln}, err
	}
	for try := 1; ; try++ {
		on, err := listenBoth(sockets, v4, v6, port)
		if port != 0 || try == portTries || !errors.Is(err, syscall.EADDRINUSE) {
			return on, err
		}
	}
}

// listenBoth listens on the same port of two addresses. On a machine without IPv6 it listens on the first
// only.
func listenBoth(sockets Sockets, v4, v6 netip.Addr, port uint16) ([]net.Listener, error) {
	first, err := sockets.Listen(netip.AddrPortFrom(v4, port))
	if err != nil {
		return nil, err
	}
	second, err := sockets.Listen(netip.AddrPortFrom(v6, uint16(first.Addr().(*net.TCPAddr).Port)))
	switch {
	case err == nil:
		return []net.Listener{first, second}, nil
	case errors.Is(err, syscall.EADDRNOTAVAIL), errors.Is(err, syscall.EAFNOSUPPORT):
		return []net.Listener{first}, nil
	}
	_ = first.Close()
	return nil, err
}

// portFault explains why a port cannot be listened on.
func portFault(err error, port uint16) error {
	switch {
	case errors.Is(err, syscall.EACCES):
		return fault.Wrap(err, fault.Denied, "node",
			fmt.Sprintf("on this node, only root may listen on port %d", port), "use a port from 1024 on")
	case errors.Is(err, syscall.EADDRINUSE):
		return fault.Wrap(err, fault.Conflict, "node",
			fmt.Sprintf("on this node, port %d is in use", port), "use another port, or 0 for any")
	}
	return fault.Wrap(err, fault.Unavailable, "node",
		fmt.Sprintf("on this node, nothing can listen on port %d: %s", port, fault.DescribeNetwork(err)),
		"use another port, or 0 for any")
}

// Cancel closes a listener. Connections that it accepted go on.
func (f *Forwarder) Cancel(at Target) error {
	f.mu.Lock()
	l := f.listeners[at.String()]
	delete(f.listeners, at.String())
	f.mu.Unlock()
	if l == nil {
		return fault.New(fault.NotFound, "node",
			"this connection does not listen on "+at.String(), "name the address that was requested")
	}
	l.close()
	return nil
}

// Agent returns the path of a socket by which programs on the node reach the client's SSH agent. A connection
// has one such socket. It is made when it is first asked for, and again after it ended by itself.
func (f *Forwarder) Agent(ctx context.Context, rule string) (path string, err error) {
	f.agentMu.Lock()
	defer f.agentMu.Unlock()
	if f.agent != nil && !f.agent.ended() {
		return f.agent.sockets[0].Addr().String(), nil
	}
	sockets, err := f.cfg.Sockets()
	if err != nil {
		return "", err
	}
	if err := f.audit(ctx, Agent, string(Agent), rule); err != nil {
		return "", err
	}
	ln, err := sockets.ListenAgent(ctx)
	if err != nil {
		return "", fault.Wrap(err, fault.Internal, "node",
			"on this node, the socket for your SSH agent could not be made: "+fault.DescribeNetwork(err),
			"ask an administrator to look at the node's /tmp")
	}
	f.agent = &listener{
		direction: Agent,
		sockets:   []net.Listener{ln},
		release:   func() {}, // not counted: there is one for each connection at most
		done:      make(chan struct{}),
	}
	f.serveListener(ctx, f.agent, func(net.Conn) (string, []byte) { return agentChannel, nil })
	return ln.Addr().String(), nil
}

// acquireListener counts one listener against the limits of the connection and of the node.
func (f *Forwarder) acquireListener() (release func(), err error) {
	f.mu.Lock()
	n := len(f.listeners)
	f.mu.Unlock()
	if n >= maxListenersPerConnection {
		return nil, fault.New(fault.Exhausted, "node",
			fmt.Sprintf("this connection has %d listeners already", n),
			"cancel one, or open a new connection")
	}
	release, ok := f.cfg.Limits.listeners.TryAcquire(f.cfg.ClientAddr)
	if !ok {
		return nil, fault.New(fault.Exhausted, "node",
			"this node has reached its limit of listeners", "try again later")
	}
	return release, nil
}

// serveListener accepts connections until the sockets are closed, and then closes done.
func (f *Forwarder) serveListener(ctx context.Context, l *listener, open opener) {
	var loops sync.WaitGroup
	for _, ln := range l.sockets {
		f.goGuarded(&loops, func() { f.acceptLoop(ctx, l.direction, ln, open) })
	}
	f.running.Go(func() {
		loops.Wait()
		close(l.done)
	})
}

// acceptLoop ends when the socket is closed, when the account helper that holds it has ended, or during a
// pause when ctx ends.
func (f *Forwarder) acceptLoop(ctx context.Context, direction Direction, ln net.Listener, open opener) {
	for {
		conn, err := ln.Accept()
		if err == nil {
			f.goGuarded(&f.running, func() { f.forwardConn(ctx, direction, conn, open) })
			continue
		}
		if errors.Is(err, net.ErrClosed) || errors.Is(err, io.ErrUnexpectedEOF) {
			return
		}
		pause := time.NewTimer(acceptPause)
		select {
		case <-ctx.Done():
			pause.Stop()
			return
		case <-pause.C:
		}
	}
}

// forwardConn opens a channel to the client for an accepted connection, if the current rules still allow it.
func (f *Forwarder) forwardConn(ctx context.Context, direction Direction, conn net.Conn, open opener) {
	defer conn.Close()
	release, err := f.Acquire()
	if err != nil {
		return
	}
	defer release()
	if f.cfg.Permit(direction) != nil {
		return
	}
	name, data := open(conn)
	ch, reqs := f.openChannel(ctx, name, data)
	if ch == nil {
		return
	}
	if direction == Remote {
		ch = activityChannel{ch, f.cfg.OnData}
	}
	f.relay(ctx, ch, reqs, conn)
}

// openChannel opens a channel to the client. It returns nil if the client refuses, or once ctx ends.
func (f *Forwarder) openChannel(ctx context.Context, name string, data []byte) (
	ssh.Channel, <-chan *ssh.Request,
) {
	type opened struct {
		ch   ssh.Channel
		reqs <-chan *ssh.Request
	}
	answer := make(chan opened)
	go func() { // ends with the client's answer, or with the SSH connection at the latest
		ch, reqs, err := f.cfg.Client.OpenChannel(name, data)
		if err != nil {
			ch, reqs = nil, nil
		}
		select {
		case answer <- opened{ch, reqs}:
		case <-ctx.Done():
			if ch != nil {
				// Too late. Requests that nobody reads would block everything that comes over the SSH
				// connection, its end included.
				_ = ch.Close()
				ssh.DiscardRequests(reqs)
			}
		}
	}()
	select {
	case o := <-answer:
		return o.ch, o.reqs
	case <-ctx.Done():
		return nil, nil
	}
}

// forwardedOpen returns the channel that tells the client of a connection to a listener (RFC 4254 section
// 7.2). The listener's address is given as the client asked for it.
func forwardedOpen(at Target, conn net.Conn) (name string, data []byte) {
	if at.Path != "" {
		return forwardedStreamlocal, ssh.Marshal(struct{ Path, Reserved string }{at.Path, ""})
	}
	originHost, originPort := "127.0.0.1", 0
	if host, port, err := net.SplitHostPort(conn.RemoteAddr().String()); err == nil {
		originHost = host
		originPort, _ = strconv.Atoi(port) // the kernel's ports are numbers
	}
	return forwardedTCP, ssh.Marshal(struct {
		Host       string
		Port       uint32
		OriginHost string
		OriginPort uint32
	}{at.Host, uint32(at.Port), originHost, uint32(originPort)})
}
