package forward_test

import (
	"crypto/ed25519"
	"net"
	"sync"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/tsh/forward"
)

// far is a small SSH server that forwards, as a node does.
type far struct {
	t      testing.TB
	client *ssh.Client // of the connection to it
	conn   *ssh.ServerConn
	tasks  sync.WaitGroup

	mu     sync.Mutex // guards what follows
	refuse string     // not empty: nothing is forwarded, and why
	asked  []string   // channels and requests
	closes []net.Listener
}

func newTestNode(t testing.TB) *far {
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
	f := &far{t: t}
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
			f.conn = conn
			f.tasks.Go(func() { f.channels(chans) })
			f.tasks.Go(func() { f.requests(reqs) })
		}
		served <- err
	}()
	f.client, err = ssh.Dial(
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
	t.Cleanup(f.close)
	return f
}

func (f *far) close() {
	f.client.Close()
	f.conn.Close()
	f.mu.Lock()
	for _, l := range f.closes {
		l.Close()
	}
	f.mu.Unlock()
	f.tasks.Wait()
}

// record records what was asked, and returns why it is refused.
func (f *far) record(what string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = append(f.asked, what)
	return f.refuse
}

type end interface {
	net.Conn
	CloseWrite() error
}

func (f *far) channels(chans <-chan ssh.NewChannel) {
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
		if why := f.record(nc.ChannelType() + " " + addr); why != "" {
			_ = nc.Reject(ssh.Prohibited, why)
			continue
		}
		f.tasks.Go(func() {
			conn, err := net.Dial(network, addr)
			if err != nil {
				_ = nc.Reject(ssh.ConnectionFailed, "connection refused")
				return
			}
			if ch, reqs, err := nc.Accept(); err == nil {
				forward.Pipe(conn.(end), ch, reqs)
			}
		})
	}
}

func (f *far) requests(reqs <-chan *ssh.Request) {
	for r := range reqs {
		if why := f.record(r.Type); why != "" {
			_ = r.Reply(false, []byte(why))
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
			f.serve(l, "forwarded-tcpip", ssh.Marshal(struct {
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
			f.serve(
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

// serve opens a channel for each connection to the listener.
func (f *far) serve(l net.Listener, kind string, extra []byte) {
	f.mu.Lock()
	f.closes = append(f.closes, l)
	f.mu.Unlock()
	f.tasks.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			f.tasks.Go(func() {
				ch, reqs, err := f.conn.OpenChannel(kind, extra)
				if err != nil {
					c.Close()
					return
				}
				forward.Pipe(c.(end), ch, reqs)
			})
		}
	})
}
