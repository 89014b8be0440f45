package port

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"go.uber.org/goleak"

	"github.com/threshold-access/threshold/ca"
	"github.com/threshold-access/threshold/ca/catest"
	"github.com/threshold-access/threshold/ca/keyring"
	"github.com/threshold-access/threshold/ca/keyring/keyringtest"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/identity"
)

const (
	cluster  = "example.com"
	patience = 30 * time.Second // for what must happen, and does at once unless it is broken
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// testPort is a running port. Its API answers with the caller's kind, and with the forwarded address if
// there is one.
type testPort struct {
	*testing.T
	*Port
	addr     string
	keys     *keyring.Keyring
	ca       *ca.CA
	proxyKey *ecdsa.PrivateKey // of the only proxy whose signature verifies
	stop     func() error      // ends the port and returns what Run returned
}

// newTestPort runs a port until the test ends. adjust may lower its bounds before.
func newTestPort(t *testing.T, adjust ...func(*Port)) *testPort {
	t.Helper()
	port := &testPort{T: t, keys: keyringtest.New(t, cluster, time.Now()), proxyKey: newKey(t)}
	var err error
	port.ca, err = ca.New(ca.Config{Cluster: cluster, Keys: port.keys})
	port.must(err)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	port.must(err)
	port.addr = ln.Addr().String()
	port.Port, err = New(Config{Listener: ln, Log: slog.New(slog.DiscardHandler)})
	port.must(err)
	for _, a := range adjust {
		a(port.Port)
	}
	own := port.machine(identity.Auth)
	public := port.keys.Public()
	roots := identity.Roots{Users: x509.NewCertPool(), Services: x509.NewCertPool()}
	roots.Users.AddCert(public.UserX509[0])
	roots.Services.AddCert(public.ServiceX509[0])
	cfg := RunConfig{
		Cluster:         cluster,
		Pin:             port.keys.Pin(),
		Roots:           roots,
		Certificate:     func() *tls.Certificate { return own },
		Handler:         http.HandlerFunc(answerCaller),
		VerifyForwarded: port.verifyForwarded,
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- port.Port.Run(ctx, cfg) }()
	port.stop = sync.OnceValue(func() error { cancel(); return <-ended })
	t.Cleanup(func() { _ = port.stop() })
	return port
}

func answerCaller(w http.ResponseWriter, r *http.Request) {
	c, err := CallerOf(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	_, _ = io.WriteString(w, string(c.Kind))
	if c.Proxy != "" {
		_, _ = io.WriteString(w, c.Addr.String()+" by "+c.Proxy)
	}
}

func (port *testPort) verifyForwarded(_ context.Context, f authrpc.ForwardedFrom) (string, error) {
	if !f.Verify(&port.proxyKey.PublicKey) {
		return "", errors.New("not signed by the proxy")
	}
	return "proxy-1", nil
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (port *testPort) must(err error) {
	port.Helper()
	if err != nil {
		port.Fatal(err)
	}
}

// machine is the service certificate of a machine of the kind.
func (port *testPort) machine(kind identity.Kind) *tls.Certificate {
	port.Helper()
	const id = "00000000000000000000000000000001"
	return port.issue(ca.Request{
		Profile:  ca.Service,
		Identity: identity.Identity{Kind: kind, Cluster: cluster, Name: "m", ID: id},
	})
}

func (port *testPort) issue(r ca.Request) *tls.Certificate {
	port.Helper()
	key := newKey(port.T)
	r.X509Key = key.Public()
	out := catest.Issue(port.T, port.ca, r)
	cert := &tls.Certificate{PrivateKey: key, Leaf: out.X509}
	for _, c := range out.Chain {
		cert.Certificate = append(cert.Certificate, c.Raw)
	}
	return cert
}

// clientTLS is the configuration of a client that knows the pin.
func (port *testPort) clientTLS() *tls.Config {
	return identity.PinnedTLS(port.keys.Pin(), cluster, identity.ALPNAuth, nil, time.Now, identity.Auth)
}

// ask makes one request over a connection of its own, with the certificate unless it is nil, and returns the
// API's answer.
func (port *testPort) ask(cert *tls.Certificate) (string, error) {
	cfg := port.clientTLS()
	if cert != nil {
		cfg.Certificates = []tls.Certificate{*cert}
	}
	return port.get((&tls.Dialer{Config: cfg}).DialContext)
}

// askForwarded is ask for an anonymous client whose connection is forwarded by the proxy that has the key.
func (port *testPort) askForwarded(key *ecdsa.PrivateKey) (string, error) {
	return port.get(func(ctx context.Context, network, addr string) (net.Conn, error) {
		raw, err := net.Dial(network, addr)
		if err != nil {
			return nil, err
		}
		conn := tls.Client(&forwardingConn{Conn: raw, key: key}, port.clientTLS())
		if err := conn.HandshakeContext(ctx); err != nil {
			raw.Close()
			return nil, err
		}
		return conn, nil
	})
}

func (port *testPort) get(
	dialTLS func(ctx context.Context, network, addr string) (net.Conn, error),
) (string, error) {
	transport := &http.Transport{DialTLSContext: dialTLS}
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport}).Get("https://" + port.addr)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return string(b), err
}

// forwardingConn sends a signed forwarded address in front of the first write, which is the ClientHello.
type forwardingConn struct {
	net.Conn
	key  *ecdsa.PrivateKey
	sent bool
}

func (c *forwardingConn) Write(b []byte) (n int, err error) {
	if !c.sent {
		c.sent = true
		const proxyID = "0123456789abcdef0123456789abcdef"
		from := netip.MustParseAddrPort("192.0.2.7:40022")
		header, err := authrpc.SignForwardedFrom(c.key, proxyID, from, b)
		if err != nil {
			return 0, err
		}
		if _, err := c.Conn.Write(header); err != nil {
			return 0, err
		}
	}
	return c.Conn.Write(b)
}

func TestTheAPIGetsTheForwardedAddress(t *testing.T) {
	t.Parallel()
	port := newTestPort(t)
	if got, err := port.askForwarded(port.proxyKey); err != nil || got != "192.0.2.7:40022 by proxy-1" {
		t.Errorf("got %q, %v, want the address that the proxy signed", got, err)
	}
	if got, err := port.askForwarded(newKey(t)); err == nil {
		t.Errorf("got %q with an address that another key signed, want it refused", got)
	}
}

// The API learns the kind of each caller from its certificate; a client without one is anonymous.
func TestTheAPIGetsTheCallersKind(t *testing.T) {
	t.Parallel()
	port := newTestPort(t)
	alice := identity.Identity{
		Kind:      identity.User,
		Profile:   identity.UserProfile,
		Cluster:   cluster,
		Name:      "alice",
		Connector: "corp",
		Subject:   "1",
		LoginID:   "l",
	}
	for want, cert := range map[string]*tls.Certificate{
		"":      nil,
		"user":  port.issue(ca.Request{Profile: ca.User, Identity: alice}),
		"node":  port.machine(identity.Node),
		"proxy": port.machine(identity.Proxy),
		"auth":  port.machine(identity.Auth),
	} {
		if got, err := port.ask(cert); err != nil || got != want {
			t.Errorf("got %q, %v, want %q", got, err, want)
		}
	}
	if err := port.stop(); err != nil {
		t.Errorf("got %v from Run, want nil", err)
	}
	if c := port.Counts(); c.Open != 0 || c.Accepted != 5 || c.Anonymous != 1 {
		t.Errorf("got %+v, want five accepted, one of them anonymous, and none open", c)
	}
}

// A connection that the raft layer dials arrives at the raft layer, over the same port as the API's.
func TestRaftConnectsThroughThePort(t *testing.T) {
	t.Parallel()
	port := newTestPort(t)
	layer := port.Raft()
	_, err := port.ask(nil) // returns when the port runs
	port.must(err)
	dialled, err := layer.Dial(raft.ServerAddress(port.addr), 10*time.Second)
	port.must(err)
	defer dialled.Close()
	accepted, err := layer.Accept()
	port.must(err)
	defer accepted.Close()
	_, err = dialled.Write([]byte("vote"))
	port.must(err)
	got := make([]byte, 4)
	if _, err := io.ReadFull(accepted, got); err != nil || string(got) != "vote" {
		t.Errorf("got %q, %v, want vote", got, err)
	}
	port.must(layer.Close())
	if _, err := layer.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v after Close, want closed", err)
	}
}

