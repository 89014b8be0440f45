package tunnels_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/dial"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/rules"
	"github.com/threshold-access/threshold/internal/tunnel"
	"github.com/threshold-access/threshold/proxy/proxytest"
	"github.com/threshold-access/threshold/proxy/tunnels"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// ruleSource has one subscriber, and the test sends the pushes. lock changes the rules in force.
type ruleSource struct {
	pushes chan tunnel.RulesPush

	mu      sync.Mutex
	trust   *rules.Trust
	changed chan struct{}
}

func (r *ruleSource) Current() *rules.Trust    { r.mu.Lock(); defer r.mu.Unlock(); return r.trust }
func (r *ruleSource) Changed() <-chan struct{} { r.mu.Lock(); defer r.mu.Unlock(); return r.changed }

// lock makes these machines the locked ones.
func (r *ruleSource) lock(machines ...identity.MachineID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var locks []access.Lock
	for _, id := range machines {
		lock := access.NewLock(access.Facts{Machine: id}, access.Effect{Kind: access.Deny})
		lock.Message = "stolen"
		locks = append(locks, lock)
	}
	next := *r.trust
	next.Policy.Locks = access.NewLocks(locks)
	r.trust = &next
	close(r.changed)
	r.changed = make(chan struct{})
}

func (r *ruleSource) Subscribe() (<-chan tunnel.RulesPush, func()) { return r.pushes, func() {} }

// waitLimit bounds every wait in these tests.
const waitLimit = 10 * time.Second

// fixture is a set of tunnels whose reports go to the auth service of a test.
type fixture struct {
	*proxytest.Auth
	*tunnels.Tunnels
	t     *testing.T
	rules *ruleSource
	ctx   context.Context

	acknowledged chan acknowledgement
	ended        chan identity.MachineID // a tunnel of the node hands over nothing any more
}

// acknowledgement is what a tunnel of a node has handed over.
type acknowledgement struct {
	node identity.MachineID
	text string
}

func (f *fixture) acknowledge(node identity.MachineID) (take func([]byte), end func()) {
	take = func(b []byte) { f.acknowledged <- acknowledgement{node, string(b)} }
	return take, func() { f.ended <- node }
}

func newFixture(t *testing.T, now func() time.Time) *fixture {
	t.Helper()
	a := proxytest.New(t)
	client := a.Client()
	t.Cleanup(client.Close)
	trust, err := rules.Open(a.Pin(), a.SignRules())
	if err != nil {
		t.Fatal(err)
	}
	source := &ruleSource{pushes: make(chan tunnel.RulesPush, 8), trust: trust, changed: make(chan struct{})}
	f := &fixture{
		Auth: a, t: t, rules: source, ctx: t.Context(),
		acknowledged: make(chan acknowledgement, 8), ended: make(chan identity.MachineID, 64),
	}
	f.Tunnels = tunnels.New(tunnels.Config{
		Proxy:       proxytest.Name,
		ProxyID:     a.ProxyID(),
		Auth:        client,
		Rules:       f.rules,
		Acknowledge: f.acknowledge,
		Now:         now,
		Log:         proxytest.Log(),
	})
	return f
}

// testNode is a node that may attach several times.
type testNode struct {
	id   identity.Identity
	cert *tls.Certificate
	leaf *x509.Certificate
}

func (f *fixture) newNode(name string) testNode {
	f.t.Helper()
	id := f.Machine(identity.Node, name, identity.Labels{"env": "test"})
	cert := f.MachineCertificate(id, nil)
	leaf, err := x509.ParseCertificate(cert.Certificate[0])
	if err != nil {
		f.t.Fatal(err)
	}
	id.Expires = leaf.NotAfter
	return testNode{id, cert, leaf}
}

// nodeTunnel is the node's end of a tunnel. served is closed when the proxy is done with it.
type nodeTunnel struct {
	*tunnel.Uplink
	served chan struct{}
}

