package mux_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/clustertest"
	"github.com/threshold-access/threshold/internal/connqueue"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/fault/faulttest"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/rules"
	"github.com/threshold-access/threshold/proxy/mux"
	"github.com/threshold-access/threshold/proxy/proxytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// testRules are the rules in force; a test may replace them.
type testRules struct{ atomic.Pointer[rules.Trust] }

func (r *testRules) Current() *rules.Trust { return r.Load() }

// pipeListener listens in memory, so that it works in a synctest bubble.
type pipeListener struct{ *connqueue.Listener }

func newPipeListener() *pipeListener { return &pipeListener{connqueue.New(&net.TCPAddr{})} }

func (l *pipeListener) dial() net.Conn { return l.dialFrom(nil) }

// dialFrom dials with addr as the client's address. With nil the address is that of a pipe, which is no IP
// address.
func (l *pipeListener) dialFrom(addr net.Addr) net.Conn {
	near, far := net.Pipe()
	l.Put(context.Background(), addrConn{far, addr})
	return near
}

// addrConn is a connection with another remote address. Nil keeps the connection's own.
type addrConn struct {
	net.Conn
	addr net.Addr
}

func (c addrConn) RemoteAddr() net.Addr {
	if c.addr == nil {
		return c.Conn.RemoteAddr()
	}
	return c.addr
}

func tcp(addr string) net.Addr { return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(addr)) }

// served is a connection that reached a server.
type served struct {
	by   string // "dial", "tunnel", "web", or "ssh " with the first bytes
	peer identity.Peer
	from string
}

// testMux is a Mux that runs, with servers that report their connections and close them.
type testMux struct {
	*proxytest.Auth
	rules  *testRules
	dial   func() net.Conn // connects to the listener
	mux    *mux.Mux
	served chan served
	stop   func() error // stops the Mux and returns the error of Run; every test calls it
}

// startMux starts a Mux on a pipeListener.
func startMux(t *testing.T, a *proxytest.Auth, trust *rules.Trust) *testMux {
	t.Helper()
	l := newPipeListener()
	m := startOn(a, trust, l)
	m.dial = l.dial
	return m
}

func startOn(a *proxytest.Auth, trust *rules.Trust, ln net.Listener) *testMux {
	return startWithAuthAt(a, a.Addr(), trust, ln)
}

func startWithAuthAt(a *proxytest.Auth, authAddr string, trust *rules.Trust, ln net.Listener) *testMux {
	return startConfig(a, trust, mux.Config{Listener: ln, AuthAddr: authAddr})
}

// startConfig starts a Mux. cfg has the listener, the address of the auth service and what the test is about;
// startConfig fills in the rest.
//
// Its SSH server reads up to 9 bytes, and treats a few words as a test needs: SSH-alice has a valid
// certificate, SSH-bogus an invalid one, SSH-plain none, SSH-old an expired one, and SSH-panic makes the
// server panic.
func startConfig(auth *proxytest.Auth, trust *rules.Trust, cfg mux.Config) *testMux {
	m := &testMux{Auth: auth, rules: &testRules{}, served: make(chan served, 300)}
	m.rules.Store(trust)
	own, _ := auth.TLSCertificate()
	serve := func(by string) func(context.Context, net.Conn, identity.Peer) {
		return func(_ context.Context, c net.Conn, peer identity.Peer) {
			m.served <- served{by, peer, c.RemoteAddr().String()}
			c.Close()
		}
	}
	cfg.Cluster, cfg.Rules, cfg.SignForwardedFrom = clustertest.Name, m.rules, signForwardedFrom(own)
	if cfg.Log == nil {
		cfg.Log = proxytest.Log()
	}
	cfg.Service = func() (*tls.Certificate, error) { return own, nil }
	cfg.Web = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return own, nil }
	cfg.ServeSSH = func(_ context.Context, c net.Conn, peerKnown func(identity.Identity)) error {
		b := make([]byte, 9)
		_ = c.SetReadDeadline(time.Now().Add(time.Second))
		n, _ := c.Read(b)
		switch string(b[:n]) {
		case "SSH-panic":
			panic("a defect")
		case "SSH-alice":
			alice := auth.User("alice@example.com")
			alice.Expires = time.Now().Add(8 * time.Hour)
			peerKnown(alice)
		case "SSH-bogus":
			return faulttest.Wrap(errors.New("invalid certificate"), fault.Denied, "test", "no", "no")
		case "SSH-plain":
			return faulttest.Wrap(errors.New("no certificate"), fault.Unauthenticated, "test", "no", "no")
		case "SSH-old":
			return faulttest.Wrap(errors.New("expired certificate"), fault.Expired, "test", "no", "no")
		}
		m.served <- served{by: "ssh " + string(b[:n]), from: c.RemoteAddr().String()}
		c.Close()
		return nil
	}
	cfg.ServeDial = serve("dial")
	cfg.ServeTunnel = func(ctx context.Context, c net.Conn, node identity.Peer) func() {
		return func() { serve("tunnel")(ctx, c, node) }
	}
	cfg.ServeWeb = func(c net.Conn) {
		m.served <- served{by: "web", from: c.RemoteAddr().String()}
		c.Close()
	}
	m.mux = mux.New(cfg)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.mux.Run(ctx) }()
	m.stop = func() error { cancel(); return <-done }
	return m
}

