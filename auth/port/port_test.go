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

	"github.com/threshold-access/threshold/ca"
	"github.com/threshold-access/threshold/ca/keyring"
	"github.com/threshold-access/threshold/ca/keyring/keyringtest"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/identity"
)

const cluster = "example.com"

// testPort is a running port whose API tells who called.
type testPort struct {
	*testing.T
	*Port
	addr string
	keys *keyring.Keyring
	ca   *ca.CA
	stop func() error

	proxyKey *ecdsa.PrivateKey // the proxy on record
}

type discardRecorder struct{}

func (discardRecorder) RecordIssuance(context.Context, ca.Record) error { return nil }

// newTestPort opens the door; adjust may narrow its bounds before.
func newTestPort(t *testing.T, adjust ...func(*Port)) *testPort {
	t.Helper()
	d := &testPort{T: t, keys: keyringtest.New(t, cluster, time.Now())}
	var err error
	d.ca, err = ca.New(ca.Config{Cluster: cluster, Keys: d.keys, Recorder: discardRecorder{}})
	d.must(err)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	d.must(err)
	d.addr = ln.Addr().String()
	d.Port, err = New(Config{Listener: ln, Log: slog.New(slog.DiscardHandler)})
	d.must(err)
	for _, a := range adjust {
		a(d.Port)
	}
	d.proxyKey, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	d.must(err)
	own := d.machine(identity.Auth)
	public := d.keys.Public()
	trust := identity.Roots{Users: x509.NewCertPool(), Services: x509.NewCertPool()}
	trust.Users.AddCert(public.UserX509[0])
	trust.Services.AddCert(public.ServiceX509[0])
	terms := RunConfig{
		Cluster:     cluster,
		Pin:         d.keys.Pin(),
		Roots:       func() identity.Roots { return trust },
		Certificate: func() *tls.Certificate { return own },
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			c, err := CallerOf(r)
			if err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
			_, _ = io.WriteString(w, string(c.Kind))
			if c.Proxy != "" {
				_, _ = io.WriteString(w, c.Addr.String()+" by "+c.Proxy)
			}
		}),
		VerifyForwarded: func(_ context.Context, i authrpc.ForwardedFrom) (string, error) {
			if !i.Verify(&d.proxyKey.PublicKey) {
				return "", errors.New("not a proxy's word")
			}
			return "proxy-1", nil
		},
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- d.Port.Run(ctx, terms) }()
	d.stop = func() error { cancel(); return <-ended }
	t.Cleanup(func() { cancel() })
	return d
}

func (d *testPort) must(err error) {
	d.Helper()
	if err != nil {
		d.Fatal(err)
	}
}

func (d *testPort) machine(kind identity.Kind) *tls.Certificate {
	d.Helper()
	return d.issue(ca.Request{
		Profile: ca.Service,
		Identity: identity.Identity{
			Kind:    kind,
			Cluster: cluster,
			Name:    "m",
			ID:      "00000000000000000000000000000001",
		},
	})
}

func (d *testPort) issue(r ca.Request) *tls.Certificate {
	d.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	d.must(err)
	r.X509Key = key.Public()
	out, err := d.ca.Issue(d.Context(), r)
	d.must(err)
	cert := &tls.Certificate{PrivateKey: key, Leaf: out.X509}
	for _, c := range out.Chain {
		cert.Certificate = append(cert.Certificate, c.Raw)
	}
	return cert
}

// ask makes one request and returns what the API said.
func (d *testPort) ask(cert *tls.Certificate) (string, error) {
	cfg := identity.PinnedTLS(d.keys.Pin(), cluster, identity.ALPNAuth, nil, time.Now, identity.Auth)
	if cert != nil {
		cfg.Certificates = []tls.Certificate{*cert}
	}
	tr := &http.Transport{DialTLSContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		return (&tls.Dialer{Config: cfg}).DialContext(ctx, network, addr)
	}}
	defer tr.CloseIdleConnections()
	resp, err := (&http.Client{Transport: tr}).Get("https://" + d.addr)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return string(b), err
}

// forwardingConn sends a proxy's word in front of its first write, which is the ClientHello.
type forwardingConn struct {
	net.Conn
	key  *ecdsa.PrivateKey
	once sync.Once
}

