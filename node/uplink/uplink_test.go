package uplink

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/member/membertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestBackoffIsSpreadAndBounded(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	longest := func(n time.Duration) time.Duration { return n - 1 }
	p := backoff{draw: longest, now: func() time.Time { return now }, addrs: 1}
	for i, want := range []time.Duration{2 * time.Second, 4 * time.Second, 8 * time.Second, 16 * time.Second, 32 * time.Second, time.Minute, time.Minute, time.Minute} {
		if got := p.pause(false, false); got != want {
			t.Errorf("dial %d that failed: got a pause up to %s, want %s", i+1, got, want)
		}
	}
	if got := p.pause(true, false); got >= outagePause {
		t.Errorf("after an outage: got %s, want less than %s", got, outagePause)
	}
	for range 5 {
		if got := p.pause(false, false); got > outagePause {
			t.Errorf("dial soon after an outage: got %s, want at most %s", got, outagePause)
		}
	}
	now = now.Add(outageWindow)
	if got := p.pause(false, false); got != 2*time.Second {
		t.Errorf("dial long after an outage: got %s, want the range from the start", got)
	}
	if got := p.pause(false, true); got < sparePause/2 || got > sparePause {
		t.Errorf("spare: got %s, want up to %s", got, sparePause)
	}
	p = backoff{draw: func(time.Duration) time.Duration { return 0 }, now: p.now, addrs: 2}
	for range 9 {
		if got := p.pause(false, false); got < minPause {
			t.Errorf("got %s, want at least %s: no proxy is hammered", got, minPause)
		}
	}
	if got := p.pause(false, true); got != 0 {
		t.Errorf("spare with another address to try: got %s, want it tried at once", got)
	}
}

// newTunnels is a node's side that dials addr.
func newTunnels(t *testing.T, c *membertest.Cluster, addr string, now func() time.Time) *Tunnels {
	t.Helper()
	cert := c.ServiceCertificate(identity.Node, "web-1")
	return New(Config{
		Proxies: []string{addr},
		Pin:     c.Pin(),
		Cluster: membertest.Name,
		Cert:    func() (*tls.Certificate, error) { return cert, nil },
		Now:     now,
		Log:     slog.New(slog.DiscardHandler),
	})
}

// serveTLS shows one certificate to whoever dials, until the test ends.
func serveTLS(t *testing.T, cert *tls.Certificate, alpn string) string {
	t.Helper()
	ln, err := tls.Listen(
		"tcp",
		"127.0.0.1:0",
		&tls.Config{
			Certificates: []tls.Certificate{*cert},
			NextProtos:   []string{alpn},
			MinVersion:   tls.VersionTLS13,
		},
	)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			_ = conn.(*tls.Conn).Handshake()
			conn.Close()
		}
	}()
	t.Cleanup(func() { ln.Close(); <-done })
	return ln.Addr().String()
}

func TestOnlyAProxyOfTheClusterIsTrusted(t *testing.T) {
	c, other := membertest.New(t), membertest.New(t)
	good := serveTLS(t, c.ServiceCertificate(identity.Proxy, "proxy-1"), identity.ALPNTunnel)
	conn, name, err := newTunnels(t, c, good, time.Now).dial(t.Context(), good)
	if err != nil || name != "proxy-1" {
		t.Fatalf("got %q, %v, want proxy-1", name, err)
	}
	conn.Close()
	for _, tt := range []struct {
		name string
		addr string
		now  func() time.Time
		kind fault.Kind
	}{
		{"a proxy of another cluster", serveTLS(t, other.ServiceCertificate(identity.Proxy, "proxy-1"), identity.ALPNTunnel), time.Now, fault.Denied},
		{"a node of this cluster", serveTLS(t, c.ServiceCertificate(identity.Node, "web-2"), identity.ALPNTunnel), time.Now, fault.Unavailable},
		{"a proxy that does not speak tunnel", serveTLS(t, c.ServiceCertificate(identity.Proxy, "proxy-1"), "h2"), time.Now, fault.Unavailable},
		{"a proxy by a clock 10 minutes behind", good, membertest.SkewedClock(-10 * time.Minute), fault.Expired},
		{"nobody", "127.0.0.1:1", time.Now, fault.Unavailable},
	} {
		_, _, err := newTunnels(t, c, tt.addr, tt.now).dial(t.Context(), tt.addr)
		if !fault.Is(err, tt.kind) || fault.Remedy(err) == "" {
			t.Errorf("%s: got %v, want kind %s with a remedy", tt.name, err, tt.kind)
		}
	}
}

func TestASecondTunnelToTheSameProxyIsASpare(t *testing.T) {
	c := membertest.New(t)
	addr := serveTLS(t, c.ServiceCertificate(identity.Proxy, "proxy-1"), identity.ALPNTunnel)
	l := newTunnels(t, c, addr, time.Now)
	if !l.claim("proxy-1") {
		t.Fatal("got the first refused")
	}
	if stood, err := l.connectOnce(t.Context(), addr); stood || !errors.Is(err, errSpare) {
		t.Errorf("got %v, %v, want a spare", stood, err)
	}
	l.release("proxy-1")
	if _, err := l.connectOnce(t.Context(), addr); errors.Is(err, errSpare) {
		t.Error("got a spare after the first tunnel ended, want a try")
	}
}

func TestADialThatHangsEnds(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0") // takes connections and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	c := membertest.New(t)
	if _, err := newTunnels(t, c, ln.Addr().String(), time.Now).connectOnce(ctx, ln.Addr().String()); err == nil {
		t.Error("got a tunnel, want an end")
	}
}