// serve attaches the node and serves its tunnel until it ends.
func serve(ctx context.Context, t *tunnels.Tunnels, conn net.Conn, node identity.Peer) {
	if serveTunnel := t.Attach(ctx, conn, node); serveTunnel != nil {
		serveTunnel()
	}
}

// peer is the node as the proxy has verified it.
func (n testNode) peer() identity.Peer { return identity.Peer{Identity: n.id, Cert: n.leaf} }

// attach connects a tunnel of the node.
func (f *fixture) attach(node testNode, version string) nodeTunnel {
	f.t.Helper()
	near, far := net.Pipe()
	up := nodeTunnel{served: make(chan struct{})}
	go func() {
		serve(f.ctx, f.Tunnels, near, node.peer())
		close(up.served)
	}()
	var err error
	up.Uplink, err = tunnel.Connect(f.t.Context(), far, proxytest.Greeting(node.id.ID, node.cert, version))
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { up.Close(); <-up.served })
	return up
}

// waitUntil waits for a condition that another goroutine brings about.
func waitUntil(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(waitLimit); !ok(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("timed out waiting until %s", what)
		}
	}
}

func (f *fixture) has(node string) func() bool {
	return func() bool { _, ok := f.Find(node); return ok }
}

func (f *fixture) hasNot(node string) func() bool { return func() bool { return !f.has(node)() } }

// A node is found by its exact name and its id, and streams reach it, until its tunnel ends.
func TestANodeIsFoundWhileItsTunnelLives(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	node := f.newNode("web-1")
	up := f.attach(node, "v1")
	waitUntil(t, "the node is attached", f.has("web-1"))
	n, ok := f.Find(string(node.id.ID))
	if !ok || n.Name != "web-1" || n.Labels["env"] != "test" {
		t.Errorf("got %+v, %v by id, want web-1 with its labels", n, ok)
	}
	for _, name := range []string{
		"", "web", "WEB-1", "web-1.test.example.com", "ffffffffffffffffffffffffffffffff",
	} {
		if n, ok := f.Find(name); ok {
			t.Errorf("got %+v for %q, want nothing", n, name)
		}
	}
	go func() {
		c, _, err := up.Accept()
		if err == nil {
			io.WriteString(c, "hi")
			c.Close()
		}
	}()
	c, features, err := f.Open(t.Context(), node.id.ID, f.Header())
	if err != nil {
		t.Fatal(err)
	}
	if !features.Has(dial.EarlyRequests) {
		t.Errorf("got the features %v, want those that the node named", features)
	}
	if got, err := io.ReadAll(c); string(got) != "hi" || err != nil {
		t.Errorf("got %q, %v, want hi", got, err)
	}
	c.Close()
	up.Close()
	waitUntil(t, "the node is gone", f.hasNot("web-1"))
	if _, _, err := f.Open(t.Context(), node.id.ID, f.Header()); !fault.Is(err, fault.Unavailable) {
		t.Errorf("got %v, want unavailable", err)
	}
}

