package forward_test

import (
	"crypto/ed25519"
	"net"
	"sync"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/tsh/forward"
)

// testNode is a small SSH server that forwards as a node does, with the one client that is connected to it.
type testNode struct {
	t      testing.TB
	client *ssh.Client     // the client's end of the connection
	conn   *ssh.ServerConn // the server's end
	tasks  sync.WaitGroup  // all goroutines of the server

	mu        sync.Mutex     // guards the next fields
	refuse    string         // if not empty, all forwarding is refused with this reason
	requested []string       // types of requests, and types with addresses of channels
	listeners []net.Listener // those that the client requested (-R)
}

// newTestNode starts a server, connects a client to it, and returns both. Both end with the test.
func newTestNode(t testing.TB) *testNode {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromSigner(key)
	if err != nil {
		t.Fatal(err)
	}
	n := &testNode{t: t}
	served := make(chan error, 1)
	go func() {
		netConn, err := l.Accept()
		if err != nil {
			served <- err
			return
		}
		cfg := &ssh.ServerConfig{NoClientAuth: true}
		cfg.AddHostKey(signer)
		sshConn, chans, reqs, err := ssh.NewServerConn(netConn, cfg)
		if err == nil {
			n.conn = sshConn
			n.tasks.Go(func() { n.serveChannels(chans) })
			n.tasks.Go(func() { n.serveRequests(reqs) })
		}
		served <- err
	}()
	n.client, err = ssh.Dial(
		"tcp",
		l.Addr().String(),
		&ssh.ClientConfig{User: "x", HostKeyCallback: ssh.FixedHostKey(signer.PublicKey())},
	)
	if err != nil {
		t.Fatal(err)
	}
	if err := <-served; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.close)
	return n
}

func (n *testNode) close() {
	n.client.Close()
	n.conn.Close()
	n.mu.Lock()
	for _, l := range n.listeners {
		l.Close()
	}
	n.mu.Unlock()
	n.tasks.Wait()
}

// record records a request and returns the reason to refuse it, or an empty string.
func (n *testNode) record(what string) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.requested = append(n.requested, what)
	return n.refuse
}

// addr returns the address of the first listener that the client requested.
func (n *testNode) addr() net.Addr {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.listeners[0].Addr()
}

// stream is a connection with half-close.
type stream interface {
	net.Conn
	CloseWrite() error
}

// serveChannels connects the client's channels for -L, -D and -W to the addresses in their opening messages.
func (n *testNode) serveChannels(chans <-chan ssh.NewChannel) {
	for nc := range chans {
		network, addr := "tcp", ""
		switch nc.ChannelType() {
		case "direct-tcpip":
			var opening struct {
				Host       string
				Port       uint32
				Origin     string
				OriginPort uint32
			}
			_ = ssh.Unmarshal(nc.ExtraData(), &opening)
			addr = forward.Addr{Host: opening.Host, Port: uint16(opening.Port)}.String()
		case "direct-streamlocal@openssh.com":
			var opening struct {
				Path, Reserved string
				Ignored        uint32
			}
			_ = ssh.Unmarshal(nc.ExtraData(), &opening)
			network, addr = "unix", opening.Path
		}
		if reason := n.record(nc.ChannelType() + " " + addr); reason != "" {
			_ = nc.Reject(ssh.Prohibited, reason)
			continue
		}
		n.tasks.Go(func() {
			conn, err := net.Dial(network, addr)
			if err != nil {
				_ = nc.Reject(ssh.ConnectionFailed, "connection refused")
				return
			}
			if ch, reqs, err := nc.Accept(); err == nil {
				forward.Pipe(conn.(stream), ch, reqs)
			}
		})
	}
}

// serveRequests opens the listeners that the client requests (-R), always on loopback, and answers with the
// port.
func (n *testNode) serveRequests(reqs <-chan *ssh.Request) {
	for request := range reqs {
		if reason := n.record(request.Type); reason != "" {
			_ = request.Reply(false, []byte(reason))
			continue
		}
		switch request.Type {
		case "tcpip-forward":
			var wanted struct {
				Host string
				Port uint32
			}
			_ = ssh.Unmarshal(request.Payload, &wanted)
			addr := forward.Addr{Host: "127.0.0.1", Port: uint16(wanted.Port)}
			l, err := net.Listen("tcp", addr.String())
			if err != nil {
				_ = request.Reply(false, nil)
				continue
			}
			port := uint32(l.Addr().(*net.TCPAddr).Port)
			n.serveListener(l, "forwarded-tcpip", ssh.Marshal(struct {
				Host       string
				Port       uint32
				Origin     string
				OriginPort uint32
			}{wanted.Host, port, "127.0.0.1", 1}))
			_ = request.Reply(true, ssh.Marshal(struct{ Port uint32 }{port}))
		case "streamlocal-forward@openssh.com":
			var wanted struct{ Path string }
			_ = ssh.Unmarshal(request.Payload, &wanted)
			l, err := net.Listen("unix", wanted.Path)
			if err != nil {
				_ = request.Reply(false, nil)
				continue
			}
			opening := ssh.Marshal(struct{ Path, Reserved string }{wanted.Path, ""})
			n.serveListener(l, "forwarded-streamlocal@openssh.com", opening)
			_ = request.Reply(true, nil)
		default:
			_ = request.Reply(false, nil)
		}
	}
}

// serveListener opens a channel to the client for each connection to the listener and copies in both
// directions. channelType and extra are for the opening message.
func (n *testNode) serveListener(l net.Listener, channelType string, extra []byte) {
	n.mu.Lock()
	n.listeners = append(n.listeners, l)
	n.mu.Unlock()
	n.tasks.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			n.tasks.Go(func() {
				ch, reqs, err := n.conn.OpenChannel(channelType, extra)
				if err != nil {
					conn.Close()
					return
				}
				forward.Pipe(conn.(stream), ch, reqs)
			})
		}
	})
}
