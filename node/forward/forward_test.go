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

	"go.uber.org/goleak"
	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/fault/faulttest"
	"github.com/threshold-access/threshold/node/forward"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Link-local and metadata addresses are denied, also when an IPv6 address contains them. All other addresses
// are allowed.
func TestAddressesNeverForwardedTo(t *testing.T) {
	t.Parallel()
	allowed := []string{
		"127.0.0.1", "::1", "10.0.0.1", "192.0.2.1", "2001:db8::1", "fd00::1", "0.0.0.0", "169.253.255.255",
		"169.255.0.0", "64:ff9b::c000:201", "2002:c000:201::1", "fec0::1",
	}
	denied := []string{
		"169.254.169.254", "169.254.0.0", "169.254.255.255", "::ffff:169.254.1.1", "::ffff:a9fe:a9fe",
		"fe80::1", "fe80::1%eth0", "febf::1", "fd00:ec2::254", "fd20:ce::254", "168.63.129.16",
		"::ffff:168.63.129.16", "100.100.100.200", "64:ff9b::a9fe:a9fe", "64:ff9b:1::a9fe:a9fe",
		"2002:a9fe:a9fe::1", "::169.254.169.254",
	}
	for _, addr := range allowed {
		if !forward.AllowedAddress(netip.MustParseAddr(addr)) {
			t.Errorf("%s: got it denied, want it allowed", addr)
		}
	}
	for _, addr := range denied {
		if forward.AllowedAddress(netip.MustParseAddr(addr)) {
			t.Errorf("%s: got it allowed, want it denied", addr)
		}
	}
}

// fakeSockets dials by a function and remembers what was dialed. It cannot listen.
type fakeSockets struct {
	mu     sync.Mutex // guards dialed
	dialed []string
	dial   func(ctx context.Context, to netip.AddrPort) (net.Conn, error)
}

func (s *fakeSockets) Dial(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	s.mu.Lock()
	s.dialed = append(s.dialed, to.String())
	s.mu.Unlock()
	return s.dial(ctx, to)
}

func (*fakeSockets) Listen(netip.AddrPort) (net.Listener, error)        { return nil, syscall.EADDRINUSE }
func (*fakeSockets) DialUnix(context.Context, string) (net.Conn, error) { return nil, syscall.EACCES }
func (*fakeSockets) ListenUnix(context.Context, string) (_ net.Listener, _ error) {
	return nil, syscall.EADDRINUSE
}
func (*fakeSockets) ListenAgent(context.Context) (net.Listener, error) { return nil, syscall.ENOSPC }

// refusingSockets dials nothing.
func refusingSockets() *fakeSockets {
	return &fakeSockets{
		dial: func(context.Context, netip.AddrPort) (net.Conn, error) { return nil, syscall.ECONNREFUSED },
	}
}

// memChannel is both a channel that a client opens and, once accepted, the channel, over a pipe.
type memChannel struct {
	net.Conn
	reqs     chan *ssh.Request
	once     sync.Once
	accepted bool
}

// newMemChannel returns a channel and the client's end of it.
func newMemChannel() (*memChannel, net.Conn) {
	near, far := net.Pipe()
	return &memChannel{Conn: near, reqs: make(chan *ssh.Request)}, far
}

func (c *memChannel) Accept() (ssh.Channel, <-chan *ssh.Request, error) {
	c.accepted = true
	return c, c.reqs, nil
}

func (c *memChannel) Close() error {
	c.once.Do(func() { close(c.reqs) })
	return c.Conn.Close()
}

func (c *memChannel) Reject(ssh.RejectionReason, string) error       { return nil }
func (c *memChannel) ChannelType() string                            { return forward.DirectTCP }
func (c *memChannel) ExtraData() []byte                              { return nil }
func (c *memChannel) CloseWrite() error                              { return nil }
func (c *memChannel) SendRequest(string, bool, []byte) (bool, error) { return false, nil }
func (c *memChannel) Stderr() io.ReadWriter                          { return nil }

