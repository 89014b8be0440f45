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
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/member/membertest"
	"github.com/threshold-access/threshold/internal/rules"
	"github.com/threshold-access/threshold/proxy/mux"
	"github.com/threshold-access/threshold/proxy/proxytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// testRules is the rules of the moment.
type testRules struct{ atomic.Pointer[rules.Trust] }

func (c *testRules) Current() *rules.Trust { return c.Load() }

// pipeListener is an in-memory listener, so that stalls take no real time.
type pipeListener struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newPipeListener() *pipeListener {
	return &pipeListener{conns: make(chan net.Conn), done: make(chan struct{})}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}
func (l *pipeListener) Close() error   { l.once.Do(func() { close(l.done) }); return nil }
func (l *pipeListener) Addr() net.Addr { return &net.TCPAddr{} }

func (l *pipeListener) dial() net.Conn { return l.dialFrom(nil) }

// dialFrom dials as if from another address; nil is no IP address at all.
func (l *pipeListener) dialFrom(addr net.Addr) net.Conn {
	near, far := net.Pipe()
	l.conns <- addrConn{far, addr}
	return near
}

// addrConn is a pipe with an address.
type addrConn struct {
	net.Conn
	addr net.Addr
}

func (l addrConn) RemoteAddr() net.Addr {
	if l.addr == nil {
		return l.Conn.RemoteAddr()
	}
	return l.addr
}

func tcp(addr string) net.Addr { return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(addr)) }

// served says who came to which server.
type served struct {
	by   string
	peer identity.Peer
	from string
}

type testMux struct {
	*proxytest.Auth
	rules  *testRules
	dial   func() net.Conn
	mux    *mux.Mux
	served chan served
	stop   func() error
}

// startMux must be closed with stop.
func startMux(t *testing.T, a *proxytest.Auth, trust *rules.Trust) *testMux {
	t.Helper()
	l := newPipeListener()
	p := startOn(a, trust, l)
	p.dial = l.dial
	return p
}

func startOn(a *proxytest.Auth, trust *rules.Trust, ln net.Listener) *testMux {
	return startWithAuthAt(a, a.Addr(), trust, ln)
}

func startWithAuthAt(a *proxytest.Auth, authAddr string, trust *rules.Trust, ln net.Listener) *testMux {
	return startConfig(a, trust, mux.Config{Listener: ln, AuthAddr: authAddr})
}

// startConfig serves by a configuration that says where to listen and what the test is about.
func startConfig(a *proxytest.Auth, trust *rules.Trust, cfg mux.Config) *testMux {
	p := &testMux{Auth: a, rules: &testRules{}, served: make(chan served, 300)}
	p.rules.Store(trust)
	own, _ := a.TLSCertificate()
	end := func(by string) func(context.Context, net.Conn, identity.Peer) {
		return func(_ context.Context, c net.Conn, peer identity.Peer) {
			p.served <- served{by, peer, c.RemoteAddr().String()}
			c.Close()
		}
	}
	cfg.Cluster, cfg.Rules, cfg.SignForwardedFrom = membertest.Name, p.rules, signForwardedFrom(own)
	if cfg.Log == nil {
		cfg.Log = proxytest.Log()
	}
	cfg.Service = func() (*tls.Certificate, error) { return own, nil }
	cfg.Web = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return own, nil }
	cfg.ServeSSH = func(_ context.Context, c net.Conn, settled func(identity.Identity)) error {
		b := make([]byte, 9)
		_ = c.SetReadDeadline(time.Now().Add(time.Second))
		n, _ := c.Read(b)
		switch string(b[:n]) {
		case "SSH-panic":
			panic("a defect")
		case "SSH-alice":
			alice := a.User("alice@example.com")
			alice.Expires = time.Now().Add(8 * time.Hour)
			settled(alice)
		case "SSH-thief":
			return fault.Wrap(errors.New("a foreign certificate"), fault.Denied, "test", "no", "no")
		case "SSH-none":
			return fault.Wrap(errors.New("no certificate"), fault.Unauthenticated, "test", "no", "no")
		case "SSH-ended":
			return fault.Wrap(errors.New("a certificate that has ended"), fault.Expired, "test", "no", "no")
		}
		p.served <- served{by: "ssh " + string(b[:n]), from: c.RemoteAddr().String()}
		c.Close()
		return nil
	}
	cfg.ServeDial = end("dial")
	cfg.ServeTunnel = func(ctx context.Context, c net.Conn, node identity.Peer) func() {
		return func() { end("tunnel")(ctx, c, node) }
	}
	cfg.ServeWeb = func(c net.Conn) { p.served <- served{by: "web", from: c.RemoteAddr().String()}; c.Close() }
	p.mux = mux.New(cfg)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.mux.Run(ctx) }()
	p.stop = func() error { cancel(); return <-done }
	return p
}

