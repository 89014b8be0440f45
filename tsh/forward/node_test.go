package forward_test

import (
	"crypto/ed25519"
	"net"
	"sync"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/tsh/forward"
)

// testNode is a small SSH server that forwards as a node does. One client is connected to it.
type testNode struct {
	t      testing.TB
	client *ssh.Client // the client's end of the connection
	conn   *ssh.ServerConn
	tasks  sync.WaitGroup

	mu        sync.Mutex // guards what follows
	refuse    string     // if not empty, all forwarding is refused with this reason
	requested []string   // types of channels and requests, with the address of a channel
	listeners []net.Listener
}

// newTestNode starts a server and connects to it. Both end with the test.
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
		c, err := l.Accept()
		if err != nil {
			served <- err
			return
		}
		cfg := &ssh.ServerConfig{NoClientAuth: true}
		cfg.AddHostKey(signer)
		conn, chans, reqs, err := ssh.NewServerConn(c, cfg)
		if err == nil {
			n.conn = conn
			n.tasks.Go(func() { n.channels(chans) })
			n.tasks.Go(func() { n.requests(reqs) })
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

// addr returns the address of the listener that the client requested.
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

// channels serves the client's channels for -L, -D and -W.
func (n *testNode) channels(chans <-chan ssh.NewChannel) {
	for nc := range chans {
		network, addr := "tcp", ""
		switch nc.ChannelType() {
		case "direct-tcpip":
			var m struct {
				Host       string
				Port       uint32
				Origin     string
				OriginPort uint32
			}
			_ = ssh.Unmarshal(nc.ExtraData(), &m)
			addr = forward.Addr{Host: m.Host, Port: uint16(m.Port)}.String()
		case "direct-streamlocal@openssh.com":
			var m struct {
				Path, Reserved string
				Ignored        uint32
			}
			_ = ssh.Unmarshal(nc.ExtraData(), &m)
			network, addr = "unix", m.Path
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

// requests serves the client's requests for listeners (-R).
func (n *testNode) requests(reqs <-chan *ssh.Request) {
	for r := range reqs {
		if reason := n.record(r.Type); reason != "" {
			_ = r.Reply(false, []byte(reason))
			continue
		}
		switch r.Type {
		case "tcpip-forward":
			var m struct {
				Host string
				Port uint32
			}
			_ = ssh.Unmarshal(r.Payload, &m)
			l, err := net.Listen("tcp", forward.Addr{Host: "127.0.0.1", Port: uint16(m.Port)}.String())
			if err != nil {
				_ = r.Reply(false, nil)
				continue
			}
			got := uint32(l.Addr().(*net.TCPAddr).Port)
			n.serve(l, "forwarded-tcpip", ssh.Marshal(struct {
				Host       string
				Port       uint32
				Origin     string
				OriginPort uint32
			}{m.Host, got, "127.0.0.1", 1}))
			_ = r.Reply(true, ssh.Marshal(struct{ Port uint32 }{got}))
		case "streamlocal-forward@openssh.com":
			var m struct{ Path string }
			_ = ssh.Unmarshal(r.Payload, &m)
			l, err := net.Listen("unix", m.Path)
			if err != nil {
				_ = r.Reply(false, nil)
				continue
			}
			n.serve(
				l,
				"forwarded-streamlocal@openssh.com",
				ssh.Marshal(struct{ Path, Reserved string }{m.Path, ""}),
			)
			_ = r.Reply(true, nil)
		default:
			_ = r.Reply(false, nil)
		}
	}
}

// serve opens a channel to the client for each connection to the listener.
func (n *testNode) serve(l net.Listener, kind string, extra []byte) {
	n.mu.Lock()
	n.listeners = append(n.listeners, l)
	n.mu.Unlock()
	n.tasks.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			n.tasks.Go(func() {
				ch, reqs, err := n.conn.OpenChannel(kind, extra)
				if err != nil {
					c.Close()
					return
				}
				forward.Pipe(c.(stream), ch, reqs)
			})
		}
	})
}