func newForwarder(sockets forward.Sockets, change func(*forward.Config)) *forward.Forwarder {
	cfg := forward.Config{
		Limits:     forward.NewLimits(),
		ClientAddr: "192.0.2.1:1",
		Sockets:    func() (forward.Sockets, error) { return sockets, nil },
		Admit: func(forward.Direction) (context.Context, func(), error) {
			return context.Background(), func() {}, nil
		},
		Audit: func(forward.Direction, string, string) error { return nil },
	}
	if change != nil {
		change(&cfg)
	}
	return forward.New(cfg)
}

// resolveTo resolves every name to the addresses.
func resolveTo(addrs ...string) func(*forward.Config) {
	var found []netip.Addr
	for _, s := range addrs {
		found = append(found, netip.MustParseAddr(s))
	}
	return func(c *forward.Config) {
		c.Resolve = func(context.Context, string) ([]netip.Addr, error) { return found, nil }
	}
}

// The allowed addresses of a name are tried one after the other. An address that never answers takes only its
// share of the time.
func TestAddressesAreTriedInTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		sockets := &fakeSockets{dial: func(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
			switch to.Addr().String() {
			case "192.0.2.1":
				<-ctx.Done() // never answers
				return nil, ctx.Err()
			case "192.0.2.2":
				return nil, syscall.ECONNREFUSED
			}
			return near, nil
		}}
		addresses := resolveTo("192.0.2.1", "169.254.169.254", "192.0.2.2", "::ffff:192.0.2.3")
		forwarder := newForwarder(sockets, addresses)
		channel, client := newMemChannel()
		done := make(chan error, 1)
		start := time.Now()
		go func() {
			done <- forwarder.Direct(t.Context(), channel, forward.Target{Host: "db.example", Port: 5432}, "")
		}()
		go func() { _, _ = io.Copy(far, far) }()
		if _, err := io.WriteString(client, "x"); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took > 10*time.Second {
			t.Errorf("got a connection after %s, want one silent address not to take all of the time", took)
		}
		b := make([]byte, 1)
		if _, err := io.ReadFull(client, b); err != nil || b[0] != 'x' {
			t.Errorf("got %q, %v, want the echo", b, err)
		}
		client.Close()
		far.Close()
		_ = channel.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if got := strings.Join(sockets.dialed, " "); got != "192.0.2.1:5432 192.0.2.2:5432 192.0.2.3:5432" {
			t.Errorf("got %s dialed, want the allowed addresses in turn", got)
		}
	})
}

// If the target cannot be reached, is not allowed or cannot be audited, the channel is not accepted, and the
// error has a reason code and a remedy.
func TestChannelIsNotAcceptedBeforeItsTargetIsConnected(t *testing.T) {
	t.Parallel()
	db := forward.Target{Host: "192.0.2.1", Port: 1}
	for _, tt := range []struct {
		name   string
		to     forward.Target
		change func(*forward.Config)
		reason ssh.RejectionReason
	}{
		{"nobody listens", db, nil, ssh.ConnectionFailed},
		{"a socket of another account", forward.Target{Path: "/run/x"}, nil, ssh.Prohibited},
		{"a metadata service", forward.Target{Host: "169.254.169.254", Port: 80}, nil, ssh.Prohibited},
		{"a name without an address", forward.Target{Host: "x", Port: 80}, resolveTo(), ssh.ConnectionFailed},
		{"the audit event cannot be written", db, func(c *forward.Config) {
			c.Audit = func(forward.Direction, string, string) error {
				return faulttest.New(fault.Exhausted, "x", "the disk is full", "free space")
			}
		}, ssh.ResourceShortage},
		{"the account was removed", db, func(c *forward.Config) {
			c.Sockets = func() (forward.Sockets, error) {
				return nil, faulttest.New(fault.NotFound, "x", "there is no account", "create it")
			}
		}, ssh.ConnectionFailed},
	} {
		channel, _ := newMemChannel()
		err := newForwarder(refusingSockets(), tt.change).Direct(t.Context(), channel, tt.to, "")
		if err == nil || channel.accepted || forward.RejectionReason(err) != tt.reason ||
			fault.Remedy(err) == "" {
			t.Errorf("%s: got %v, accepted %v, want %v and a remedy",
				tt.name, err, channel.accepted, tt.reason)
		}
	}
}