func (c *forwardingConn) Write(b []byte) (n int, err error) {
	c.once.Do(func() {
		var word []byte
		if word, err = authrpc.SignForwardedFrom(c.key, "0123456789abcdef0123456789abcdef", netip.MustParseAddrPort("192.0.2.7:40022"), b); err == nil {
			_, err = c.Conn.Write(word)
		}
	})
	if err != nil {
		return 0, err
	}
	return c.Conn.Write(b)
}

// askForwarded is ask for a client that a proxy with the key passes through.
func (d *testPort) askForwarded(key *ecdsa.PrivateKey) (string, error) {
	cfg := identity.PinnedTLS(d.keys.Pin(), cluster, identity.ALPNAuth, nil, time.Now, identity.Auth)
	tr := &http.Transport{DialTLSContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		raw, err := net.Dial(network, addr)
		if err != nil {
			return nil, err
		}
		conn := tls.Client(&forwardingConn{Conn: raw, key: key}, cfg)
		return conn, conn.HandshakeContext(ctx)
	}}
	defer tr.CloseIdleConnections()
	resp, err := (&http.Client{Transport: tr}).Get("https://" + d.addr)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return string(b), err
}

func TestTheAPIGetsTheForwardedAddress(t *testing.T) {
	d := newTestPort(t)
	if got, err := d.askForwarded(d.proxyKey); err != nil || got != "192.0.2.7:40022 by proxy-1" {
		t.Errorf("got %q, %v, want the address that the proxy said", got, err)
	}
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	d.must(err)
	if got, err := d.askForwarded(other); err == nil {
		t.Errorf("got %q by the word of somebody else, want refused", got)
	}
}

func TestTheAPIGetsTheCallersKind(t *testing.T) {
	d := newTestPort(t)
	user := d.issue(ca.Request{
		Profile: ca.User,
		Identity: identity.Identity{
			Kind:      identity.User,
			Cluster:   cluster,
			Name:      "alice",
			Connector: "corp",
			Subject:   "1",
			LoginID:   "l",
		},
	})
	for want, cert := range map[string]*tls.Certificate{
		"": nil, "user": user, "node": d.machine(identity.Node), "proxy": d.machine(identity.Proxy), "auth": d.machine(identity.Auth),
	} {
		if got, err := d.ask(cert); err != nil || got != want {
			t.Errorf("got %q, %v, want %q", got, err, want)
		}
	}
	if err := d.stop(); err != nil {
		t.Errorf("got %v from Run, want nil", err)
	}
	if c := d.Counts(); c.Open != 0 || c.Accepted != 5 || c.Anonymous != 1 {
		t.Errorf("got %+v, want five taken, one of a stranger, and none left open", c)
	}
}

func TestRaftConnectsThroughThePort(t *testing.T) {
	d := newTestPort(t)
	layer := d.Raft()
	if _, err := d.ask(nil); err != nil { // the port is open
		t.Fatal(err)
	}
	dialled, err := layer.Dial(raft.ServerAddress(d.addr), 10*time.Second)
	d.must(err)
	defer dialled.Close()
	accepted, err := layer.Accept()
	d.must(err)
	defer accepted.Close()
	_, err = dialled.Write([]byte("vote"))
	d.must(err)
	got := make([]byte, 4)
	if _, err := io.ReadFull(accepted, got); err != nil || string(got) != "vote" {
		t.Errorf("got %q, %v, want vote", got, err)
	}
	d.must(layer.Close())
	if _, err := layer.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v after Close, want closed", err)
	}
}

func TestRaftDialFailsBeforeThePortRuns(t *testing.T) {
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
		t.Error("raft was dialled without a certificate")
	}
}

