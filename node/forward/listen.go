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

// listening is one listener, or two on the same port of both loopback addresses.
type listening struct {
	way   Way
	on    []net.Listener
	leave func()
	done  chan struct{} // closed when nobody can come any more
}

func (l *listening) close() {
	for _, ln := range l.on {
		_ = ln.Close()
	}
	l.leave()
}

// ended reports whether nobody can come any more, though nobody has closed it.
func (l *listening) ended() bool {
	select {
	case <-l.done:
		return true
	default:
		return false
	}
}

// Listen begins to listen where the client asks for it and returns the reply's data: the port, where the client left the choice to
// us. Until ctx ends, whoever connects there is connected to the client.
func (f *Forwards) Listen(ctx context.Context, at Target, rule string) (reply []byte, err error) {
	as, err := f.cfg.Account()
	if err != nil {
		return nil, err
	}
	leave, err := f.place()
	if err != nil {
		return nil, err
	}
	l := &listening{way: Remote, leave: leave, done: make(chan struct{})}
	if err := f.begin(ctx, as, l, &at, rule); err != nil {
		leave()
		return nil, err
	}
	f.mu.Lock()
	if old := f.listeners[at.String()]; old != nil {
		old.leave() // of a socket whose listener ended by itself, or the path would not have been free
	}
	f.listeners[at.String()] = l
	f.mu.Unlock()
	f.accept(ctx, l, func(conn net.Conn) (string, []byte) { return arrival(at, conn) })
	return ssh.Marshal(struct{ Port uint32 }{uint32(at.Port)}), nil
}

// begin records the target and listens there; at gets the port.
func (f *Forwards) begin(ctx context.Context, as Account, l *listening, at *Target, rule string) error {
	if at.Path != "" {
		if err := f.record(ctx, Remote, at.String(), rule); err != nil {
			return err
		}
		ln, err := as.ListenSocket(ctx, at.Path)
		l.on = []net.Listener{ln}
		return socketFault(err, at.Path)
	}
	on, err := loopback(as, at.Host, at.Port)
	if err != nil {
		return portFault(err, at.Port)
	}
	l.on = on
	at.Port = uint16(on[0].Addr().(*net.TCPAddr).Port)
	if err := f.record(ctx, Remote, at.String(), rule); err != nil {
		for _, ln := range on {
			_ = ln.Close()
		}
		return err
	}
	return nil
}

// loopback listens on this machine's loopback addresses, whatever address was asked for, as OpenSSH's server does by default. An
// address of one kind gets the loopback of that kind, everything else both: what connects to "localhost" may take either.
func loopback(as Account, host string, port uint16) ([]net.Listener, error) {
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
		on, err := both(as, v4, v6, port)
		if port != 0 || try == portTries || !errors.Is(err, syscall.EADDRINUSE) {
			return on, err
		}
	}
}

// both listens on the same port of two addresses; a machine without IPv6 has the first alone.
func both(as Account, v4, v6 netip.Addr, port uint16) ([]net.Listener, error) {
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
		return fault.Wrap(err, fault.Denied, "node", fmt.Sprintf("on this node, only root may listen on port %d", port), "use a port from 1024 on")
	case errors.Is(err, syscall.EADDRINUSE):
		return fault.Wrap(err, fault.Conflict, "node", fmt.Sprintf("on this node, port %d is in use", port), "use another port, or 0 for any")
	}
	return fault.Wrap(err, fault.Unavailable, "node", fmt.Sprintf("on this node, nothing can listen on port %d: %s", port, fault.Network(err)), "use another port, or 0 for any")
}

// Cancel ends a listener. What came by it goes on.
func (f *Forwards) Cancel(at Target) error {
	f.mu.Lock()
	l := f.listeners[at.String()]
	delete(f.listeners, at.String())
	f.mu.Unlock()
	if l == nil {
		return fault.New(fault.NotFound, "node", "this connection does not listen on "+at.String(), "name what was asked for")
	}
	l.close()
	return nil
}

// Agent gives the path of a socket by which programs on the node reach the client's agent: one for the connection, made when it is first
// asked for.
func (f *Forwards) Agent(ctx context.Context, rule string) (path string, err error) {
	f.asking.Lock()
	defer f.asking.Unlock()
	if f.agent != nil && !f.agent.ended() {
		return f.agent.on[0].Addr().String(), nil
	}
	as, err := f.cfg.Account()
	if err != nil {
		return "", err
	}
	if err := f.record(ctx, Agent, string(Agent), rule); err != nil {
		return "", err
	}
	ln, err := as.ListenAgent(ctx)
	if err != nil {
		return "", fault.Wrap(err, fault.Internal, "node", "on this node, no socket for your agent could be made: "+fault.Network(err), "ask an administrator to look at the node's /tmp")
	}
	f.agent = &listening{way: Agent, on: []net.Listener{ln}, leave: func() {}, done: make(chan struct{})}
	f.accept(ctx, f.agent, func(net.Conn) (string, []byte) { return agentChannel, nil })
	return ln.Addr().String(), nil
}

// place takes one for a listener.
func (f *Forwards) place() (leave func(), err error) {
	f.mu.Lock()
	n := len(f.listeners)
	f.mu.Unlock()
	if n >= eachListeners {
		return nil, fault.New(fault.Exhausted, "node", fmt.Sprintf("this connection has %d listeners already", n), "cancel one, or open a new connection")
	}
	leave, ok := f.cfg.Room.listeners.Take(f.cfg.From)
	if !ok {
		return nil, fault.New(fault.Exhausted, "node", "this node has as many listeners as it can", "try again later")
	}
	return leave, nil
}

// accept connects everyone who comes to the client.
func (f *Forwards) accept(ctx context.Context, l *listening, opening func(net.Conn) (name string, data []byte)) {
	var all sync.WaitGroup
	for _, ln := range l.on {
		f.beside(&all, func() { f.acceptOn(ctx, l.way, ln, opening) })
	}
	f.running.Go(func() {
		all.Wait()
		close(l.done)
	})
}

func (f *Forwards) acceptOn(ctx context.Context, way Way, ln net.Listener, opening func(net.Conn) (string, []byte)) {
	for {
		conn, err := ln.Accept()
		if err == nil {
			f.beside(&f.running, func() { f.pass(ctx, way, conn, opening) })
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

// pass opens a channel to the client for somebody who came, if the rules of now still allow it.
func (f *Forwards) pass(ctx context.Context, way Way, conn net.Conn, opening func(net.Conn) (string, []byte)) {
	defer conn.Close()
	leave, err := f.Enter()
	if err != nil {
		return
	}
	defer leave()
	if f.cfg.Permit(way) != nil {
		return
	}
	name, data := opening(conn)
	ch, reqs := f.channel(ctx, name, data)
	if ch == nil {
		return
	}
	if way == Remote {
		ch = heard{ch, f.cfg.Heard}
	}
	f.relay(ctx, ch, reqs, conn)
}

// channel opens one to the client, and gives up when the connection ends.
func (f *Forwards) channel(ctx context.Context, name string, data []byte) (ssh.Channel, <-chan *ssh.Request) {
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

// arrival tells the client who came to which listener, whose address is given as it was asked for.
func arrival(at Target, conn net.Conn) (name string, data []byte) {
	if at.Path != "" {
		return forwardedSocket, ssh.Marshal(struct{ Path, Reserved string }{at.Path, ""})
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
