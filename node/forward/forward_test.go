package forward_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/node/forward"
)

func TestAddressesNeverForwardedTo(t *testing.T) {
	for addr, want := range map[string]bool{
		"127.0.0.1": true, "::1": true, "10.0.0.1": true, "192.0.2.1": true, "2001:db8::1": true, "fd00::1": true, "0.0.0.0": true, "169.253.255.255": true, "169.255.0.0": true,
		"64:ff9b::c000:201": true, "2002:c000:201::1": true, "fec0::1": true,
		"169.254.169.254": false, "169.254.0.0": false, "169.254.255.255": false, "::ffff:169.254.1.1": false, "::ffff:a9fe:a9fe": false,
		"fe80::1": false, "fe80::1%eth0": false, "febf::1": false, "fd00:ec2::254": false, "fd20:ce::254": false, "168.63.129.16": false, "::ffff:168.63.129.16": false,
		"100.100.100.200": false, "64:ff9b::a9fe:a9fe": false, "64:ff9b:1::a9fe:a9fe": false, "2002:a9fe:a9fe::1": false, "::169.254.169.254": false,
	} {
		if got := forward.AllowedAddress(netip.MustParseAddr(addr)); got != want {
			t.Errorf("%s: got reachable %v, want %v", addr, got, want)
		}
	}
}

// fakeSockets hands out ends of pipes, and notes what was dialled.
type fakeSockets struct {
	mu     sync.Mutex
	dialed []string
	dial   func(ctx context.Context, to netip.AddrPort) (net.Conn, error)
}

func (a *fakeSockets) Dial(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	a.mu.Lock()
	a.dialed = append(a.dialed, to.String())
	a.mu.Unlock()
	return a.dial(ctx, to)
}
func (a *fakeSockets) Listen(netip.AddrPort) (net.Listener, error) { return nil, syscall.EADDRINUSE }
func (a *fakeSockets) DialUnix(context.Context, string) (net.Conn, error) {
	return nil, syscall.EACCES
}
func (a *fakeSockets) ListenUnix(context.Context, string) (net.Listener, error) {
	return nil, syscall.EADDRINUSE
}
func (a *fakeSockets) ListenAgent(context.Context) (net.Listener, error) { return nil, syscall.ENOSPC }

// memChannel is the client's end of one that was opened, in memory.
type memChannel struct {
	net.Conn
	reqs     chan *ssh.Request
	once     sync.Once
	accepted bool
}

func (c *memChannel) Accept() (ssh.Channel, <-chan *ssh.Request, error) {
	c.accepted = true
	return c, c.reqs, nil
}
func (c *memChannel) Reject(ssh.RejectionReason, string) error       { return nil }
func (c *memChannel) ChannelType() string                            { return forward.DirectTCP }
func (c *memChannel) ExtraData() []byte                              { return nil }
func (c *memChannel) CloseWrite() error                              { return nil }
func (c *memChannel) SendRequest(string, bool, []byte) (bool, error) { return false, nil }
func (c *memChannel) Stderr() io.ReadWriter                          { return nil }

func (c *memChannel) Close() error { c.once.Do(func() { close(c.reqs) }); return c.Conn.Close() }
func newMemChannel() (*memChannel, net.Conn) {
	near, far := net.Pipe()
	return &memChannel{Conn: near, reqs: make(chan *ssh.Request)}, far
}

func newForwarder(a *fakeSockets, change func(*forward.Config)) *forward.Forwarder {
	cfg := forward.Config{
		Limits:     forward.NewLimits(),
		ClientAddr: "192.0.2.1:1",
		Sockets:    func() (forward.Sockets, error) { return a, nil },
		Permit:     func(forward.Direction) error { return nil },
		Audit:      func(forward.Direction, string, string) error { return nil },
	}
	if change != nil {
		change(&cfg)
	}
	return forward.New(cfg)
}

func TestAddressesAreTriedInTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		a := &fakeSockets{dial: func(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
			switch to.Addr().String() {
			case "192.0.2.1":
				<-ctx.Done() // never answers
				return nil, ctx.Err()
			case "192.0.2.2":
				return nil, syscall.ECONNREFUSED
			}
			return near, nil
		}}
		f := newForwarder(a, func(c *forward.Config) {
			c.Resolve = func(context.Context, string) ([]netip.Addr, error) {
				var all []netip.Addr
				for _, s := range []string{"192.0.2.1", "169.254.169.254", "192.0.2.2", "::ffff:192.0.2.3"} {
					all = append(all, netip.MustParseAddr(s))
				}
				return all, nil
			}
		})
		ch, client := newMemChannel()
		done := make(chan error, 1)
		begun := time.Now()
		go func() { done <- f.Direct(t.Context(), ch, forward.Target{Host: "db.example", Port: 5432}, "") }()
		go func() { _, _ = io.Copy(far, far) }()
		if _, err := io.WriteString(client, "x"); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begun); took > 10*time.Second {
			t.Errorf("got an answer after %s, want one silent address not to take all of the time", took)
		}
		b := make([]byte, 1)
		if _, err := io.ReadFull(client, b); err != nil || b[0] != 'x' {
			t.Errorf("got %q, %v, want it back", b, err)
		}
		client.Close()
		far.Close()
		_ = ch.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if got := strings.Join(a.dialed, " "); got != "192.0.2.1:5432 192.0.2.2:5432 192.0.2.3:5432" {
			t.Errorf("got %s dialled, want the good addresses in turn", got)
		}
	})
}