// A target is audited once for a connection. New targets beyond the burst have to wait, so a client cannot
// flood the audit log.
func TestAuditEventsOfOneConnectionAreRateLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var events int
		forwarder := newForwarder(refusingSockets(), func(c *forward.Config) {
			c.Audit = func(forward.Direction, string, string) error { events++; return nil }
		})
		connect := func(host string) {
			channel, _ := newMemChannel()
			_ = forwarder.Direct(t.Context(), channel, forward.Target{Host: host, Port: 80}, "")
		}
		for range 1000 {
			connect("192.0.2.1")
		}
		if events != 1 {
			t.Errorf("got %d events of one target, want 1", events)
		}
		start := time.Now()
		for i := range 256 + 40 {
			connect(fmt.Sprintf("10.0.%d.%d", i/256, i%256))
		}
		if took := time.Since(start); took < 10*time.Second || events != 297 {
			t.Errorf("got %d events within %s, want 297, delayed beyond the burst", events, took)
		}
	})
}

// When the client closes the channel, the connection to the target is closed, although nobody reads at its
// other end.
func TestClosedChannelClosesItsTarget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // without the close, every goroutine blocks and synctest fails
		near, far := net.Pipe() // nobody reads or writes at the far end
		sockets := &fakeSockets{
			dial: func(context.Context, netip.AddrPort) (net.Conn, error) { return near, nil },
		}
		forwarder := newForwarder(sockets, nil)
		channel, client := newMemChannel()
		done := make(chan error, 1)
		go func() {
			done <- forwarder.Direct(t.Context(), channel, forward.Target{Host: "192.0.2.1", Port: 80}, "")
		}()
		client.Close()
		_ = channel.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if _, err := far.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("got %v, want the target closed", err)
		}
	})
}

// An address that is in use is named in the error of Listen, and Cancel of an unknown listener is an error.
func TestListenErrorsNameTheCause(t *testing.T) {
	t.Parallel()
	forwarder := newForwarder(refusingSockets(), nil)
	port, socket := forward.Target{Host: "localhost", Port: 8080}, forward.Target{Path: "/run/x"}
	for target, want := range map[forward.Target]string{
		port:   "port 8080 is in use",
		socket: "/run/x already exists",
	} {
		_, err := forwarder.Listen(t.Context(), target, "", t.Context(), func() {})
		if !fault.Is(err, fault.Conflict) || !strings.Contains(fault.Message(err), want) {
			t.Errorf("%s: got %v, want %q", target, err, want)
		}
	}
	_, err := forwarder.Agent(t.Context(), "", t.Context(), func() {})
	if err == nil || fault.Remedy(err) == "" {
		t.Errorf("got %v, want a remedy", err)
	}
	if err := forwarder.Cancel(port); !fault.Is(err, fault.NotFound) {
		t.Errorf("got %v, want no such listener", err)
	}
	forwarder.Close()
}

// Parse never panics. Its errors have a remedy, and a target to connect to has a host and a port.
func FuzzParse(f *testing.F) {
	names := []string{
		forward.DirectTCP, forward.DirectStreamlocal, forward.ListenTCP, forward.ListenStreamlocal,
	}
	for _, name := range names {
		f.Add(name, ssh.Marshal(struct {
			Host       string
			Port       uint32
			OriginHost string
			OriginPort uint32
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