// proxyID is the id of this proxy in forwarded addresses.
const proxyID = identity.MachineID("0123456789abcdef0123456789abcdef")

func signForwardedFrom(own *tls.Certificate) func(netip.AddrPort, []byte) ([]byte, error) {
	return func(from netip.AddrPort, hello []byte) ([]byte, error) {
		return authrpc.SignForwardedFrom(own.PrivateKey.(crypto.Signer), proxyID, from, hello)
	}
}

func openRules(t *testing.T, a *proxytest.Auth) *rules.Trust {
	t.Helper()
	trust, err := rules.Open(a.Pin(), a.SignRules())
	if err != nil {
		t.Fatal(err)
	}
	return trust
}

// startTCP starts a Mux on a TCP port, where clients have IP addresses.
func startTCP(t *testing.T, a *proxytest.Auth, authAddr string, trust *rules.Trust) *testMux {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m := startWithAuthAt(a, authAddr, trust, ln)
	m.dial = func() net.Conn {
		c, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	return m
}

// The auth service sees only the address of the proxy, so the proxy signs the client's address and sends it
// first.
func TestAuthReceivesTheForwardedAddress(t *testing.T) {
	t.Parallel()
	a := proxytest.New(t)
	auth, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer auth.Close()
	port := startTCP(t, a, auth.Addr().String(), openRules(t, a))
	defer port.stop()
	client := port.dial()
	defer client.Close()
	cfg := &tls.Config{NextProtos: []string{identity.ALPNAuth}, InsecureSkipVerify: true}
	go tls.Client(client, cfg).Handshake()
	conn, err := auth.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, got, err := authrpc.ReadForwardedFrom(conn)
	if err != nil || got == nil {
		t.Fatalf("got %v, %v, want a forwarded address", got, err)
	}
	own, _ := a.TLSCertificate()
	if got.Addr.String() != client.LocalAddr().String() || got.ProxyID != proxyID {
		t.Errorf("got %+v, want %s from this proxy", got, client.LocalAddr())
	}
	if !got.Verify(own.PrivateKey.(crypto.Signer).Public()) {
		t.Error("the signature of the forwarded address is not valid")
	}
}

// handshake does a TLS handshake and then reads: in TLS 1.3 the server refuses a client certificate only
// after the client's part of the handshake. It returns nil when the server accepted the client.
func (m *testMux) handshake(cfg *tls.Config) error {
	raw := m.dial()
	defer raw.Close()
	cfg.InsecureSkipVerify = true
	tc := tls.Client(raw, cfg)
	defer tc.Close()
	if err := tc.Handshake(); err != nil {
		return err
	}
	_, err := tc.Read(make([]byte, 1))
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrClosedPipe) {
		return nil
	}
	return err
}

func certs(c *tls.Certificate) []tls.Certificate {
	if c == nil {
		return nil
	}
	return []tls.Certificate{*c}
}

