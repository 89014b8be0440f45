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
	// acceptPause is the wait after an accept that failed, as it does without free descriptors.
	acceptPause = 100 * time.Millisecond
	// portTries is how often a free port is looked for that is free for both kinds of addresses.
	portTries = 8
)

// listener is one listener, or two on the same port of both loopback addresses.
type listener struct {
	direction Direction
	sockets   []net.Listener
	release   func()
	done      chan struct{} // closed when nobody can come any more
}

func (l *listener) close() {
	for _, ln := range l.sockets {
		_ = ln.Close()
	}
	l.release()
}

// ended reports whether nobody can come any more, though nobody has closed it.
func (l *listener) ended() bool {
	select {
	case <-l.done:
		return true
	default:
		return false
	}
}

// Listen begins to listen where the client asks for it and returns the reply's data: the port, where the
// client left the choice to us. Until ctx ends, whoever connects there is connected to the client.
func (f *Forwarder) Listen(ctx context.Context, at Target, rule string) (reply []byte, err error) {
	as, err := f.cfg.Sockets()
	if err != nil {
		return nil, err
	}
	leave, err := f.acquireListener()
	if err != nil {
		return nil, err
	}
	l := &listener{direction: Remote, release: leave, done: make(chan struct{})}
	if err := f.listen(ctx, as, l, &at, rule); err != nil {
		leave()
		return nil, err
	}
	f.mu.Lock()
	if old := f.listeners[at.String()]; old != nil {
		old.release() // of a socket whose listener ended by itself, or the path would not have been free
	}
	f.listeners[at.String()] = l
	f.mu.Unlock()
	f.serveListener(ctx, l, func(conn net.Conn) (string, []byte) { return forwardedOpen(at, conn) })
	return ssh.Marshal(struct{ Port uint32 }{uint32(at.Port)}), nil
}