func TestChannelIsNotAcceptedBeforeItsTargetIsConnected(t *testing.T) {
	broken := errors.New("the disk is full")
	for _, tt := range []struct {
		name   string
		to     forward.Target
		change func(*forward.Config)
		reason ssh.RejectionReason
	}{
		{"nobody listens", forward.Target{Host: "192.0.2.1", Port: 1}, nil, ssh.ConnectionFailed},
		{"a socket of somebody else's", forward.Target{Path: "/run/x"}, nil, ssh.Prohibited},
		{"a metadata service", forward.Target{Host: "169.254.169.254", Port: 80}, nil, ssh.Prohibited},
		{"a name without an address", forward.Target{Host: "x", Port: 80}, func(c *forward.Config) {
			c.Resolve = func(context.Context, string) ([]netip.Addr, error) { return nil, nil }
		}, ssh.ConnectionFailed},
		{"no record", forward.Target{Host: "192.0.2.1", Port: 1}, func(c *forward.Config) {
			c.Audit = func(forward.Direction, string, string) error {
				return fault.Wrap(broken, fault.Exhausted, "x", "the disk is full", "free space")
			}
		}, ssh.ResourceShortage},
		{"an account that is gone", forward.Target{Host: "192.0.2.1", Port: 1}, func(c *forward.Config) {
			c.Sockets = func() (forward.Sockets, error) {
				return nil, fault.New(fault.NotFound, "x", "there is no account", "make it")
			}
		}, ssh.ConnectionFailed},
	} {
		a := &fakeSockets{
			dial: func(context.Context, netip.AddrPort) (net.Conn, error) { return nil, syscall.ECONNREFUSED },
		}
		ch, _ := newMemChannel()
		err := newForwarder(a, tt.change).Direct(t.Context(), ch, tt.to, "")
		if err == nil || ch.accepted || forward.RejectionReason(err) != tt.reason || fault.Remedy(err) == "" {
			t.Errorf("%s: got %v, accepted %v, want %v and a remedy", tt.name, err, ch.accepted, tt.reason)
		}
	}
}

func TestAuditEventsOfOneConnectionAreRateLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var events int
		a := &fakeSockets{
			dial: func(context.Context, netip.AddrPort) (net.Conn, error) { return nil, syscall.ECONNREFUSED },
		}
		f := newForwarder(a, func(c *forward.Config) {
			c.Audit = func(forward.Direction, string, string) error { events++; return nil }
		})
		knock := func(host string) {
			ch, _ := newMemChannel()
			_ = f.Direct(t.Context(), ch, forward.Target{Host: host, Port: 80}, "")
		}
		for range 1000 {
			knock("192.0.2.1")
		}
		if events != 1 {
			t.Errorf("got %d events of one target, want 1", events)
		}
		begun := time.Now()
		for i := range 256 + 40 {
			knock(fmt.Sprintf("10.0.%d.%d", i/256, i%256))
		}
		if took := time.Since(begun); took < 10*time.Second || events != 297 {
			t.Errorf(
				"got %d events within %s, want each on record, and those beyond a burst held up",
				events,
				took,
			)
		}
	})
}

func TestClosedChannelClosesItsTarget(t *testing.T) {
	near, far := net.Pipe() // nobody reads or writes at its far end
	a := &fakeSockets{dial: func(context.Context, netip.AddrPort) (net.Conn, error) { return near, nil }}
	f := newForwarder(a, nil)
	ch, client := newMemChannel()
	done := make(chan error, 1)
	go func() { done <- f.Direct(t.Context(), ch, forward.Target{Host: "192.0.2.1", Port: 80}, "") }()
	client.Close()
	_ = ch.Close()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Error("got a forward that goes on, want its end")
	}
	if _, err := far.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("got %v, want the target let go", err)
	}
}

func TestListenErrorsNameTheCause(t *testing.T) {
	f := newForwarder(&fakeSockets{}, nil)
	if _, err := f.Listen(t.Context(), forward.Target{Host: "localhost", Port: 8080}, ""); !fault.Is(
		err,
		fault.Conflict,
	) ||
		!strings.Contains(fault.Message(err), "port 8080 is in use") {
		t.Errorf("got %v, want the port named", err)
	}
	if _, err := f.Listen(t.Context(), forward.Target{Path: "/run/x"}, ""); !fault.Is(err, fault.Conflict) ||
		!strings.Contains(fault.Message(err), "/run/x is there already") {
		t.Errorf("got %v, want the path named", err)
	}
	if _, err := f.Agent(t.Context(), ""); err == nil || fault.Remedy(err) == "" {
		t.Errorf("got %v, want a remedy", err)
	}
	if err := f.Cancel(forward.Target{Host: "localhost", Port: 8080}); !fault.Is(err, fault.NotFound) {
		t.Errorf("got %v, want no such listener", err)
	}
	f.Close()
}

func FuzzParse(f *testing.F) {
	for _, name := range []string{forward.DirectTCP, forward.DirectStreamlocal, forward.ListenTCP, forward.ListenStreamlocal} {
		f.Add(name, ssh.Marshal(struct {
			Host   string
			Port   uint32
			From   string
			Origin uint32
		}{"localhost", 80, "127.0.0.1", 1}))
		f.Add(name, ssh.Marshal(struct{ Path string }{"/run/x"}))
		f.Add(name, []byte{0, 0, 0, 9, 'x'})
	}
	f.Fuzz(func(t *testing.T, name string, data []byte) {
		target, err := forward.Parse(name, data)
		if err != nil && fault.Remedy(err) == "" {
			t.Errorf("got %v without a remedy", err)
		}
		if err == nil && name == forward.DirectTCP && (target.Host == "" || target.Port == 0) {
			t.Errorf("got %+v, want host and port", target)
		}
		_ = target.String()
	})
}
