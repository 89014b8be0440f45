package uplink

import (
	"context"
	"crypto"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/threshold-access/threshold/internal/clustertest"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/tunnel"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// newTunnels makes the tunnels of a node that dials addr.
func newTunnels(t *testing.T, c *clustertest.Cluster, addr string, now func() time.Time) *Tunnels {
	t.Helper()
	id := c.Machine(identity.Node, "web-1", nil)
	cert := c.MachineCertificate(id, nil)
	return New(Config{
		Proxies:         []string{addr},
		ID:              id.ID,
		Key:             cert.PrivateKey.(crypto.Signer),
		Instance:        identity.NewInstanceID(),
		Attached:        func() {},
		Rules:           func(tunnel.PushedRules) []string { return nil },
		Acknowledgement: func() ([]byte, <-chan struct{}, error) { return []byte("{}"), nil, nil },
		Pin:             c.Pin(),
		Cluster:         clustertest.Name,
		Cert:            func() (*tls.Certificate, error) { return cert, nil },
		Now:             now,
		Log:             slog.New(slog.DiscardHandler),
	})
}

// serveTLS shows one certificate to whoever dials, until the test ends.
func serveTLS(t *testing.T, cert *tls.Certificate, alpn string) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	clustertest.Serve(t, ln, clustertest.Protocol{
		Name:        alpn,
		Certificate: func() *tls.Certificate { return cert },
		Serve:       func(context.Context, *tls.Conn) {},
	})
	return ln.Addr().String()
}

// Servers with other certificates, and a node with a wrong clock, are told apart in the kind of the fault.
func TestOnlyAProxyOfTheClusterIsTrusted(t *testing.T) {
	t.Parallel()
	c, other := clustertest.NewInMemory(t), clustertest.NewInMemory(t)
	good := serveTLS(t, c.ServiceCertificate(identity.Proxy, "proxy-1"), identity.ALPNTunnel)
	conn, proxy, err := newTunnels(t, c, good, time.Now).dial(t.Context(), good)
	if err != nil || proxy.Name != "proxy-1" {
		t.Fatalf("got %q, %v, want proxy-1", proxy.Name, err)
	}
	conn.Close()
	foreign := serveTLS(t, other.ServiceCertificate(identity.Proxy, "proxy-1"), identity.ALPNTunnel)
	node := serveTLS(t, c.ServiceCertificate(identity.Node, "web-2"), identity.ALPNTunnel)
	behind := clustertest.SkewedClock(-10 * time.Minute)
	http2 := serveTLS(t, c.ServiceCertificate(identity.Proxy, "proxy-1"), "h2")
	for _, tt := range []struct {
		name string
		addr string
		now  func() time.Time
		kind fault.Kind
	}{
		{"a proxy of another cluster", foreign, time.Now, fault.Denied},
		{"a node of this cluster", node, time.Now, fault.Unavailable},
		{"a proxy that does not offer the tunnel protocol", http2, time.Now, fault.Unavailable},
		{"a proxy by a clock 10 minutes behind", good, behind, fault.Expired},
		{"an address without a listener", "127.0.0.1:1", time.Now, fault.Unavailable},
	} {
		_, _, err := newTunnels(t, c, tt.addr, tt.now).dial(t.Context(), tt.addr)
		if !fault.Is(err, tt.kind) || fault.Remedy(err) == "" {
			t.Errorf("%s: got %v, want kind %s with a remedy", tt.name, err, tt.kind)
		}
	}
}

func TestASecondTunnelToTheSameProxyIsASpare(t *testing.T) {
	t.Parallel()
	c := clustertest.NewInMemory(t)
	addr := serveTLS(t, c.ServiceCertificate(identity.Proxy, "proxy-1"), identity.ALPNTunnel)
	tunnels := newTunnels(t, c, addr, time.Now)
	if !tunnels.claim("proxy-1") {
		t.Fatal("got the first refused")
	}
	if connected, err := tunnels.connectOnce(t.Context(), addr); connected || !errors.Is(err, errSpare) {
		t.Errorf("got %v, %v, want a spare", connected, err)
	}
	tunnels.release("proxy-1")
	if _, err := tunnels.connectOnce(t.Context(), addr); errors.Is(err, errSpare) {
		t.Error("got a spare after the first tunnel ended, want a try")
	}
}

func TestADialThatHangsEnds(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0") // takes connections and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	c := clustertest.NewInMemory(t)
	addr := ln.Addr().String()
	if _, err := newTunnels(t, c, addr, time.Now).connectOnce(ctx, addr); err == nil {
		t.Error("got a tunnel, want an end")
	}
}

