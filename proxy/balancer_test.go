package proxy

import (
	"crypto"
	"crypto/tls"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/coalesce"
	"github.com/threshold-access/threshold/internal/dial"
	"github.com/threshold-access/threshold/internal/egress"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/member/membertest"
	"github.com/threshold-access/threshold/internal/tunnel"
)

func behindBalancer(c *Config) {
	c.Transport, c.KeepAlive = dial.WebSocket, 10*time.Millisecond
	c.Balancers = []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}
}

// dialEgress opens a connection as tsh and machines do, who ask how the proxy wants to be spoken to.
func (d *testProxy) dialEgress(alpn string, cert *tls.Certificate, kind identity.Kind) *tls.Conn {
	d.t.Helper()
	way, err := egress.New(egress.Config{LearnTransport: true})
	if err != nil {
		d.t.Fatal(err)
	}
	conn, err := way.DialTLS(
		d.t.Context(),
		d.addr,
		identity.PinnedTLS(
			d.Pin(),
			membertest.Name,
			alpn,
			func() (*tls.Certificate, error) { return cert, nil },
			time.Now,
			kind,
		),
	)
	if err != nil {
		d.t.Fatal(err)
	}
	return conn
}

// Tunnel, dial and auth all work inside WebSockets, and each direction still ends by itself.
func TestEverythingWorksThroughATLSTerminatingBalancer(t *testing.T) {
	d := startProxy(t, time.Second, behindBalancer)
	id := d.Machine(identity.Node, "web-1", nil)
	cert := d.MachineCertificate(id, nil)
	node, err := tunnel.Connect(
		t.Context(),
		d.dialEgress(identity.ALPNTunnel, cert, identity.Proxy),
		cert.PrivateKey.(crypto.Signer),
		id.ID,
		"v9",
		time.Now,
	)
	if err != nil {
		t.Fatal(err)
	}
	defer node.Close()
	go func() {
		c, _, err := node.Accept()
		if err != nil {
			return
		}
		n, _ := io.Copy(io.Discard, c) // until the client's direction ends
		if n == 5 {
			io.WriteString(c, "heard all")
		}
		c.Close()
	}()
	outer := d.dialEgress(
		identity.ALPNDial,
		d.UserCertificate(d.User("alice@example.com", "ops"), nil),
		identity.Proxy,
	)
	beneath := coalesce.TransportOf(outer).Conn
	if _, ok := beneath.(*egress.Stream); !ok {
		t.Errorf("got a %T beneath, want the ping document to have been heeded", beneath)
	}
	conn := dial.Client(outer, dial.Request{Node: "web-1"})
	if _, err := io.WriteString(conn, "hello"); err != nil {
		t.Fatal(err)
	}
	if err := outer.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(conn); err != nil || string(got) != "heard all" {
		t.Errorf("got %q, %v after the half-close, want the node's last words", got, err)
	}
	conn.Close()

	way, err := egress.New(egress.Config{LearnTransport: true})
	if err != nil {
		t.Fatal(err)
	}
	through := authrpc.NewClientWithDialer(
		way,
		d.addr,
		identity.PinnedTLS(
			d.Pin(),
			membertest.Name,
			identity.ALPNAuth,
			d.TLSCertificate,
			time.Now,
			identity.Auth,
		),
	)
	defer through.Close()
	if _, err := authrpc.Call(t.Context(), through, authrpc.LocateNode, authrpc.LocateNodeRequest{Node: "x"}); err != nil {
		t.Errorf("auth through the proxy: %v", err)
	}
	if err := d.stop(); err != nil {
		t.Errorf("got %v at the stop, want none", err)
	}
}

func TestStopDrainsASessionInAWebSocket(t *testing.T) {
	d := startProxy(t, time.Minute, behindBalancer)
	d.attach("web-1")
	conn := dial.Client(
		d.dialEgress(
			identity.ALPNDial,
			d.UserCertificate(d.User("alice@example.com", "ops"), nil),
			identity.Proxy,
		),
		dial.Request{Node: "web-1"},
	)
	echo(t, conn)
	stopped := make(chan error, 1)
	go func() { stopped <- d.stop() }()
	for { // until the port is shut
		c, err := net.Dial("tcp", d.addr)
		if err != nil {
			break
		}
		c.Close()
	}
	echo(t, conn)
	conn.Close()
	if err := <-stopped; err != nil {
		t.Errorf("got %v, want a clean stop once the session ended", err)
	}
}

// What stands in between ends the outer TLS, and could be anybody's: the inner one must be of the cluster.
func TestAnotherClustersProxyBehindTheBalancerIsRefused(t *testing.T) {
	d, other := startProxy(t, time.Second, behindBalancer), startProxy(t, time.Second, behindBalancer)
	way, err := egress.New(egress.Config{LearnTransport: true})
	if err != nil {
		t.Fatal(err)
	}
	cert := d.UserCertificate(d.User("alice@example.com", "ops"), nil)
	_, err = way.DialTLS(
		t.Context(),
		other.addr,
		identity.PinnedTLS(
			d.Pin(),
			membertest.Name,
			identity.ALPNDial,
			func() (*tls.Certificate, error) { return cert, nil },
			time.Now,
			identity.Proxy,
		),
	)
	if err == nil {
		t.Error("got a connection to another cluster's proxy")
	}
}
