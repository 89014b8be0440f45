package forward

import (
	"context"
	"errors"
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
	release   func()        // returns its place in the quota, and tells the caller that it is closed
	done      chan struct{} // closed when no socket accepts connections any more
	closing   sync.Once     // of closeSockets
}

func (l *listener) close() {
	l.closeSockets()
	l.release()
}

// closeSockets makes the listener end as if by itself. Its place in the quota is given back when it is closed
// or another one takes its place.
func (l *listener) closeSockets() {
	l.closing.Do(func() {
		for _, socket := range l.sockets {
			_ = socket.Close()
		}
	})
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

// Listen serves a request to forward a listener (ssh -R): it listens on target, and forwards each connection
// to the client until Cancel closes the listener or ctx ends. It closes the listener when allowed ends,
// because the rules do not allow it any more. reply is the data of the SSH reply: the port, which the kernel
// chooses if target has port 0, and 0 for a Unix socket. rule is the rule that allows the forward, for the
// audit event. closed is called when the listener is closed, and before an error is returned; maybe more than
// once. The error is a fault, or the error that Config.Sockets returned.
func (f *Forwarder) Listen(
	ctx context.Context, target Target, rule string, allowed context.Context, closed func(),
) (reply []byte, err error) {
	sockets, err := f.cfg.Sockets()
	if err != nil {
		closed()
		return nil, err
	}
	releaseQuota, err := f.acquireListener()
	if err != nil {
		closed()
		return nil, err
	}
	release := func() { releaseQuota(); closed() }
	opened := &listener{direction: Remote, release: release, done: make(chan struct{})}
	if err := f.listen(ctx, sockets, opened, &target, rule); err != nil { // it sets a target.Port of 0
		release()
		return nil, err
	}
	f.mu.Lock()
	if old := f.listeners[target.String()]; old != nil {
		// The old listener has ended by itself, for example because the account helper was killed: otherwise
		// the target would have been in use. Its place in the quota is given back.
		old.release()
	}
	f.listeners[target.String()] = opened
	f.mu.Unlock()
	context.AfterFunc(allowed, func() { opened.closeSockets(); closed() })
	f.serveListener(ctx, opened, func(conn net.Conn) (string, []byte) { return forwardedOpen(target, conn) })
	return ssh.Marshal(struct{ Port uint32 }{uint32(target.Port)}), nil
}

// listen opens the sockets of opened on target and audits the forward. It sets target.Port to the port that
// the kernel has chosen. A Unix socket is audited before it is made. A port is opened first, because the
// audit event must name the chosen port; nothing is accepted before the event. After an error no socket is
// open.
func (f *Forwarder) listen(
	ctx context.Context, sockets Sockets, opened *listener, target *Target, rule string,
) error {
	if target.Path != "" {
		if err := f.audit(ctx, Remote, target.String(), rule); err != nil {
			return err
		}
		socket, err := sockets.ListenUnix(ctx, target.Path)
		opened.sockets = []net.Listener{socket}
		return socketFault(err, target.Path)
	}
	bound, err := listenLoopback(sockets, target.Host, target.Port)
	if err != nil {
		return portFault(err, target.Port)
	}
	opened.sockets = bound
	target.Port = uint16(bound[0].Addr().(*net.TCPAddr).Port)
	if err := f.audit(ctx, Remote, target.String(), rule); err != nil {
		for _, socket := range bound {
			_ = socket.Close()
		}
		return err
	}
	return nil
}

// listenLoopback listens on the port of loopback addresses, as OpenSSH's server does by default: whatever
// host the client asked for, other machines cannot connect. For an IPv4 or IPv6 address it listens on the
// loopback address of that family. For any other host it listens on both, because a program that connects to
// "localhost" may use either. Port 0 means any port, the same for both.
func listenLoopback(sockets Sockets, host string, port uint16) ([]net.Listener, error) {
	v4, v6 := netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()
	if a, err := netip.ParseAddr(host); err == nil {
		only := v6
		if a.Unmap().Is4() {
			only = v4
		}
		socket, err := sockets.Listen(netip.AddrPortFrom(only, port))
		return []net.Listener{socket}, err
	}
	for try := 1; ; try++ {
		bound, err := listenBoth(sockets, v4, v6, port)
		// A port that the kernel chose for IPv4 may be in use on IPv6: then it chooses another.
		mayTryAnother := port == 0 && errors.Is(err, syscall.EADDRINUSE) && try < portTries
		if !mayTryAnother {
			return bound, err
		}
	}
}

// listenBoth listens on the same port of both addresses. Port 0 means that the kernel chooses one for v4,
// which is then used for v6. On a machine without IPv6 it listens on v4 only.
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

// portFault returns the fault that explains why nothing can listen on a port because of err.
func portFault(err error, port uint16) error {
	switch {
	case errors.Is(err, syscall.EACCES):
		return listenPortPrivileged.Wrap(err, "node", fault.Args{"port": port})
	case errors.Is(err, syscall.EADDRINUSE):
		return listenPortUsed.Wrap(err, "node", fault.Args{"port": port})
	}
	return listenPortUnusable.Wrap(err, "node", fault.Args{"port": port, "why": fault.DescribeNetwork(err)})
}

// Cancel closes the listener on target. Connections that it has accepted go on. The error is a fault of kind
// NotFound if there is no such listener.
func (f *Forwarder) Cancel(target Target) error {
	f.mu.Lock()
	opened := f.listeners[target.String()]
	delete(f.listeners, target.String())
	f.mu.Unlock()
	if opened == nil {
		return listenerUnknown.New("node", fault.Args{"address": target.String()})
	}
	opened.close()
	return nil
}

// Agent returns the path of a socket by which programs on the node reach the client's SSH agent. All sessions
// of a connection share one socket. It is made by the first call, and by a later one if the socket has ended
// by itself since. Its connections are forwarded until ctx ends. It is closed when allowed ends, because the
// rules do not allow it any more. closed is called when the socket is closed,
// and before Agent returns if it made no socket; maybe more than once. The error is a fault, or that of
// Config.Sockets.
func (f *Forwarder) Agent(
	ctx context.Context, rule string, allowed context.Context, closed func(),
) (path string, err error) {
	f.agentMu.Lock()
	defer f.agentMu.Unlock()
	if f.agent != nil && !f.agent.ended() {
		closed() // the socket is registered already
		return f.agent.sockets[0].Addr().String(), nil
	}
	defer func() {
		if err != nil {
			closed()
		}
	}()
	sockets, err := f.cfg.Sockets()
	if err != nil {
		return "", err
	}
	if err := f.audit(ctx, Agent, string(Agent), rule); err != nil {
		return "", err
	}
	socket, err := sockets.ListenAgent(ctx)
	if err != nil {
		return "", agentSocketFailed.Wrap(err, "node", fault.Args{"why": fault.DescribeNetwork(err)})
	}
	if f.agent != nil {
		f.agent.release() // it has ended by itself
	}
	f.agent = &listener{
		direction: Agent,
		sockets:   []net.Listener{socket},
		release:   closed, // it has no place in the quota: there is one for each connection at most
		done:      make(chan struct{}),
	}
	made := f.agent
	context.AfterFunc(allowed, func() { made.closeSockets(); closed() })
	f.serveListener(ctx, f.agent, func(net.Conn) (string, []byte) { return agentChannel, nil })
	return socket.Addr().String(), nil
}

// acquireListener counts one listener against the limits of the connection and of the node. The error is a
// fault of kind Exhausted.
func (f *Forwarder) acquireListener() (release func(), err error) {
	f.mu.Lock()
	n := len(f.listeners)
	f.mu.Unlock()
	if n >= maxListenersPerConnection {
		return nil, listenersConnectionFull.New("node", fault.Args{"count": n})
	}
	release, ok := f.cfg.Limits.listeners.TryAcquire(f.cfg.ClientAddr)
	if !ok {
		return nil, listenersNodeFull.New("node")
	}
	return release, nil
}

// serveListener starts goroutines that accept connections until the sockets are closed, and then close
// l.done. It returns at once; Close waits for the goroutines.
func (f *Forwarder) serveListener(ctx context.Context, opened *listener, open opener) {
	var loops sync.WaitGroup
	for _, socket := range opened.sockets {
		f.goGuarded(&loops, func() { f.acceptLoop(ctx, opened.direction, socket, open) })
	}
	f.running.Go(func() {
		loops.Wait()
		close(opened.done)
	})
}

// acceptLoop accepts connections and forwards each in a goroutine. It ends when the socket is closed or the
// account helper that has it has ended. After any other error it waits acceptPause and tries again; if ctx
// ends meanwhile, so does the loop.
func (f *Forwarder) acceptLoop(ctx context.Context, direction Direction, socket net.Listener, open opener) {
	for {
		conn, err := socket.Accept()
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

// forwardConn opens a channel to the client for an accepted connection and copies bytes, until they or ctx
// have ended. It closes the connection at once if the limits are reached, the current rules no longer allow
// the forward, or the client refuses the channel. Nobody is told why: the program at the other end does not
// use SSH.
func (f *Forwarder) forwardConn(ctx context.Context, direction Direction, conn net.Conn, open opener) {
	defer conn.Close()
	release, err := f.Acquire()
	if err != nil {
		return
	}
	defer release()
	allowed, closed, err := f.cfg.Admit(direction)
	if err != nil {
		return
	}
	defer closed()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(allowed, cancel)()
	name, data := open(conn)
	channel, requests := f.openChannel(ctx, name, data)
	if channel == nil {
		return
	}
	if direction == Remote {
		channel = activityChannel{channel, f.cfg.OnData}
	}
	f.relay(ctx, channel, requests, conn)
}

// openChannel opens a channel to the client. The channel is nil if the client refuses or ctx ends first.
func (f *Forwarder) openChannel(ctx context.Context, name string, data []byte) (
	ssh.Channel, <-chan *ssh.Request,
) {
	type opened struct {
		channel  ssh.Channel
		requests <-chan *ssh.Request
	}
	answer := make(chan opened)
	go func() { // ends with the client's answer, or with the SSH connection at the latest
		channel, requests, err := f.cfg.Client.OpenChannel(name, data)
		if err != nil {
			channel, requests = nil, nil
		}
		select {
		case answer <- opened{channel, requests}:
		case <-ctx.Done():
			if channel != nil {
				// The client has accepted too late. The requests must be read all the same: otherwise they
				// would block everything that comes over the SSH connection, its end included.
				_ = channel.Close()
				ssh.DiscardRequests(requests)
			}
		}
	}()
	select {
	case result := <-answer:
		return result.channel, result.requests
	case <-ctx.Done():
		return nil, nil
	}
}

// forwardedOpen returns the name and the data of the channel that is opened for conn, a connection to the
// listener on target (RFC 4254 section 7.2). The data contain the listener's address exactly as the client
// asked for it, because clients find the listener by it, and the address of the program that connected.
func forwardedOpen(target Target, conn net.Conn) (name string, data []byte) {
	if target.Path != "" {
		return forwardedStreamlocal, ssh.Marshal(struct{ Path, Reserved string }{target.Path, ""})
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
	}{target.Host, uint32(target.Port), originHost, uint32(originPort)})
}