func TestAnonymousConnectionsDoNotDisplaceMembers(t *testing.T) {
	d := newTestPort(t, func(p *Port) { p.anonymous.max = 1 })
	first := d.connect(nil)
	defer first.Close()
	// An answer shows that the server has let it in: a client's handshake ends before the server's does.
	if _, err := io.WriteString(first, "GET / HTTP/1.1\r\nHost: auth\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if resp, err := http.ReadResponse(bufio.NewReader(first), nil); err != nil ||
		resp.StatusCode != http.StatusOK {
		t.Fatalf("the first stranger: got %v, %v, want it served", resp, err)
	}
	if got, err := d.ask(nil); err != nil || got != "" {
		t.Errorf("a second stranger: got %q, %v, want it served", got, err)
	}
	if err := d.read(first); errors.Is(err, errSilent) {
		t.Error("the first stranger is still there, want one at a time")
	}
	if d.Counts().Evicted == 0 {
		t.Error("nothing was counted")
	}
	if got, err := d.ask(d.machine(identity.Node)); err != nil || got != "node" {
		t.Errorf("a node beside them: got %q, %v, want it served", got, err)
	}
}

func TestTheNumberOfConnectionsIsBounded(t *testing.T) {
	d := newTestPort(t, func(p *Port) { p.conns = make(chan struct{}, 1) })
	first := d.connect(nil)
	if _, err := d.ask(nil); err == nil {
		t.Error("a second connection was served, want it closed")
	}
	first.Close()
	for until := time.Now().Add(10 * time.Second); ; { // the server sees the first one go a moment later
		if _, err := d.ask(nil); err == nil {
			break
		} else if time.Now().After(until) {
			t.Fatalf("after the first one left: got %v, want it served", err)
		}
	}
	if d.Counts().Full == 0 {
		t.Error("nothing was counted")
	}
}

func TestStalledHandshakesDoNotBlockOthers(t *testing.T) {
	d := newTestPort(t)
	for _, garbage := range []string{"", "\x16", "\x16\x03\x01\x02", "GET / HTTP/1.1\r\n\r\n", "SSH-2.0-x\r\n"} {
		conn, err := net.Dial("tcp", d.addr)
		d.must(err)
		defer conn.Close()
		_, err = io.WriteString(conn, garbage)
		d.must(err)
	}
	if _, err := d.ask(nil); err != nil {
		t.Errorf("beside stalled strangers: got %v", err)
	}
	began := time.Now()
	if err := d.stop(); err != nil || time.Since(began) > handshakeTimeout {
		t.Errorf("got %v after %s, want stalled handshakes to end with the port", err, time.Since(began))
	}
}

// However many strangers stall in the handshake, and however long they would: others are answered at once.
func TestAFloodOfStalledHandshakesDoesNotBlockOthers(t *testing.T) {
	d := newTestPort(t, func(p *Port) { p.handshakes.max = 16 })
	node := d.machine(identity.Node)
	for range 100 {
		conn, err := net.Dial("tcp", d.addr)
		d.must(err)
		defer conn.Close()
		_, err = io.WriteString(conn, "\x16\x03\x01")
		d.must(err)
	}
	began := time.Now()
	if got, err := d.ask(node); err != nil || got != "node" {
		t.Errorf("a node beside them: got %q, %v, want it served", got, err)
	}
	if _, err := d.ask(nil); err != nil {
		t.Errorf("a stranger beside them: got %v, want it served", err)
	}
	if took := time.Since(began); took > handshakeTimeout/2 {
		t.Errorf("got answers after %s, want them at once", took)
	}
}

func TestARequestFromOutsideThePortIsRefused(t *testing.T) {
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "/", nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := CallerOf(r); err == nil {
		t.Error("got a caller from nowhere")
	}
}

func (d *testPort) connect(cert *tls.Certificate) *tls.Conn {
	d.Helper()
	cfg := &tls.Config{InsecureSkipVerify: true, NextProtos: []string{identity.ALPNAuth}}
	if cert != nil {
		cfg.Certificates = []tls.Certificate{*cert}
	}
	conn, err := tls.Dial("tcp", d.addr, cfg)
	d.must(err)
	return conn
}

var errSilent = errors.New("the server waits")

// read tells how the server takes a connection: errSilent when it waits for a request.
func (d *testPort) read(conn *tls.Conn) error {
	d.Helper()
	defer conn.Close()
	d.must(conn.SetReadDeadline(time.Now().Add(2 * time.Second)))
	_, err := conn.Read(make([]byte, 1))
	var late net.Error
	if errors.As(err, &late) && late.Timeout() {
		return errSilent
	}
	return err
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
