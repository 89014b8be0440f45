package proxy

import (
	"crypto/tls"
	"io"
	"net/netip"
	"testing"
	"time"

	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/coalesce"
	"github.com/threshold-access/threshold/internal/dial"
	"github.com/threshold-access/threshold/internal/egress"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/tunnel"
	"github.com/threshold-access/threshold/proxy/proxytest"
)

// behindBalancer configures a proxy behind a balancer that ends TLS. The test connects directly, as if it
// were the balancer.
func behindBalancer(c *Config) {
	c.Transport, c.KeepAlive = dial.WebSocket, 10*time.Millisecond
	c.Balancers = []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}
}

// learningDialer asks the proxy for its transport first, as tsh and machines do.
func learningDialer(t *testing.T) *egress.Dialer {
	t.Helper()
	d, err := egress.New(egress.Config{LearnTransport: true})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// dialEgress opens a connection with a learningDialer.
func (p *testProxy) dialEgress(alpn string, cert *tls.Certificate) *tls.Conn {
	p.t.Helper()
	conn, err := learningDialer(p.t).DialTLS(p.t.Context(), p.addr, p.tlsConfig(alpn, cert))
	if err != nil {
		p.t.Fatal(err)
	}
	return conn
}

// Tunnel, dial and auth connections work inside WebSockets, and each direction can be closed on its own.
func TestEverythingWorksThroughATLSTerminatingBalancer(t *testing.T) {
	t.Parallel()
	running := startProxy(t, time.Second, behindBalancer)
	id := running.Machine(identity.Node, "web-1", nil)
	cert := running.MachineCertificate(id, nil)
	conn := running.dialEgress(identity.ALPNTunnel, cert)
	node, err := tunnel.Connect(t.Context(), conn, proxytest.Greeting(id.ID, cert, "v9"))
	if err != nil {
		t.Fatal(err)
	}
	defer node.Close()
	go func() {
		c, _, err := node.Accept()
		if err != nil {
			return
		}
		n, _ := io.Copy(io.Discard, c) // until the client closes its half
		if n == 5 {
			io.WriteString(c, "read all 5")
		}
		c.Close()
	}()
	outer := running.dialEgress(identity.ALPNDial, running.userCertificate())
	beneath := coalesce.TransportOf(outer).Conn
	if _, ok := beneath.(*egress.Stream); !ok {
		t.Errorf("got a %T under TLS, want a WebSocket, as the ping document says", beneath)
	}
	client := dial.Client(outer, dial.Request{Node: "web-1"})
	if _, err := io.WriteString(client, "hello"); err != nil {
		t.Fatal(err)
	}
	if err := outer.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(client); err != nil || string(got) != "read all 5" {
		t.Errorf("got %q, %v after the half-close, want the node's answer", got, err)
	}
	client.Close()

	auth := authrpc.NewClientWithDialer(learningDialer(t), running.addr, running.authTLSConfig())
	defer auth.Close()
	callAuth(t, auth)
	if err := running.stop(); err != nil {
		t.Errorf("got %v at the stop, want none", err)
	}
}

func TestStopDrainsASessionInAWebSocket(t *testing.T) {
	t.Parallel()
	p := startProxy(t, time.Minute, behindBalancer)
	p.attach("web-1")
	outer := p.dialEgress(identity.ALPNDial, p.userCertificate())
	conn := dial.Client(outer, dial.Request{Node: "web-1"})
	echo(t, conn)
	stopped := make(chan error, 1)
	go func() { stopped <- p.stop() }()
	p.waitUntilPortIsClosed()
	echo(t, conn)
	conn.Close()
	if err := <-stopped; err != nil {
		t.Errorf("got %v, want a clean stop once the session has ended", err)
	}
}

// A balancer that ends the outer TLS may connect to anywhere. The inner TLS verifies that the proxy is of the
// cluster.
func TestAnotherClustersProxyBehindTheBalancerIsRefused(t *testing.T) {
	t.Parallel()
	p, other := startProxy(t, time.Second, behindBalancer), startProxy(t, time.Second, behindBalancer)
	cfg := p.tlsConfig(identity.ALPNDial, p.userCertificate())
	if _, err := learningDialer(t).DialTLS(t.Context(), other.addr, cfg); err == nil {
		t.Error("got a connection to another cluster's proxy")
	}
}