// serveTunnels is a proxy with the certificate: it accepts each tunnel by what it says of itself, and hands
// it to use.
func serveTunnels(
	t *testing.T, c *clustertest.Cluster, cert *tls.Certificate, says tunnel.Proxy,
	use func(context.Context, *tunnel.Attached),
) (addr string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	clustertest.Serve(t, ln, clustertest.Protocol{
		Name:        identity.ALPNTunnel,
		Certificate: func() *tls.Certificate { return cert },
		ClientAuth:  tls.RequireAnyClientCert,
		Serve: func(ctx context.Context, conn *tls.Conn) {
			node, err := c.VerifyPeer(conn.ConnectionState().PeerCertificates, identity.Node)
			if err != nil {
				return
			}
			if a, err := tunnel.Accept(ctx, conn, node, says); err == nil {
				use(ctx, a)
				a.Close()
			}
		},
	})
	return ln.Addr().String()
}

// A node leaves a proxy that says it is another one than its certificate says: the attachment, and whatever
// else the node says of it, would name the wrong proxy.
func TestAProxyMustSayWhoItIs(t *testing.T) {
	t.Parallel()
	c := clustertest.NewInMemory(t)
	proxy, other := c.Machine(identity.Proxy, "proxy-1", nil), c.Machine(identity.Proxy, "proxy-2", nil)
	cert := c.MachineCertificate(proxy, nil)
	for _, tt := range []struct {
		what      string
		says      tunnel.Proxy
		connected bool
	}{
		{"itself", tunnel.Proxy{ID: proxy.ID, Name: proxy.Name, Now: time.Now}, true},
		{"another name", tunnel.Proxy{ID: proxy.ID, Name: other.Name, Now: time.Now}, false},
		{"another id", tunnel.Proxy{ID: other.ID, Name: proxy.Name, Now: time.Now}, false},
	} {
		hangUp := func(context.Context, *tunnel.Attached) {} // also ends connectOnce
		addr := serveTunnels(t, c, cert, tt.says, hangUp)
		tunnels := newTunnels(t, c, addr, time.Now)
		if connected, err := tunnels.connectOnce(t.Context(), addr); connected != tt.connected {
			t.Errorf("%s: got connected %v (%v), want %v", tt.what, connected, err, tt.connected)
		}
	}
}

// A proxy is locked while the node has tunnels to two. The tunnel to it ends, the node dials it and leaves it
// again, and the other tunnel stays.
func TestALockedProxyIsLeft(t *testing.T) {
	t.Parallel()
	c := clustertest.NewInMemory(t)
	attached, ended := make(chan string, 10), make(chan string, 10)
	serve := func(name string) (addr string) {
		proxy := c.Machine(identity.Proxy, name, nil)
		says := tunnel.Proxy{ID: proxy.ID, Name: proxy.Name, Now: time.Now}
		cert := c.MachineCertificate(proxy, nil)
		return serveTunnels(t, c, cert, says, func(ctx context.Context, a *tunnel.Attached) {
			attached <- name
			select {
			case <-a.Done():
				ended <- name
			case <-ctx.Done():
			}
		})
	}
	first, second := serve("proxy-1"), serve("proxy-2")
	tunnels := newTunnels(t, c, first, time.Now)
	tunnels.cfg.Proxies, tunnels.cfg.Tunnels = []string{first, second}, 2
	var mu sync.Mutex
	locked, changed := "", make(chan struct{})
	refused := make(chan struct{}, 100)
	lock := func(name string) {
		mu.Lock()
		defer mu.Unlock()
		locked = name
		close(changed)
		changed = make(chan struct{})
	}
	tunnels.cfg.Refuse = func(proxy identity.Identity) error {
		mu.Lock()
		defer mu.Unlock()
		if proxy.Name != locked {
			return nil
		}
		refused <- struct{}{}
		return errors.New("locked")
	}
	tunnels.cfg.Changed = func() <-chan struct{} { mu.Lock(); defer mu.Unlock(); return changed }
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- tunnels.Run(ctx) }()
	next := func(what string, from <-chan string) string {
		t.Helper()
		select {
		case name := <-from:
			return name
		case <-time.After(20 * time.Second):
			t.Fatalf("%s: nothing for 20 s", what)
			return ""
		}
	}
	if a, b := next("a tunnel", attached), next("a second tunnel", attached); a == b {
		t.Fatalf("got two tunnels to %s", a)
	}
	for range 50 {
		lock("proxy-3") // others come and go
	}
	lock("proxy-2")
	if name := next("the end of a tunnel", ended); name != "proxy-2" {
		t.Errorf("got the tunnel to %s ended, want that to the locked proxy", name)
	}
	for range 2 { // by the tunnel, and by a dial after that
		select {
		case <-refused:
		case <-time.After(20 * time.Second):
			t.Fatal("the node does not dial the proxy again")
		}
	}
	select {
	case name := <-attached:
		t.Errorf("got a tunnel to %s while it is locked", name)
	case name := <-ended:
		t.Errorf("got the tunnel to %s ended", name)
	default:
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