// proxyID is this proxy's id in introductions.
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

// startTCP is a port whose clients have addresses.
func startTCP(t *testing.T, a *proxytest.Auth, authAddr string, trust *rules.Trust) *testMux {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := startWithAuthAt(a, authAddr, trust, ln)
	p.dial = func() net.Conn {
		c, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	return p
}

// Auth sees this proxy's address alone, so it is told the client's, in words that only this proxy can have
// signed.
func TestAuthReceivesTheForwardedAddress(t *testing.T) {
	a := proxytest.New(t)
	auth, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer auth.Close()
	p := startTCP(t, a, auth.Addr().String(), openRules(t, a))
	defer p.stop()
	client := p.dial()
	defer client.Close()
	go tls.Client(client, &tls.Config{NextProtos: []string{identity.ALPNAuth}, InsecureSkipVerify: true}).
		Handshake()
	conn, err := auth.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, said, err := authrpc.ReadForwardedFrom(conn)
	own, _ := a.TLSCertificate()
	if err != nil || said == nil || said.Addr.String() != client.LocalAddr().String() ||
		said.ProxyID != proxyID ||
		!said.Verify(own.PrivateKey.(crypto.Signer).Public()) {
		t.Errorf("got %+v, %v, want the proxy's signed word for %s", said, err, client.LocalAddr())
	}
}

// handshake does a TLS handshake and waits for the server's word on the certificate, which TLS 1.3 gives
// after it.
func (p *testMux) handshake(cfg *tls.Config) error {
	raw := p.dial()
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

func TestWhichPeerMayUseWhichProtocol(t *testing.T) {
	a, foreign := proxytest.New(t), proxytest.New(t)
	p := startMux(t, a, openRules(t, a))
	alice, node := a.User("alice@example.com", "ops"), a.Machine(identity.Node, "web-1", nil)
	expired := func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
	}
	server := func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }
	user, machine := a.UserCertificate(alice, nil), a.MachineCertificate(node, nil)
	for _, tt := range []struct {
		name string
		alpn []string
		cert *tls.Certificate
		want string // the server; empty: refused
	}{
		{"a user on dial", []string{"threshold-dial"}, user, "dial"},
		{"a node on tunnel", []string{"threshold-tunnel"}, machine, "tunnel"},
		{"a browser", []string{"h2", "http/1.1"}, nil, "web"},
		{"curl without ALPN", nil, nil, "web"},
		{"a browser with a user certificate", []string{"h2"}, user, "web"},
		{"a node on dial", []string{"threshold-dial"}, machine, ""},
		{"a user on tunnel", []string{"threshold-tunnel"}, user, ""},
		{"a proxy on tunnel", []string{"threshold-tunnel"}, a.MachineCertificate(a.Machine(identity.Proxy, "proxy-2", nil), nil), ""},
		{"nobody on dial", []string{"threshold-dial"}, nil, ""},
		{"nobody on tunnel", []string{"threshold-tunnel"}, nil, ""},
		{"an expired user", []string{"threshold-dial"}, a.UserCertificate(alice, expired), ""},
		{"an expired node", []string{"threshold-tunnel"}, a.MachineCertificate(node, expired), ""},
		{"a user of another cluster's authority", []string{"threshold-dial"}, foreign.UserCertificate(alice, nil), ""},
		{"a node of another cluster's authority", []string{"threshold-tunnel"}, foreign.MachineCertificate(node, nil), ""},
		{"a user certificate for servers", []string{"threshold-dial"}, a.UserCertificate(alice, server), ""},
		{"two of ours", []string{"threshold-dial", "threshold-tunnel"}, user, ""},
		{"one of ours and the web", []string{"threshold-dial", "h2"}, user, ""},
		{"auth and the web", []string{"http/1.1", "threshold-auth"}, nil, ""},
		{"raft", []string{"threshold-raft"}, machine, ""},
		{"another case", []string{"THRESHOLD-DIAL"}, user, ""},
		{"a protocol nobody speaks", []string{"smtp"}, nil, ""},
	} {
		err := p.handshake(&tls.Config{NextProtos: tt.alpn, Certificates: certs(tt.cert)})
		switch {
		case tt.want == "" && err == nil:
			t.Errorf("%s: got in, want refused", tt.name)
		case tt.want != "" && err != nil:
			t.Errorf("%s: got %v, want served by %s", tt.name, err, tt.want)
		case tt.want != "":
			got := <-p.served
			if got.by != tt.want || got.by == "dial" && got.peer.Name != alice.Name ||
				got.by == "tunnel" && got.peer.ID != node.ID {
				t.Errorf("%s: got %s as %s, want %s", tt.name, got.by, got.peer, tt.want)
			}
		}
	}
	if err := p.stop(); err != nil {
		t.Error(err)
	}
	select {
	case s := <-p.served:
		t.Errorf("got %s served, want nobody else", s.by)
	default:
	}
	if c := p.mux.Counters(); c.Refused.Load() != 16 || c.Dial.Load() != 1 || c.Tunnel.Load() != 1 ||
		c.Web.Load() != 3 {
		t.Errorf("got %v, want 16 refused, one dial, one tunnel, three web", c.LogValue())
	}
}

