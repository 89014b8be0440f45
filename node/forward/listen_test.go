package forward_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/node/forward"
)

// memListener accepts pipes.
type memListener struct {
	addr   net.TCPAddr
	conns  chan net.Conn
	closed chan struct{}
}

func (l *memListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *memListener) Close() error   { close(l.closed); return nil }
func (l *memListener) Addr() net.Addr { return &l.addr }

// dial connects to the listener and returns the program's end.
func (l *memListener) dial() net.Conn {
	near, far := net.Pipe()
	l.conns <- near
	return far
}

// listeningSockets listens on one memListener.
type listeningSockets struct {
	fakeSockets
	listener *memListener
}

func (s *listeningSockets) Listen(at netip.AddrPort) (net.Listener, error) {
	s.listener = &memListener{
		addr:   net.TCPAddr{IP: at.Addr().AsSlice(), Port: 4711},
		conns:  make(chan net.Conn),
		closed: make(chan struct{}),
	}
	return s.listener, nil
}

// memClient accepts every channel that the node opens.
type memClient struct {
	names []string
	ends  []net.Conn
}

func (c *memClient) OpenChannel(name string, _ []byte) (ssh.Channel, <-chan *ssh.Request, error) {
	ch, end := newMemChannel()
	c.names, c.ends = append(c.names, name), append(c.ends, end)
	return ch, ch.reqs, nil
}

// anyPort asks for a listener on a port that the node chooses. An address of one family has one listener.
var anyPort = forward.Target{Host: "127.0.0.1"}

// A connection to a listener becomes a channel to the client. It goes on after Cancel, and ends with Close.
func TestConnectionsToAListenerAreForwardedToTheClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var sockets listeningSockets
		var client memClient
		forwarder := newForwarder(&sockets, func(c *forward.Config) { c.Client = &client })
		reply, err := forwarder.Listen(ctx, anyPort, "", t.Context(), func() {})
		if want := ssh.Marshal(struct{ Port uint32 }{4711}); err != nil || string(reply) != string(want) {
			t.Fatalf("got % x, %v, want the chosen port", reply, err)
		}
		program := sockets.listener.dial()
		synctest.Wait()
		if len(client.names) != 1 || client.names[0] != "forwarded-tcpip" || forwarder.OpenCount() != 1 {
			t.Fatalf("got channels %q and %d open, want one", client.names, forwarder.OpenCount())
		}
		go func() { _, _ = io.WriteString(program, "x") }()
		b := make([]byte, 1)
		if _, err := io.ReadFull(client.ends[0], b); err != nil || b[0] != 'x' {
			t.Errorf("got %q, %v at the client, want what the program wrote", b, err)
		}
		if err := forwarder.Cancel(forward.Target{Host: anyPort.Host, Port: 4711}); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if forwarder.OpenCount() != 1 {
			t.Errorf("got %d open after Cancel, want the accepted connection to go on", forwarder.OpenCount())
		}
		cancel()
		forwarder.Close()
		if _, err := program.Read(b); !errors.Is(err, io.EOF) || forwarder.OpenCount() != 0 {
			t.Errorf(
				"got %v and %d open after Close, want all connections closed",
				err,
				forwarder.OpenCount(),
			)
		}
	})
}

// When the rules no longer allow a forward, a new connection to an existing listener is closed, and no
// channel is opened.
func TestRulesAreCheckedForEachConnectionToAListener(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var sockets listeningSockets
		var client memClient
		forwarder := newForwarder(&sockets, func(c *forward.Config) {
			c.Client = &client
			c.Admit = func(forward.Direction) (context.Context, func(), error) {
				return nil, nil, errors.New("the rules have changed")
			}
		})
		if _, err := forwarder.Listen(ctx, anyPort, "", t.Context(), func() {}); err != nil {
			t.Fatal(err)
		}
		program := sockets.listener.dial()
		if _, err := program.Read(make([]byte, 1)); !errors.Is(err, io.EOF) || len(client.names) != 0 {
			t.Errorf("got %v and channels %q, want the connection closed and no channel", err, client.names)
		}
		cancel()
		forwarder.Close()
	})
}
