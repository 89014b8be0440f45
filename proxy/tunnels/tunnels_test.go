package tunnels_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log/slog"
	"net"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/tunnel"
	"github.com/threshold-access/threshold/proxy/proxytest"
	"github.com/threshold-access/threshold/proxy/tunnels"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// ruleSource is a set of rules to follow.
type ruleSource struct{ pushes chan tunnel.RulesPush }

func (n ruleSource) Subscribe() (<-chan tunnel.RulesPush, func()) { return n.pushes, func() {} }

// waitLimit bounds every wait in these tests.
const waitLimit = 10 * time.Second

type fixture struct {
	*proxytest.Auth
	*tunnels.Tunnels
	t     *testing.T
	rules ruleSource
	ctx   context.Context
}

func newFixture(t *testing.T, now func() time.Time) *fixture {
	t.Helper()
	a := proxytest.New(t)
	client := a.Client()
	t.Cleanup(client.Close)
	h := &fixture{Auth: a, t: t, rules: ruleSource{make(chan tunnel.RulesPush, 8)}, ctx: t.Context()}
	h.Tunnels = tunnels.New(
		tunnels.Config{Proxy: proxytest.Name, Auth: client, Rules: h.rules, Now: now, Log: proxytest.Log()},
	)
	return h
}

// testNode is a node that may attach several times.
type testNode struct {
	id   identity.Identity
	cert *tls.Certificate
	leaf *x509.Certificate
}

func (h *fixture) newNode(name string) testNode {
	h.t.Helper()
	id := h.Machine(identity.Node, name, identity.Labels{"env": "test"})
	cert := h.MachineCertificate(id, nil)
	leaf, err := x509.ParseCertificate(cert.Certificate[0])
	if err != nil {
		h.t.Fatal(err)
	}
	id.Expires = leaf.NotAfter
	return testNode{id, cert, leaf}
}

// nodeTunnel is one tunnel: the node's end, and when the proxy has let go of it.
type nodeTunnel struct {
	*tunnel.Uplink
	served chan struct{}
}

// serve attaches the node and keeps its tunnel.
func serve(ctx context.Context, t *tunnels.Tunnels, conn net.Conn, node identity.Peer) {
	if keep := t.Attach(ctx, conn, node); keep != nil {
		keep()
	}
}

func (h *fixture) attach(m testNode, version string) nodeTunnel {
	h.t.Helper()
	near, far := net.Pipe()
	l := nodeTunnel{served: make(chan struct{})}
	go func() {
		serve(h.ctx, h.Tunnels, near, identity.Peer{Identity: m.id, Cert: m.leaf})
		close(l.served)
	}()
	var err error
	if l.Uplink, err = tunnel.Connect(h.t.Context(), far, m.cert.PrivateKey.(crypto.Signer), m.id.ID, version, time.Now); err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { l.Close(); <-l.served })
	return l
}