func TestRaftDialFailsBeforeThePortRuns(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p, err := New(Config{Listener: ln, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if _, err := p.Raft().Dial(raft.ServerAddress(ln.Addr().String()), time.Second); err == nil {
		t.Error("got a connection of a replica that has no certificate yet, want an error")
	}
}

// With room for one anonymous connection, the second closes the first. A member beside them is served.
func TestAnonymousConnectionsDoNotDisplaceMembers(t *testing.T) {
	t.Parallel()
	port := newTestPort(t, func(p *Port) { p.anonymous.max = 1 })
	first := port.connect()
	defer first.Close()
	// A client's handshake ends before the server's does. A response shows that the server's has ended, too.
	_, err := io.WriteString(first, "GET / HTTP/1.1\r\nHost: auth\r\n\r\n")
	port.must(err)
	resp, err := http.ReadResponse(bufio.NewReader(first), nil)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("the first anonymous client: got %v, %v, want it served", resp, err)
	}
	if got, err := port.ask(nil); err != nil || got != "" {
		t.Errorf("a second anonymous client: got %q, %v, want it served", got, err)
	}
	port.must(first.SetReadDeadline(time.Now().Add(patience)))
	var timeout net.Error
	if _, err := first.Read(make([]byte, 1)); err == nil || errors.As(err, &timeout) && timeout.Timeout() {
		t.Errorf("the first anonymous client: got %v, want its connection closed to make room", err)
	}
	if port.Counts().Evicted == 0 {
		t.Error("got no eviction counted")
	}
	if got, err := port.ask(port.machine(identity.Node)); err != nil || got != "node" {
		t.Errorf("a node beside them: got %q, %v, want it served", got, err)
	}
}

func TestTheNumberOfConnectionsIsBounded(t *testing.T) {
	t.Parallel()
	port := newTestPort(t, func(p *Port) { p.conns = make(chan struct{}, 1) })
	first := port.connect()
	if _, err := port.ask(nil); err == nil {
		t.Error("a second connection was served, want it closed")
	}
	first.Close()
	for until := time.Now().Add(patience); ; { // the server notices a moment later
		if _, err := port.ask(nil); err == nil {
			break
		} else if time.Now().After(until) {
			t.Fatalf("after the first was closed: got %v, want it served", err)
		}
	}
	if port.Counts().Full == 0 {
		t.Error("got no connection counted as one too many")
	}
}

// Clients that send nothing, or no TLS, do not delay others; and they do not hold up the end of the port.
func TestStalledHandshakesDoNotBlockOthers(t *testing.T) {
	t.Parallel()
	port := newTestPort(t)
	for _, garbage := range []string{
		"", "\x16", "\x16\x03\x01\x02", "GET / HTTP/1.1\r\n\r\n", "SSH-2.0-x\r\n",
	} {
		conn, err := net.Dial("tcp", port.addr)
		port.must(err)
		defer conn.Close()
		_, err = io.WriteString(conn, garbage)
		port.must(err)
	}
	if _, err := port.ask(nil); err != nil {
		t.Errorf("beside stalled clients: got %v, want an answer", err)
	}
	began := time.Now()
	if err := port.stop(); err != nil || time.Since(began) > handshakeTimeout {
		t.Errorf("got %v after %s, want stalled handshakes to end with the port", err, time.Since(began))
	}
}

// However many clients stall in the handshake, others are answered at once.
func TestAFloodOfStalledHandshakesDoesNotBlockOthers(t *testing.T) {
	t.Parallel()
	port := newTestPort(t, func(p *Port) { p.handshakes.max = 16 })
	node := port.machine(identity.Node)
	for range 100 {
		conn, err := net.Dial("tcp", port.addr)
		port.must(err)
		defer conn.Close()
		_, err = io.WriteString(conn, "\x16\x03\x01")
		port.must(err)
	}
	began := time.Now()
	if got, err := port.ask(node); err != nil || got != "node" {
		t.Errorf("a node beside them: got %q, %v, want it served", got, err)
	}
	if _, err := port.ask(nil); err != nil {
		t.Errorf("an anonymous client beside them: got %v, want it served", err)
	}
	if took := time.Since(began); took > handshakeTimeout/2 {
		t.Errorf("got answers after %s, want them at once", took)
	}
}

func TestARequestFromOutsideThePortIsRefused(t *testing.T) {
	t.Parallel()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "/", nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := CallerOf(r); err == nil {
		t.Error("got a caller, want an error")
	}
}

// connect does a TLS handshake without a client certificate and sends nothing.
func (port *testPort) connect() *tls.Conn {
	port.Helper()
	cfg := &tls.Config{InsecureSkipVerify: true, NextProtos: []string{identity.ALPNAuth}}
	conn, err := tls.Dial("tcp", port.addr, cfg)
	port.must(err)
	return conn
}

func FuzzChooseALPN(f *testing.F) {
	f.Add("threshold-auth", "")
	f.Add("threshold-raft", "")
	f.Add("threshold-auth", "threshold-raft")
	f.Fuzz(func(t *testing.T, a, b string) {
		offered := slices.DeleteFunc([]string{a, b}, func(s string) bool { return s == "" })
		got, err := chooseALPN(offered)
		if err == nil && (len(offered) != 1 || got != offered[0] || allowedKinds[got] == nil) {
			t.Errorf("got %q of %q", got, offered)
		}
	})
}