// Users may use only the dial protocol, nodes only the tunnel protocol, and only with a valid certificate of
// this cluster. Everybody may use the web.
func TestWhichPeerMayUseWhichProtocol(t *testing.T) {
	t.Parallel()
	auth, foreign := proxytest.New(t), proxytest.New(t)
	port := startMux(t, auth, openRules(t, auth))
	alice, node := auth.User("alice@example.com", "ops"), auth.Machine(identity.Node, "web-1", nil)
	const dial, tunnel = "threshold-dial", "threshold-tunnel"
	expired := func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
	}
	server := func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }
	user, machine := auth.UserCertificate(alice, nil), auth.MachineCertificate(node, nil)
	proxy2 := auth.MachineCertificate(auth.Machine(identity.Proxy, "proxy-2", nil), nil)
	for _, tt := range []struct {
		name string
		alpn []string
		cert *tls.Certificate
		want string // the server; empty: refused
	}{
		{"a user on dial", []string{dial}, user, "dial"},
		{"a node on tunnel", []string{tunnel}, machine, "tunnel"},
		{"a browser", []string{"h2", "http/1.1"}, nil, "web"},
		{"curl without ALPN", nil, nil, "web"},
		{"a browser with a user certificate", []string{"h2"}, user, "web"},
		{"a node on dial", []string{dial}, machine, ""},
		{"a user on tunnel", []string{tunnel}, user, ""},
		{"a proxy on tunnel", []string{tunnel}, proxy2, ""},
		{"no certificate on dial", []string{dial}, nil, ""},
		{"no certificate on tunnel", []string{tunnel}, nil, ""},
		{"an expired user", []string{dial}, auth.UserCertificate(alice, expired), ""},
		{"an expired node", []string{tunnel}, auth.MachineCertificate(node, expired), ""},
		{"a user of another cluster", []string{dial}, foreign.UserCertificate(alice, nil), ""},
		{"a node of another cluster", []string{tunnel}, foreign.MachineCertificate(node, nil), ""},
		{"a user certificate for servers", []string{dial}, auth.UserCertificate(alice, server), ""},
		{"two threshold protocols", []string{dial, tunnel}, user, ""},
		{"a threshold protocol and the web", []string{dial, "h2"}, user, ""},
		{"auth and the web", []string{"http/1.1", "threshold-auth"}, nil, ""},
		{"raft", []string{"threshold-raft"}, machine, ""},
		{"a threshold protocol in capitals", []string{"THRESHOLD-DIAL"}, user, ""},
		{"an unknown protocol", []string{"smtp"}, nil, ""},
	} {
		err := port.handshake(&tls.Config{NextProtos: tt.alpn, Certificates: certs(tt.cert)})
		switch {
		case tt.want == "" && err == nil:
			t.Errorf("%s: got accepted, want refused", tt.name)
		case tt.want != "" && err != nil:
			t.Errorf("%s: got %v, want served by %s", tt.name, err, tt.want)
		case tt.want != "":
			got := <-port.served
			if got.by != tt.want || got.by == "dial" && got.peer.Name != alice.Name ||
				got.by == "tunnel" && got.peer.ID != node.ID {
				t.Errorf("%s: got %s as %s, want %s", tt.name, got.by, got.peer, tt.want)
			}
		}
	}
	if err := port.stop(); err != nil {
		t.Error(err)
	}
	select {
	case s := <-port.served:
		t.Errorf("got a further connection served by %s", s.by)
	default:
	}
	c := port.mux.Counters()
	if c.Refused.Load() != 16 || c.Dial.Load() != 1 || c.Tunnel.Load() != 1 || c.Web.Load() != 3 {
		t.Errorf("got %v, want 16 refused, one dial, one tunnel, three web", c.LogValue())
	}
}