// waitUntil waits for a condition that another goroutine brings about.
func waitUntil(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(waitLimit); !ok(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

func (h *fixture) has(node string) func() bool {
	return func() bool { _, ok := h.Find(node); return ok }
}

func (h *fixture) hasNot(node string) func() bool { return func() bool { return !h.has(node)() } }

var header = tunnel.Header{From: "192.0.2.7:5000", Protocol: "dial"}

func TestANodeIsFoundWhileItsTunnelLives(t *testing.T) {
	h := newFixture(t, nil)
	m := h.newNode("web-1")
	l := h.attach(m, "v1")
	waitUntil(t, "the node is attached", h.has("web-1"))
	n, ok := h.Find(string(m.id.ID))
	if !ok || n.Name != "web-1" || n.Labels["env"] != "test" {
		t.Errorf("got %+v, %v by id, want web-1 with its labels", n, ok)
	}
	for _, name := range []string{"", "web", "WEB-1", "web-1.test.example.com", "ffffffffffffffffffffffffffffffff"} {
		if n, ok := h.Find(name); ok {
			t.Errorf("got %+v for %q, want nothing", n, name)
		}
	}
	go func() {
		c, _, err := l.Accept()
		if err == nil {
			io.WriteString(c, "hi")
			c.Close()
		}
	}()
	c, err := h.Open(t.Context(), m.id.ID, header)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(c); string(got) != "hi" || err != nil {
		t.Errorf("got %q, %v, want hi", got, err)
	}
	c.Close()
	l.Close()
	waitUntil(t, "the node is gone", h.hasNot("web-1"))
	if _, err := h.Open(t.Context(), m.id.ID, header); !fault.Is(err, fault.Unavailable) {
		t.Errorf("got %v, want unavailable", err)
	}
}

func TestTheNewestTunnelIsUsedAndOlderOnesStayOpen(t *testing.T) {
	h := newFixture(t, nil)
	m := h.newNode("web-1")
	old := h.attach(m, "v1")
	waitUntil(t, "the first is attached", h.has("web-1"))
	running, err := h.Open(t.Context(), m.id.ID, header)
	if err != nil {
		t.Fatal(err)
	}
	atNode, _, err := old.Accept()
	if err != nil {
		t.Fatal(err)
	}
	fresh := h.attach(m, "v2")
	got := make(chan string, 2)
	for name, l := range map[string]nodeTunnel{"old": old, "new": fresh} {
		go func() {
			if c, _, err := l.Accept(); err == nil {
				got <- name
				c.Close()
			}
		}()
	}
	var by string
	waitUntil(t, "the newer one is used", func() bool {
		c, err := h.Open(t.Context(), m.id.ID, header)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		by = <-got
		return by == "new"
	})
	go io.WriteString(atNode, "still here")
	b := make([]byte, 10)
	if _, err := io.ReadFull(running, b); err != nil || string(b) != "still here" {
		t.Errorf("got %q, %v over the older tunnel, want it to live on", b, err)
	}
	fresh.Close()
	<-fresh.served
	if _, ok := h.Find("web-1"); !ok {
		t.Error("got the node gone, want the older tunnel to serve again")
	}
	running.Close()
}

func TestANodeHasAtMostFourTunnels(t *testing.T) {
	h := newFixture(t, nil)
	m := h.newNode("web-1")
	first := h.attach(m, "v1")
	waitUntil(t, "the first is attached", h.has("web-1"))
	for range 4 {
		h.attach(m, "v1")
	}
	select {
	case <-first.Done():
	case <-time.After(waitLimit):
		t.Error("got five tunnels of one node, want the oldest ended")
	}
}

func TestRulesGoToEveryTunnel(t *testing.T) {
	h := newFixture(t, nil)
	l := h.attach(h.newNode("web-1"), "v1")
	for _, want := range []string{"set one", "set two"} {
		h.rules.pushes <- tunnel.RulesPush{Set: []byte(want)}
		if got := string((<-l.Rules()).Set); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestATunnelWithAnExpiredCertificateTakesNoNewStreams(t *testing.T) {
	h := newFixture(t, nil)
	m := h.newNode("web-1")
	m.id.Expires = time.Now().Add(200 * time.Millisecond)
	l := h.attach(m, "v1")
	select {
	case <-l.served:
	case <-time.After(waitLimit):
		t.Error("got the tunnel kept after its certificate ended")
	}
	if h.has("web-1")() {
		t.Error("got the node found by an expired certificate")
	}
}

// A node's stolen key fills the port with connections that never greet: a few are waited for, and other nodes
// attach meanwhile.
func TestPendingHellosOfOneNodeAreLimited(t *testing.T) {
	h := newFixture(t, nil)
	m := h.newNode("web-1")
	var silent []net.Conn
	ended := make(chan struct{}, 20)
	for range 20 {
		near, far := net.Pipe()
		silent = append(silent, far)
		go func() {
			serve(h.ctx, h.Tunnels, near, identity.Peer{Identity: m.id, Cert: m.leaf})
			ended <- struct{}{}
		}()
	}
	for range 20 - 8 {
		select {
		case <-ended:
		case <-time.After(waitLimit):
			t.Fatal("got more than 8 connections waited for")
		}
	}
	h.attach(h.newNode("web-2"), "v1")
	waitUntil(t, "another node is attached", h.has("web-2"))
	for _, c := range silent {
		c.Close()
	}
	for range 8 {
		<-ended
	}
	h.attach(m, "v1")
	waitUntil(t, "the node is attached, now that it greets", h.has("web-1"))
}

func TestARefusedHelloAttachesNothing(t *testing.T) {
	h := newFixture(t, nil)
	m, other := h.newNode("web-1"), h.newNode("web-2")
	near, far := net.Pipe()
	served := make(chan struct{})
	go func() {
		serve(t.Context(), h.Tunnels, near, identity.Peer{Identity: m.id, Cert: m.leaf})
		close(served)
	}()
	if _, err := tunnel.Connect(t.Context(), far, other.cert.PrivateKey.(crypto.Signer), m.id.ID, "v1", time.Now); !fault.Is(
		err,
		fault.Denied,
	) {
		t.Errorf("got %v, want denied", err)
	}
	<-served
	if h.has("web-1")() {
		t.Error("got the node attached by another's key")
	}
}

func TestClosingBeforeTheHelloLogsNoWarning(t *testing.T) {
	var said bytes.Buffer
	h := newFixture(t, nil)
	m := h.newNode("web-1")
	client := h.Client()
	defer client.Close()
	quiet := tunnels.New(tunnels.Config{
		Proxy: proxytest.Name,
		Auth:  client,
		Rules: h.rules,
		Log:   slog.New(slog.NewTextHandler(&said, nil)),
	})
	near, far := net.Pipe()
	far.Close()
	serve(t.Context(), quiet, near, identity.Peer{Identity: m.id, Cert: m.leaf})
	if said.Len() > 0 {
		t.Errorf("got %q in the log, want nothing", &said)
	}
}

func TestReportsFollowChanges(t *testing.T) {
	h := newFixture(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- h.Run(ctx) }()
	wait := func(n int) authrpc.ReportNodesRequest {
		t.Helper()
		for {
			select {
			case r := <-h.Reports:
				if len(r.Attached) == n {
					return r
				}
			case <-time.After(waitLimit):
				t.Fatalf("waited in vain for a report of %d nodes", n)
			}
		}
	}
	wait(0) // the lease begins with the first, empty one
	m := h.newNode("web-1")
	l := h.attach(m, "v7")
	r := wait(1)
	at, err := r.Attached[0].Attachment.Verify(m.cert.PrivateKey.(crypto.Signer).Public())
	if err != nil || at.Node != m.id.ID || at.Proxy != proxytest.Name || r.Attached[0].Version != "v7" {
		t.Errorf("got %+v, %v, want the node's own word", r.Attached[0], err)
	}
	h.Down(true)
	l.Close()
	waitUntil(t, "the node is gone", h.hasNot("web-1"))
	h.Down(false)
	wait(0) // the change is not lost with auth
	cancel()
	if err := <-ran; err != nil {
		t.Error(err)
	}
}