// The session cache would let the client come back without showing its certificate; what it showed is checked
// again under new rules.
func TestResumedSessionsAreVerifiedUnderCurrentRules(t *testing.T) {
	a, other := proxytest.New(t), proxytest.New(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0") // resumption deadlocks over a pipe: both sides write at once
	if err != nil {
		t.Fatal(err)
	}
	p := startOn(a, openRules(t, a), ln)
	p.dial = func() net.Conn {
		c, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	cfg := &tls.Config{
		NextProtos:         []string{"threshold-dial"},
		Certificates:       certs(a.UserCertificate(a.User("alice@example.com"), nil)),
		ClientSessionCache: tls.NewLRUClientSessionCache(4),
		ServerName:         "proxy",
	}
	resumed := false
	cfg.VerifyConnection = func(st tls.ConnectionState) error { resumed = st.DidResume; return nil }
	for range 2 {
		if err := p.handshake(cfg); err != nil {
			t.Fatal(err)
		}
	}
	if !resumed {
		t.Error("got a full handshake the second time, want the session resumed")
	}
	p.rules.Store(openRules(t, other)) // rotated away
	if err := p.handshake(cfg); err == nil {
		t.Error("got in with a session of an authority that is gone, want refused")
	}
	p.stop()
}

func TestUnknownFirstBytes(t *testing.T) {
	a := proxytest.New(t)
	p := startMux(t, a, openRules(t, a))
	for name, first := range map[string][]byte{
		"garbage":           []byte("\x00\x01\x02\x03"),
		"a broken hello":    {22, 3, 1, 0, 4, 2, 0, 0, 0},
		"half a banner":     []byte("SSX"),
		"an oversize hello": append([]byte{22, 3, 1, 0x40, 0, 1, 2, 0, 0}, make([]byte, 100)...),
	} {
		c := p.dial()
		go c.Write(first)
		if b, err := io.ReadAll(c); len(b) != 0 || err != nil && !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("%s: got %q, %v, want the connection closed", name, b, err)
		}
		c.Close()
	}
	c := p.dial()
	go c.Write([]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"))
	answer := make([]byte, 1024)
	n, _ := c.Read(answer)
	if !bytes.Contains(answer[:n], []byte("https://")) {
		t.Errorf("got %q for http, want to be told of https", answer[:n])
	}
	c.Close()
	c = p.dial()
	c.Write([]byte("SSH-panic"))
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("got an answer from a server that panicked")
	}
	c.Close()
	c = p.dial()
	c.Write([]byte("SSH-"))
	if s := <-p.served; s.by != "ssh SSH-" {
		t.Errorf("got %q, want SSH with the bytes that were peeked at", s.by)
	}
	c.Close()
	p.stop()
	if c := p.mux.Counters(); c.Refused.Load() != 4 || c.Panics.Load() != 1 || c.ClearHTTP.Load() != 1 {
		t.Errorf("got %v, want 4 refused, one panic, one in the clear", c.LogValue())
	}
}

// Each stage before the peer is known ends by itself.
func TestStallsTimeOut(t *testing.T) {
	a := proxytest.New(t)
	trust := openRules(t, a)
	hello := clientHello(t, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"threshold-dial"}})
	for _, tt := range []struct {
		name  string
		first []byte
		after time.Duration
		ssh   bool
	}{
		{"silence is taken for SSH", nil, time.Second + time.Second, true},
		{"after one byte of TLS", hello[:1], 10 * time.Second, false},
		{"in the middle of the hello", hello[:len(hello)/2], 10 * time.Second, false},
		{"after the hello", hello, 10 * time.Second, false},
		{"in the SSH banner", []byte("SS"), 10 * time.Second, false},
	} {
		synctest.Test(t, func(t *testing.T) {
			p := startMux(t, a, trust)
			c, start := p.dial(), time.Now()
			if tt.first != nil {
				c.Write(tt.first)
			}
			io.Copy(io.Discard, c)
			if took := time.Since(start); took != tt.after {
				t.Errorf("%s: got closed after %s, want %s", tt.name, took, tt.after)
			}
			c.Close()
			p.stop()
			if timedOut := p.mux.Counters().TimedOut.Load() == 1; timedOut == tt.ssh {
				t.Errorf("%s: got timed out %v, want %v", tt.name, timedOut, !tt.ssh)
			}
		})
	}
}

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
	a := proxytest.New(t)
	p := startMux(t, a, openRules(t, a))
	c := p.dial()
	c.Write([]byte{22})
	if err := p.stop(); err != nil {
		t.Errorf("got %v, want a clean stop", err)
	}
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("got bytes after the stop")
	}
}

func TestAuthConnectionsArePassedThroughUnopened(t *testing.T) {
	a := proxytest.New(t)
	trust := openRules(t, a)
	p := startTCP(t, a, a.Addr(), trust)
	var shown string
	cfg := &tls.Config{
		NextProtos:         []string{identity.ALPNAuth},
		InsecureSkipVerify: true,
		VerifyConnection: func(st tls.ConnectionState) error {
			shown = st.PeerCertificates[0].Subject.CommonName
			return nil
		},
	}
	c := tls.Client(p.dial(), cfg)
	if err := c.Handshake(); err != nil || shown != "auth-1" {
		t.Errorf("got %q, %v, want auth's own certificate through the proxy", shown, err)
	}
	c.Close()
	p.stop()

	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone.Close()
	lane := newPipeListener()
	p = startWithAuthAt(a, gone.Addr().String(), trust, lane)
	p.dial = lane.dial
	if err := p.handshake(cfg); err == nil {
		t.Error("got an answer while auth is down")
	}
	p.stop()
}
