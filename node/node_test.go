package node_test

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/clustertest"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/fault/faulttest"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/rules"
	"github.com/threshold-access/threshold/internal/tunnel"
	"github.com/threshold-access/threshold/node"
)

func TestMain(m *testing.M) {
	if code, is := node.Helper(); is {
		os.Exit(code)
	}
	goleak.VerifyTestMain(m)
}

// testProxy is a small proxy: one port that accepts tunnels and pushes the cluster's rules once through each.
type testProxy struct {
	t       *testing.T
	cluster *clustertest.Cluster
	id      identity.MachineID
	name    string
	addr    string
	stop    func()                // returns when every tunnel is closed
	tunnels chan *tunnel.Attached // each tunnel that a node has connected
}

// startProxy starts a proxy that ends with the test. An empty address means any port of the loopback address.
func startProxy(t *testing.T, c *clustertest.Cluster, name, addr string) *testProxy {
	t.Helper()
	ln, err := net.Listen("tcp", cmp.Or(addr, "127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	machine := c.Machine(identity.Proxy, name, nil)
	p := &testProxy{
		t:       t,
		cluster: c,
		id:      machine.ID,
		name:    name,
		addr:    ln.Addr().String(),
		tunnels: make(chan *tunnel.Attached, 16),
	}
	cert := c.MachineCertificate(machine, nil)
	p.stop = clustertest.Serve(t, ln, clustertest.Protocol{
		Name:        identity.ALPNTunnel,
		Certificate: func() *tls.Certificate { return cert },
		ClientAuth:  tls.RequireAnyClientCert,
		Serve:       p.serve,
	})
	return p
}

// serve serves one tunnel until the node or the proxy ends it.
func (p *testProxy) serve(ctx context.Context, conn *tls.Conn) {
	peer, err := p.cluster.VerifyPeer(conn.ConnectionState().PeerCertificates, identity.Node)
	if err != nil {
		p.t.Errorf("node's certificate: %v", err)
		return
	}
	a, err := tunnel.Accept(ctx, conn, peer, tunnel.Proxy{ID: p.id, Name: p.name, Now: p.cluster.Now})
	if err != nil {
		return
	}
	defer a.Close()
	if err := pushRules(ctx, p.cluster, a); err != nil {
		return
	}
	p.tunnels <- a
	select {
	case <-a.Done():
	case <-ctx.Done():
	}
}

// pushRules pushes the cluster's rules through a tunnel.
func pushRules(ctx context.Context, c *clustertest.Cluster, a *tunnel.Attached) error {
	feed, err := rules.NewFeed(c.SignRules())
	if err != nil {
		return err
	}
	return a.PushRules(ctx, feed)
}

// testNode is a node under test.
type testNode struct {
	*node.Node
	dir  string
	stop context.CancelFunc
	done chan error // what Run returned
	log  *logBuffer
}

type logBuffer struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (l *logBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *logBuffer) String() string { l.mu.Lock(); defer l.mu.Unlock(); return l.b.String() }

// start runs a node that joins at the auth service directly, and then dials the proxies.
func start(t *testing.T, c *clustertest.Cluster, proxies ...*testProxy) *testNode {
	t.Helper()
	return startIn(t, c, filepath.Join(t.TempDir(), "data"), proxies...)
}

// startIn is start with the data directory dir, which may have a membership already.
func startIn(t *testing.T, c *clustertest.Cluster, dir string, proxies ...*testProxy) *testNode {
	t.Helper()
	addrs := []string{c.Addr()} // the test proxies pass no connections on to the auth service
	for _, p := range proxies {
		addrs = append(addrs, p.addr)
	}
	m := &testNode{dir: dir, log: &logBuffer{}, done: make(chan error, 1)}
	n, err := node.New(node.Config{
		Dir:     dir,
		Proxies: addrs,
		Token:   c.Token(identity.Node),
		Name:    "web-1",
		Labels:  identity.Labels{"self.env": "test"},
		Version: "v0",
		Log:     slog.New(slog.NewTextHandler(m.log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	m.Node = n
	ctx, cancel := context.WithCancel(context.Background())
	m.stop = cancel
	go func() { m.done <- n.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err, open := <-m.done; open && err != nil {
			t.Errorf("got %v from Run, want nil", err)
		}
		if t.Failed() {
			t.Log(m.log.String())
		}
	})
	return m
}

func testAccount(t *testing.T) string {
	t.Helper()
	u, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	return u.Username
}

// allow puts a role in force that allows commands on the node.
func allow(t *testing.T, c *clustertest.Cluster) {
	t.Helper()
	c.SetRoles(access.Role{
		Name: "ops",
		Allow: []access.Grant{{
			Nodes:   map[string]access.Strings{"self.env": {"test"}},
			Logins:  access.Strings{testAccount(t)},
			Actions: []string{"shell", "exec"},
		}},
	})
}

func receive[T any](t *testing.T, what string, ch <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-ch:
	case <-time.After(20 * time.Second):
		t.Fatalf("%s: nothing came for 20 s", what)
	}
	return v
}

// tryLogin logs in through a tunnel, as a client behind the proxy does. It returns the banner with a refusal.
func tryLogin(
	t *testing.T,
	c *clustertest.Cluster,
	a *tunnel.Attached,
) (client *ssh.Client, banner string, err error) {
	t.Helper()
	conn, err := a.Open(t.Context(), tunnel.Header{
		Service:    tunnel.SSH,
		From:       netip.MustParseAddrPort("192.0.2.7:4711"),
		Protocol:   "dial",
		ProxyID:    "00112233445566778899aabbccddeeff",
		Proxy:      "proxy-1",
		Connection: identity.NewConnectionID(),
	})
	if err != nil {
		t.Fatal(err)
	}
	signer := c.UserSigner(c.User("alice@example.com", "ops"), nil, testAccount(t))
	cc, opens, requests, err := ssh.NewClientConn(conn, "web-1", &ssh.ClientConfig{
		User:           testAccount(t),
		Auth:           []ssh.AuthMethod{ssh.PublicKeys(signer)},
		BannerCallback: func(text string) error { banner += text; return nil },
		HostKeyCallback: func(_ string, _ net.Addr, key ssh.PublicKey) error {
			return identity.VerifySSHHost(key, "web-1", []ssh.PublicKey{c.HostAuthority()}, time.Now())
		},
	})
	if err != nil {
		conn.Close()
		return nil, banner, err
	}
	client = ssh.NewClient(cc, opens, requests)
	t.Cleanup(func() { client.Close() })
	return client, banner, nil
}

func login(t *testing.T, c *clustertest.Cluster, a *tunnel.Attached) *ssh.Client {
	t.Helper()
	client, banner, err := tryLogin(t, c, a)
	if err != nil {
		t.Fatalf("got %v (%s), want logged in", err, banner)
	}
	return client
}

// loginUntil logs in again and again until done accepts the outcome: the banner of a refusal, or "" for a
// success. A login asks the node for its decision, so there is no need to pause.
func loginUntil(t *testing.T, c *clustertest.Cluster, a *tunnel.Attached, done func(banner string) bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		client, banner, err := tryLogin(t, c, a)
		if err == nil {
			client.Close()
		}
		if done(banner) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("got %v (%s) for 20 s", err, banner)
		}
	}
}

func isAllowed(banner string) bool  { return banner == "" }
func isStopping(banner string) bool { return strings.Contains(banner, "this node is stopping") }

func runCommand(t *testing.T, client *ssh.Client, command string) string {
	t.Helper()
	s, err := client.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	b, err := s.Output(command)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// A client reaches the node through a tunnel, sees its own address, and its session is audited at the auth
// service.
func TestASessionThroughATunnel(t *testing.T) {
	t.Parallel()
	c := clustertest.New(t)
	allow(t, c)
	p := startProxy(t, c, "proxy-1", "")
	m := start(t, c, p)
	a := receive(t, "the tunnel", p.tunnels)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := m.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	client := login(t, c, a)
	if got := runCommand(t, client, "echo $THRESHOLD_FROM"); got != "192.0.2.7:4711\n" {
		t.Errorf("got client address %q, want the one of the header", got)
	}
	client.Close()
	for seen := map[audit.Code]bool{}; !seen[audit.SessionStarted] || !seen[audit.SessionEnded]; {
		receive(t, "events at auth", c.EventsSeen())
		for _, e := range c.Events() {
			seen[e.Code] = true
			if e.Machine.Name != "web-1" || e.Proxy.Name != "proxy-1" || e.From != "192.0.2.7:4711" {
				t.Errorf("got event %+v", e)
			}
		}
	}
}

func TestTheNodeHasNoListenerWhileASessionIsOpen(t *testing.T) {
	c := clustertest.New(t)
	allow(t, c)
	p := startProxy(t, c, "proxy-1", "")
	before := listeners(t)
	start(t, c, p)
	client := login(t, c, receive(t, "the tunnel", p.tunnels))
	s, err := client.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start("sleep 100"); err != nil {
		t.Fatal(err)
	}
	if got := listeners(t); got != before {
		t.Errorf("got %d listening sockets with a node and a session, want %d as before", got, before)
	}
}

// listeners counts this process's listening sockets: those of the auth service and the proxy, which the test
// started itself.
func listeners(t *testing.T) int {
	t.Helper()
	own := map[string]bool{}
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		link, _ := os.Readlink("/proc/self/fd/" + fd.Name())
		own[strings.TrimSuffix(strings.TrimPrefix(link, "socket:["), "]")] = true
	}
	n := 0
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6", "/proc/net/udp", "/proc/net/udp6"} {
		b, err := os.ReadFile(table)
		if err != nil {
			continue // a kernel without IPv6
		}
		for _, line := range strings.Split(string(b), "\n")[1:] {
			f := strings.Fields(line)
			listening := len(f) > 9 && (f[3] == "0A" || strings.Contains(table, "udp"))
			if listening && own[f[9]] {
				n++
			}
		}
	}
	return n
}

// The settings of the cluster say how many tunnels a node keeps, and how long its sessions may go on after a
// stop where its configuration does not say.
func TestTheSettingsOfTheClusterAreUsed(t *testing.T) {
	t.Parallel()
	c := clustertest.New(t)
	c.SetSettings(access.Settings{Tunnels: 1, Drain: access.Duration(3 * time.Second)})
	p1 := startProxy(t, c, "proxy-1", "")
	p2 := startProxy(t, c, "proxy-2", "")
	n := start(t, c, p1, p2)
	var last *tunnel.Attached
	select {
	case last = <-p1.tunnels:
		last.Close()
		receive(t, "the tunnel to the other proxy", p2.tunnels)
	case last = <-p2.tunnels:
		last.Close()
		receive(t, "the tunnel to the other proxy", p1.tunnels)
	}
	if got := n.DrainTime(); got != 3*time.Second {
		t.Errorf("got a drain time of %s, want that of the settings", got)
	}
}

func TestOneTunnelToEachOfTwoProxies(t *testing.T) {
	t.Parallel()
	c := clustertest.New(t)
	p1 := startProxy(t, c, "proxy-1", "")
	p2 := startProxy(t, c, "proxy-2", "")
	start(t, c, p1, p2)
	receive(t, "the first tunnel", p1.tunnels)
	receive(t, "the second tunnel", p2.tunnels)
	select {
	case <-p1.tunnels:
		t.Error("got a second tunnel to the same proxy, want one")
	case <-p2.tunnels:
		t.Error("got a second tunnel to the same proxy, want one")
	default:
	}
}

func TestATunnelIsRestoredAfterAnOutage(t *testing.T) {
	t.Parallel()
	c := clustertest.New(t)
	allow(t, c)
	p := startProxy(t, c, "proxy-1", "")
	start(t, c, p)
	receive(t, "the tunnel", p.tunnels)
	addr := p.addr
	p.stop()
	again := startProxy(t, c, "proxy-1", addr)
	a := receive(t, "the tunnel after the outage", again.tunnels)
	if got := runCommand(t, login(t, c, a), "echo back"); got != "back\n" {
		t.Errorf("got %q, want back", got)
	}
}

func TestPushedRulesApplyAtOnce(t *testing.T) {
	t.Parallel()
	c := clustertest.New(t)
	p := startProxy(t, c, "proxy-1", "")
	start(t, c, p)
	a := receive(t, "the tunnel", p.tunnels)
	if _, _, err := tryLogin(t, c, a); err == nil {
		t.Fatal("got logged in without a role, want refused")
	}
	allow(t, c)
	if err := pushRules(t.Context(), c, a); err != nil {
		t.Fatal(err)
	}
	loginUntil(t, c, a, isAllowed)
}

// headAlone is a version of the rules of which the documents get lost.
type headAlone struct{ *rules.Feed }

func (f headAlone) Next(carried map[string][32]byte) (pieces [][]byte, head []byte) {
	_, head = f.Feed.Next(carried)
	return nil, head
}

// A head names documents that the node has not got: it asks the proxy for them.
func TestANodeAsksForRulesThatItLacks(t *testing.T) {
	t.Parallel()
	c := clustertest.New(t)
	p := startProxy(t, c, "proxy-1", "")
	start(t, c, p)
	a := receive(t, "the tunnel", p.tunnels)
	allow(t, c)
	feed, err := rules.NewFeed(c.SignRules())
	if err != nil {
		t.Fatal(err)
	}
	if err := a.PushRules(t.Context(), headAlone{feed}); err != nil {
		t.Fatal(err)
	}
	select {
	case <-a.RulesWanted():
	case <-time.After(10 * time.Second):
		t.Fatal("got no request for the documents")
	}
	if err := a.PushRules(t.Context(), feed); err != nil {
		t.Fatal(err)
	}
	loginUntil(t, c, a, isAllowed)
}

// garbage is rules that nobody can read.
type garbage struct{}

func (garbage) Next(map[string][32]byte) (pieces [][]byte, head []byte) { return nil, []byte("{") }
func (garbage) Digests() map[string][32]byte                            { return nil }

// Of 5000 broken pushes few are logged, and good rules that come after them take effect.
func TestAProxyThatPushesGarbageDoesNotFillTheLog(t *testing.T) {
	t.Parallel()
	c := clustertest.New(t)
	p := startProxy(t, c, "proxy-1", "")
	n := start(t, c, p)
	a := receive(t, "the tunnel", p.tunnels)
	start := time.Now()
	for range 5000 {
		if err := a.PushRules(t.Context(), garbage{}); err != nil {
			t.Fatal(err)
		}
	}
	allow(t, c)
	if err := pushRules(t.Context(), c, a); err != nil {
		t.Fatal(err)
	}
	loginUntil(t, c, a, isAllowed)
	lines := strings.Count(n.log.String(), "pushed rules are not used")
	limit := 40 + 5*int(time.Since(start)/time.Second) // a burst, then one each 200 ms
	if lines == 0 || lines > limit {
		t.Errorf("got %d lines of 5000 pushes, want some and at most %d", lines, limit)
	}
}

// A member starts and serves sessions without the auth service, and sends their events when it is back.
func TestANodeRestartsWhileAuthIsUnavailable(t *testing.T) {
	t.Parallel()
	c := clustertest.New(t)
	allow(t, c)
	dir := filepath.Join(t.TempDir(), "data")
	p := startProxy(t, c, "proxy-1", "")
	first := startIn(t, c, dir, p)
	receive(t, "the tunnel", p.tunnels)
	first.stop()
	if err := receive(t, "the end of Run", first.done); err != nil {
		t.Fatal(err)
	}
	close(first.done)
	c.Refuse(faulttest.New(fault.Unavailable, "auth", "away", "wait"))
	startIn(t, c, dir, p)
	client := login(t, c, receive(t, "the tunnel", p.tunnels))
	runCommand(t, client, "true")
	client.Close()
	c.Refuse(nil)
	receive(t, "spooled events", c.EventsSeen())
}

func TestTwoNodesDoNotShareADirectory(t *testing.T) {
	t.Parallel()
	c := clustertest.New(t)
	p := startProxy(t, c, "proxy-1", "")
	m := start(t, c, p)
	receive(t, "the tunnel", p.tunnels)
	n, err := node.New(node.Config{Dir: m.dir, Proxies: []string{p.addr}, Name: "web-2"})
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Run(t.Context()); !fault.Is(err, fault.Conflict) || fault.Remedy(err) == "" {
		t.Errorf("got %v, want a conflict with a remedy", err)
	}
}

// A session goes on after the node was told to stop, new logins are refused, and Run returns when it has
// ended.
func TestASessionMayFinishWhileTheNodeDrains(t *testing.T) {
	t.Parallel()
	c := clustertest.New(t)
	allow(t, c)
	p := startProxy(t, c, "proxy-1", "")
	n := start(t, c, p)
	a := receive(t, "the tunnel", p.tunnels)
	client := login(t, c, a)
	s, err := client.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	in, _ := s.StdinPipe()
	out, _ := s.StdoutPipe()
	if err := s.Start("echo on; cat; exit 7"); err != nil {
		t.Fatal(err)
	}
	line := make([]byte, 3)
	if _, err := io.ReadFull(out, line); err != nil {
		t.Fatal(err)
	}
	n.stop()
	loginUntil(t, c, a, isStopping)
	fmt.Fprintln(in, "still here")
	if got, err := bufio.NewReader(out).ReadString('\n'); got != "still here\n" {
		t.Fatalf("got %q, %v from a session while the node drains, want it to go on", got, err)
	}
	ended := make(chan error, 1)
	go func() { ended <- s.Wait() }()
	in.Close()
	var exit *ssh.ExitError
	if err := receive(t, "the session's end", ended); !errors.As(err, &exit) || exit.ExitStatus() != 7 {
		t.Errorf("got %v, want the program's own status 7", err)
	}
	if err := receive(t, "the node's end", n.done); err != nil {
		t.Errorf("got %v from Run, want nil", err)
	}
	close(n.done)
}

// New reports everything that is wrong at once.
func TestInvalidConfigurations(t *testing.T) {
	t.Parallel()
	_, err := node.New(node.Config{
		Proxies: []string{"no port"},
		Name:    "UPPER",
		Labels:  identity.Labels{"a b": "c"},
		Drain:   2 * time.Hour,
	})
	if !fault.Is(err, fault.Invalid) || fault.Remedy(err) == "" {
		t.Fatalf("got %v, want an invalid fault with a remedy", err)
	}
	for _, want := range []string{"no data directory", "no port", "UPPER", "a b", "time to drain is 2h"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q in it: all faults at once", err, want)
		}
	}
	if _, err := node.New(node.Config{Dir: "/d", Proxies: []string{"p:1"}, Name: "web-1"}); err != nil {
		t.Errorf("got %v, want a good configuration taken", err)
	}
}

// Nothing listens at the address of the proxy: Run logs a remedy, tries again, and returns nil at the end of
// ctx.
func TestJoiningIsRetriedUntilTheContextEnds(t *testing.T) {
	t.Parallel()
	var log logBuffer
	n, err := node.New(node.Config{
		Dir:     t.TempDir() + "/d",
		Proxies: []string{"127.0.0.1:1"},
		Name:    "web-1",
		Token:   clustertest.New(t).Token(identity.Node),
		Log:     slog.New(slog.NewTextHandler(&log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := n.Run(ctx); err != nil || !strings.Contains(log.String(), "cannot be joined yet") ||
		!strings.Contains(log.String(), "remedy=") {
		t.Errorf("got %v and log %q, want nil and a warning with a remedy", err, log.String())
	}
}