// listen records the target and listens there; at gets the port.
func (f *Forwarder) listen(ctx context.Context, as Sockets, l *listener, at *Target, rule string) error {
	if at.Path != "" {
		if err := f.audit(ctx, Remote, at.String(), rule); err != nil {
			return err
		}
		ln, err := as.ListenUnix(ctx, at.Path)
		l.sockets = []net.Listener{ln}
		return socketFault(err, at.Path)
	}
	on, err := listenLoopback(as, at.Host, at.Port)
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

// listenLoopback listens on this machine's loopback addresses, whatever address was asked for, as OpenSSH's
// server does by default. An address of one kind gets the loopback of that kind, everything else both: what
// connects to "localhost" may take either.
func listenLoopback(as Sockets, host string, port uint16) ([]net.Listener, error) {
	v4, v6 := netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()
	if a, err := netip.ParseAddr(host); err == nil {
		if a.Unmap().Is4() {
			v6 = netip.Addr{}
		} else {
			v4 = netip.Addr{}
		}
	}
	if !v4.IsValid() || !v6.IsValid() {
		if !v4.IsValid() {
			v4 = v6
		}
		ln, err := as.Listen(netip.AddrPortFrom(v4, port))
		return []net.Listener{ln}, err
	}
	for try := 1; ; try++ {
		on, err := listenBoth(as, v4, v6, port)
		if port != 0 || try == portTries || !errors.Is(err, syscall.EADDRINUSE) {
			return on, err
		}
	}
}

// listenBoth listens on the same port of two addresses; a machine without IPv6 has the first alone.
func listenBoth(as Sockets, v4, v6 netip.Addr, port uint16) ([]net.Listener, error) {
	first, err := as.Listen(netip.AddrPortFrom(v4, port))
	if err != nil {
		return nil, err
	}
	second, err := as.Listen(netip.AddrPortFrom(v6, uint16(first.Addr().(*net.TCPAddr).Port)))
	switch {
	case err == nil:
		return []net.Listener{first, second}, nil
	case errors.Is(err, syscall.EADDRNOTAVAIL), errors.Is(err, syscall.EAFNOSUPPORT):
		return []net.Listener{first}, nil
	}
	_ = first.Close()
	return nil, err
}

// portFault says why a port cannot be had.
func portFault(err error, port uint16) error {
	switch {
	case errors.Is(err, syscall.EACCES):
		return fault.Wrap(
			err,
			fault.Denied,
			"node",
			fmt.Sprintf("on this node, only root may listen on port %d", port),
			"use a port from 1024 on",
		)
	case errors.Is(err, syscall.EADDRINUSE):
		return fault.Wrap(
			err,
			fault.Conflict,
			"node",
			fmt.Sprintf("on this node, port %d is in use", port),
			"use another port, or 0 for any",
		)
	}
	return fault.Wrap(
		err,
		fault.Unavailable,
		"node",
		fmt.Sprintf("on this node, nothing can listen on port %d: %s", port, fault.DescribeNetwork(err)),
		"use another port, or 0 for any",
	)
}

// Cancel ends a listener. What came by it goes on.
func (f *Forwarder) Cancel(at Target) error {
	f.mu.Lock()
	l := f.listeners[at.String()]
	delete(f.listeners, at.String())
	f.mu.Unlock()
	if l == nil {
		return fault.New(
			fault.NotFound,
			"node",
			"this connection does not listen on "+at.String(),
			"name what was asked for",
		)
	}
	l.close()
	return nil
}

// Agent gives the path of a socket by which programs on the node reach the client's agent: one for the
// connection, made when it is first asked for.
func (f *Forwarder) Agent(ctx context.Context, rule string) (path string, err error) {
	f.agentMu.Lock()
	defer f.agentMu.Unlock()
	if f.agent != nil && !f.agent.ended() {
		return f.agent.sockets[0].Addr().String(), nil
	}
	as, err := f.cfg.Sockets()
	if err != nil {
		return "", err
	}
	if err := f.audit(ctx, Agent, string(Agent), rule); err != nil {
		return "", err
	}
	ln, err := as.ListenAgent(ctx)
	if err != nil {
		return "", fault.Wrap(
			err,
			fault.Internal,
			"node",
			"on this node, no socket for your agent could be made: "+fault.DescribeNetwork(err),
			"ask an administrator to look at the node's /tmp",
		)
	}
	f.agent = &listener{
		direction: Agent,
		sockets:   []net.Listener{ln},
		release:   func() {},
		done:      make(chan struct{}),
	}
	f.serveListener(ctx, f.agent, func(net.Conn) (string, []byte) { return agentChannel, nil })
	return ln.Addr().String(), nil
}

// acquireListener takes one for a listener.
func (f *Forwarder) acquireListener() (leave func(), err error) {
	f.mu.Lock()
	n := len(f.listeners)
	f.mu.Unlock()
	if n >= maxListenersPerConnection {
		return nil, fault.New(
			fault.Exhausted,
			"node",
			fmt.Sprintf("this connection has %d listeners already", n),
			"cancel one, or open a new connection",
		)
	}
	leave, ok := f.cfg.Limits.listeners.TryAcquire(f.cfg.ClientAddr)
	if !ok {
		return nil, fault.New(
			fault.Exhausted,
			"node",
			"this node has as many listeners as it can",
			"try again later",
		)
	}
	return leave, nil
}

// serveListener connects everyone who comes to the client.
func (f *Forwarder) serveListener(
	ctx context.Context,
	l *listener,
	opening func(net.Conn) (name string, data []byte),
) {
	var all sync.WaitGroup
	for _, ln := range l.sockets {
		f.goGuarded(&all, func() { f.acceptLoop(ctx, l.direction, ln, opening) })
	}
	f.running.Go(func() {
		all.Wait()
		close(l.done)
	})
}

func (f *Forwarder) acceptLoop(
	ctx context.Context,
	way Direction,
	ln net.Listener,
	opening func(net.Conn) (string, []byte),
) {
	for {
		conn, err := ln.Accept()
		if err == nil {
			f.goGuarded(&f.running, func() { f.forwardConn(ctx, way, conn, opening) })
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

// forwardConn opens a channel to the client for somebody who came, if the rules of now still allow it.
func (f *Forwarder) forwardConn(
	ctx context.Context,
	way Direction,
	conn net.Conn,
	opening func(net.Conn) (string, []byte),
) {
	defer conn.Close()
	leave, err := f.Acquire()
	if err != nil {
		return
	}
	defer leave()
	if f.cfg.Permit(way) != nil {
		return
	}
	name, data := opening(conn)
	ch, reqs := f.openChannel(ctx, name, data)
	if ch == nil {
		return
	}
	if way == Remote {
		ch = activityChannel{ch, f.cfg.OnData}
	}
	f.relay(ctx, ch, reqs, conn)
}

// openChannel opens one to the client, and gives up when the connection ends.
func (f *Forwarder) openChannel(
	ctx context.Context,
	name string,
	data []byte,
) (ssh.Channel, <-chan *ssh.Request) {
	type opened struct {
		ch   ssh.Channel
		reqs <-chan *ssh.Request
	}
	answer := make(chan opened)
	go func() { // ends with the connection at the latest
		ch, reqs, err := f.cfg.Client.OpenChannel(name, data)
		if err != nil {
			ch, reqs = nil, nil
		}
		select {
		case answer <- opened{ch, reqs}:
		case <-ctx.Done():
			if ch != nil { // too late; but what nobody takes would hold up all that comes by the connection, its end included
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

// forwardedOpen tells the client who came to which listener, whose address is given as it was asked for.
func forwardedOpen(at Target, conn net.Conn) (name string, data []byte) {
	if at.Path != "" {
		return forwardedStreamlocal, ssh.Marshal(struct{ Path, Reserved string }{at.Path, ""})
	}
	from, port := "127.0.0.1", 0
	if host, p, err := net.SplitHostPort(conn.RemoteAddr().String()); err == nil {
		from = host
		port, _ = strconv.Atoi(p) // of an address of the kernel's
	}
	return forwardedTCP, ssh.Marshal(struct {
		At     string
		Port   uint32
		From   string
		Origin uint32
	}{at.Host, uint32(at.Port), from, uint32(port)})
}