// A client that resumes a session sends no certificate. The one it sent before is verified again.
func TestResumedSessionsAreVerifiedUnderCurrentRules(t *testing.T) {
	t.Parallel()
	auth, other := proxytest.New(t), proxytest.New(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0") // over a pipe resumption deadlocks: both sides write
	if err != nil {
		t.Fatal(err)
	}
	port := startOn(auth, openRules(t, auth), ln)
	port.dial = func() net.Conn {
		c, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	cfg := &tls.Config{
		NextProtos:         []string{"threshold-dial"},
		Certificates:       certs(auth.UserCertificate(auth.User("alice@example.com"), nil)),
		ClientSessionCache: tls.NewLRUClientSessionCache(4),
		ServerName:         "proxy",
	}
	resumed := false
	cfg.VerifyConnection = func(st tls.ConnectionState) error { resumed = st.DidResume; return nil }
	for range 2 {
		if err := port.handshake(cfg); err != nil {
			t.Fatal(err)
		}
	}
	if !resumed {
		t.Error("got a full handshake the second time, want the session resumed")
	}
	port.rules.Store(openRules(t, other)) // the authority has been replaced
	if err := port.handshake(cfg); err == nil {
		t.Error("got accepted with a session of a replaced authority, want refused")
	}
	port.stop()
}

// Connections that are neither SSH nor TLS are closed without an answer, except for clear HTTP, whose answer
// names https. A panic ends only its own connection.
func TestUnknownFirstBytes(t *testing.T) {
	t.Parallel()
	auth := proxytest.New(t)
	port := startMux(t, auth, openRules(t, auth))
	for name, first := range map[string][]byte{
		"garbage":                 []byte("\x00\x01\x02\x03"),
		"a broken ClientHello":    {22, 3, 1, 0, 4, 2, 0, 0, 0},
		"half an SSH version":     []byte("SSX"),
		"an oversize ClientHello": append([]byte{22, 3, 1, 0x40, 0, 1, 2, 0, 0}, make([]byte, 100)...),
	} {
		c := port.dial()
		go c.Write(first)
		if b, err := io.ReadAll(c); len(b) != 0 || err != nil && !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("%s: got %q, %v, want the connection closed", name, b, err)
		}
		c.Close()
	}
	c := port.dial()
	go c.Write([]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"))
	answer := make([]byte, 1024)
	n, _ := c.Read(answer)
	if !bytes.Contains(answer[:n], []byte("https://")) {
		t.Errorf("got %q for http, want an answer that names https", answer[:n])
	}
	c.Close()
	c = port.dial()
	c.Write([]byte("SSH-panic"))
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("got an answer from a server that panicked")
	}
	c.Close()
	c = port.dial()
	c.Write([]byte("SSH-"))
	if s := <-port.served; s.by != "ssh SSH-" {
		t.Errorf("got %q, want SSH with the bytes that were read ahead", s.by)
	}
	c.Close()
	port.stop()
	if c := port.mux.Counters(); c.Refused.Load() != 4 || c.Panics.Load() != 1 || c.ClearHTTP.Load() != 1 {
		t.Errorf("got %v, want 4 refused, one panic, one clear HTTP", c.LogValue())
	}
}

// Every stage before the peer is known has a deadline.
func TestStallsTimeOut(t *testing.T) {
	t.Parallel()
	auth := proxytest.New(t)
	trust := openRules(t, auth)
	hello := clientHello(t, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"threshold-dial"}})
	for _, tt := range []struct {
		name  string
		first []byte
		after time.Duration
		ssh   bool
	}{
		{"silence is taken for SSH", nil, time.Second + time.Second, true},
		{"after one byte of TLS", hello[:1], 10 * time.Second, false},
		{"in the middle of the ClientHello", hello[:len(hello)/2], 10 * time.Second, false},
		{"after the ClientHello", hello, 10 * time.Second, false},
		{"in the SSH version", []byte("SS"), 10 * time.Second, false},
	} {
		synctest.Test(t, func(t *testing.T) {
			port := startMux(t, auth, trust)
			conn, start := port.dial(), time.Now()
			if tt.first != nil {
				conn.Write(tt.first)
			}
			io.Copy(io.Discard, conn)
			if took := time.Since(start); took != tt.after {
				t.Errorf("%s: got closed after %s, want %s", tt.name, took, tt.after)
			}
			conn.Close()
			port.stop()
			if timedOut := port.mux.Counters().TimedOut.Load() == 1; timedOut == tt.ssh {
				t.Errorf("%s: got timed out %v, want %v", tt.name, timedOut, !tt.ssh)
			}
		})
	}
}

// clientHello returns the first message of a TLS client.
func clientHello(t *testing.T, cfg *tls.Config) []byte {
	near, far := net.Pipe()
	defer far.Close()
	go func() { _ = tls.Client(near, cfg).Handshake(); near.Close() }()
	b := make([]byte, 16<<10)
	n, err := far.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	return b[:n]
}

func TestStopClosesPendingConnections(t *testing.T) {
	t.Parallel()
	a := proxytest.New(t)
	m := startMux(t, a, openRules(t, a))
	c := m.dial()
	c.Write([]byte{22})
	if err := m.stop(); err != nil {
		t.Errorf("got %v, want a clean stop", err)
	}
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("got a byte after the stop, want the connection closed")
	}
}

// A client of the auth service sees the auth service's own certificate, so the proxy does not end TLS. If the
// auth service is down, the handshake fails.
func TestAuthConnectionsArePassedThroughUnopened(t *testing.T) {
	t.Parallel()
	auth := proxytest.New(t)
	trust := openRules(t, auth)
	port := startTCP(t, auth, auth.Addr(), trust)
	var server string
	cfg := &tls.Config{
		NextProtos:         []string{identity.ALPNAuth},
		InsecureSkipVerify: true,
		VerifyConnection: func(st tls.ConnectionState) error {
			server = st.PeerCertificates[0].Subject.CommonName
			return nil
		},
	}
	conn := tls.Client(port.dial(), cfg)
	if err := conn.Handshake(); err != nil || server != "auth-1" {
		t.Errorf("got %q, %v, want the auth service's own certificate", server, err)
	}
	conn.Close()
	port.stop()

	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone.Close()
	listener := newPipeListener()
	port = startWithAuthAt(auth, gone.Addr().String(), trust, listener)
	port.dial = listener.dial
	if err := port.handshake(cfg); err == nil {
		t.Error("got a handshake while the auth service is down, want an error")
	}
	port.stop()
}