// New streams use the newest tunnel of a node, and open streams of an older tunnel go on. When the newest
// ends, the node is found by the older one.
func TestTheNewestTunnelIsUsedAndOlderOnesStayOpen(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	node := f.newNode("web-1")
	old := f.attach(node, "v1")
	waitUntil(t, "the first is attached", f.has("web-1"))
	running, _, err := f.Open(t.Context(), node.id.ID, f.Header())
	if err != nil {
		t.Fatal(err)
	}
	atNode, _, err := old.Accept()
	if err != nil {
		t.Fatal(err)
	}
	fresh := f.attach(node, "v2")
	got := make(chan string, 2)
	for name, up := range map[string]nodeTunnel{"old": old, "new": fresh} {
		go func() {
			if c, _, err := up.Accept(); err == nil {
				got <- name
				c.Close()
			}
		}()
	}
	var by string
	waitUntil(t, "the newer one is used", func() bool {
		c, _, err := f.Open(t.Context(), node.id.ID, f.Header())
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
		t.Errorf("got %q, %v over the older tunnel, want it to stay open", b, err)
	}
	fresh.Close()
	<-fresh.served
	if _, ok := f.Find("web-1"); !ok {
		t.Error("got the node gone, want it found by the older tunnel")
	}
	running.Close()
}

func TestANodeHasAtMostFourTunnels(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	node := f.newNode("web-1")
	first := f.attach(node, "v1")
	waitUntil(t, "the first is attached", f.has("web-1"))
	for range 4 {
		f.attach(node, "v1")
	}
	select {
	case <-first.Done():
	case <-time.After(waitLimit):
		t.Error("got five tunnels of one node, want the oldest closed")
	}
}

// push is rules of a head alone.
type push string

func (p push) Next(map[string][32]byte) (pieces [][]byte, head []byte) { return nil, []byte(p) }
func (p push) Digests() map[string][32]byte                            { return nil }

func TestRulesGoToEveryTunnel(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	up := f.attach(f.newNode("web-1"), "v1")
	for _, want := range []string{"set one", "set two"} {
		f.rules.pushes <- push(want)
		if got := string((<-up.Rules()).Head); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// What a node acknowledges is handed over as it is, with the id in its certificate, until its tunnel ends.
func TestAcknowledgementsAreHandedOver(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	web, db := f.newNode("web-1"), f.newNode("db-1")
	first, second := f.attach(web, "v1"), f.attach(db, "v1")
	for up, want := range map[nodeTunnel]acknowledgement{
		first: {web.id.ID, "of web-1"}, second: {db.id.ID, "of db-1"},
	} {
		if err := up.Acknowledge([]byte(want.text)); err != nil {
			t.Fatal(err)
		}
		if got := <-f.acknowledged; got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}
	first.Close()
	if got := <-f.ended; got != web.id.ID {
		t.Errorf("got the end of %s, want that of web-1", got)
	}
}

func TestATunnelWithAnExpiredCertificateTakesNoNewStreams(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	node := f.newNode("web-1")
	node.id.Expires = time.Now().Add(200 * time.Millisecond)
	up := f.attach(node, "v1")
	select {
	case <-up.served:
	case <-time.After(waitLimit):
		t.Error("got the tunnel kept after its certificate expired")
	}
	if f.has("web-1")() {
		t.Error("got the node found by an expired certificate")
	}
}

// A stolen key of a node cannot use up the proxy with connections that send no hello: only a few wait, and
// other nodes can attach meanwhile.
func TestPendingHellosOfOneNodeAreLimited(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	node := f.newNode("web-1")
	var silent []net.Conn
	ended := make(chan struct{}, 20)
	for range 20 {
		near, far := net.Pipe()
		silent = append(silent, far)
		go func() {
			serve(f.ctx, f.Tunnels, near, node.peer())
			ended <- struct{}{}
		}()
	}
	for range 20 - 8 {
		select {
		case <-ended:
		case <-time.After(waitLimit):
			t.Fatal("got more than 8 connections waiting")
		}
	}
	f.attach(f.newNode("web-2"), "v1")
	waitUntil(t, "another node is attached", f.has("web-2"))
	for _, c := range silent {
		c.Close()
	}
	for range 8 {
		<-ended
	}
	f.attach(node, "v1")
	waitUntil(t, "the node is attached once it sends a hello", f.has("web-1"))
}

func TestARefusedHelloAttachesNothing(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	node, other := f.newNode("web-1"), f.newNode("web-2")
	near, far := net.Pipe()
	served := make(chan struct{})
	go func() {
		serve(t.Context(), f.Tunnels, near, node.peer())
		close(served)
	}()
	_, err := tunnel.Connect(t.Context(), far, proxytest.Greeting(node.id.ID, other.cert, "v1"))
	if !fault.Is(err, fault.Denied) {
		t.Errorf("got %v, want denied", err)
	}
	<-served
	if f.has("web-1")() {
		t.Error("got the node attached with another node's key")
	}
}

// A node that finds that it needs no tunnel to this proxy closes the connection. That is usual, and not worth
// a warning.
func TestClosingBeforeTheHelloLogsNoWarning(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	f := newFixture(t, nil)
	node := f.newNode("web-1")
	client := f.Client()
	defer client.Close()
	logged := tunnels.New(tunnels.Config{
		Proxy:       proxytest.Name,
		ProxyID:     f.ProxyID(),
		Auth:        client,
		Rules:       f.rules,
		Acknowledge: proxytest.IgnoreAcknowledgements,
		Log:         slog.New(slog.NewTextHandler(&out, nil)),
	})
	near, far := net.Pipe()
	far.Close()
	serve(t.Context(), logged, near, node.peer())
	if out.Len() > 0 {
		t.Errorf("got %q in the log, want nothing", &out)
	}
}

// The auth service gets a report at the start and after each change, with the attachments that the nodes have
// signed. A change while it is down is reported later.
func TestReportsFollowChanges(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- f.Run(ctx) }()
	wait := func(n int) authrpc.ReportNodesRequest {
		t.Helper()
		for {
			select {
			case r := <-f.Reports:
				if len(r.Attached) == n {
					return r
				}
			case <-time.After(waitLimit):
				t.Fatalf("got no report of %d nodes", n)
			}
		}
	}
	wait(0) // the first report, which begins the lease
	node := f.newNode("web-1")
	up := f.attach(node, "v7")
	r := wait(1)
	at, err := r.Attached[0].Attachment.Verify(node.leaf.PublicKey)
	if err != nil || at.Node != node.id.ID || at.Proxy != proxytest.Name || r.Attached[0].Version != "v7" {
		t.Errorf("got %+v, %v, want the attachment that the node signed", r.Attached[0], err)
	}
	f.SetDown(true)
	up.Close()
	waitUntil(t, "the node is gone", f.hasNot("web-1"))
	f.SetDown(false)
	wait(0) // the change is reported once the auth service is back
	cancel()
	if err := <-ran; err != nil {
		t.Error(err)
	}
}

// A locked node takes no streams, loses its tunnel, and is told why when it comes back. Once the lock is
// removed it attaches again. The tunnels of other nodes stay, however many locks change.
func TestALockedNodeLosesItsTunnel(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	stolen := f.newNode("web-1")
	up := f.attach(stolen, "v1")
	var honest []nodeTunnel
	for _, name := range []string{"db-1", "db-2", "db-3", "db-4"} {
		honest = append(honest, f.attach(f.newNode(name), "v1"))
		waitUntil(t, name+" is attached", f.has(name))
	}
	waitUntil(t, "web-1 is attached", f.has("web-1"))
	for range 500 {
		f.rules.lock(f.Machine(identity.Node, "x", nil).ID, identity.MachineID(rand.Text()))
	}
	f.rules.lock(stolen.id.ID)
	waitUntil(t, "the locked node is not found", f.hasNot("web-1"))
	select {
	case <-up.served:
	case <-time.After(waitLimit):
		t.Fatal("got the tunnel of a locked node kept")
	}
	near, far := net.Pipe()
	served := make(chan struct{})
	go func() { serve(t.Context(), f.Tunnels, near, stolen.peer()); close(served) }()
	_, err := tunnel.Connect(t.Context(), far, proxytest.Greeting(stolen.id.ID, stolen.cert, "v1"))
	if !fault.Is(err, fault.Denied) || !strings.Contains(fault.Message(err), "stolen") {
		t.Errorf("got %v, want denied with the message of the lock", err)
	}
	<-served
	for _, other := range honest {
		select {
		case <-other.Done():
			t.Error("got the tunnel of another node ended")
		default:
		}
	}
	f.rules.lock()
	f.attach(stolen, "v1")
	waitUntil(t, "the node is attached again", f.has("web-1"))
}
