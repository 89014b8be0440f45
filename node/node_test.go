package node_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
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
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/member/membertest"
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

// testProxy is a proxy in small: one port that passes auth through and takes tunnels.
type testProxy struct {
	t       *testing.T
	cluster *membertest.Cluster
	name    string
	cert    *tls.Certificate
	ln      net.Listener
	wg      sync.WaitGroup
	ctx     context.Context
	stop    context.CancelFunc
	tunnels chan *tunnel.Attached
}

func newTestProxy(t *testing.T, c *membertest.Cluster, name, addr string) *testProxy {
	t.Helper()
	d := &testProxy{
		t:       t,
		cluster: c,
		name:    name,
		cert:    c.ServiceCertificate(identity.Proxy, name),
		tunnels: make(chan *tunnel.Attached, 16),
	}
	d.ctx, d.stop = context.WithCancel(context.Background())
	var err error
	if d.ln, err = net.Listen("tcp", addr); err != nil {
		t.Fatal(err)
	}
	d.wg.Go(d.accept)
	t.Cleanup(d.close)
	return d
}

func (d *testProxy) close() { d.stop(); d.ln.Close(); d.wg.Wait() }

func (d *testProxy) addr() string { return d.ln.Addr().String() }

func (d *testProxy) accept() {
	for {
		conn, err := d.ln.Accept()
		if err != nil {
			return
		}
		d.wg.Go(func() { d.serve(conn) })
	}
}

func (d *testProxy) serve(conn net.Conn) {
	defer conn.Close()
	tc := tls.Server(
		conn,
		&tls.Config{
			Certificates: []tls.Certificate{*d.cert},
			NextProtos:   []string{identity.ALPNTunnel},
			ClientAuth:   tls.RequireAnyClientCert,
			MinVersion:   tls.VersionTLS13,
		},
	)
	if err := tc.HandshakeContext(d.ctx); err != nil {
		return
	}
	trust, err := rules.Open(d.cluster.Pin(), d.cluster.SignRules())
	if err != nil {
		d.t.Errorf("rules: %v", err)
		return
	}
	peer, err := identity.VerifyX509(
		tc.ConnectionState().PeerCertificates,
		membertest.Name,
		trust.Authorities.ServiceRoots,
		x509.ExtKeyUsageClientAuth,
		d.cluster.Now(),
		identity.Node,
	)
	if err != nil {
		d.t.Errorf("node's certificate: %v", err)
		return
	}
	a, err := tunnel.Accept(d.ctx, tc, peer, d.name, d.cluster.Now)
	if err != nil {
		return
	}
	defer a.Close()
	set := d.cluster.SignRules()
	b, _ := set.Encode()
	if err := a.PushRules(d.ctx, tunnel.RulesPush{Set: b}); err != nil {
		return
	}
	d.tunnels <- a
	select {
	case <-a.Done():
	case <-d.ctx.Done():
	}
}

// testNode is a node under test.
type testNode struct {
	*node.Node
	dir  string
	stop context.CancelFunc
	done chan error
	log  *logBuffer
}

type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}
func (l *logBuffer) String() string { l.mu.Lock(); defer l.mu.Unlock(); return l.b.String() }

// start runs a node that joined directly at auth, and then dials the doors.
func start(t *testing.T, c *membertest.Cluster, doors ...*testProxy) *testNode {
	t.Helper()
	return startIn(t, c, filepath.Join(t.TempDir(), "data"), doors...)
}

func startIn(t *testing.T, c *membertest.Cluster, dir string, doors ...*testProxy) *testNode {
	t.Helper()
	addrs := []string{c.Addr()} // the test's doors do not pass auth through
	for _, d := range doors {
		addrs = append(addrs, d.addr())
	}
	m := &testNode{dir: dir, log: &logBuffer{}, done: make(chan error, 1)}
	n, err := node.New(node.Config{
		Dir:     dir,
		Proxies: addrs,
		Token:   c.Token(identity.Node),
		Name:    "web-1",
		Labels:  identity.Labels{"env": "test"},
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

func allow(t *testing.T, c *membertest.Cluster) {
	c.SetRoles(access.Role{
		Name: "ops",
		Allow: []access.Grant{
			{
				Nodes:   map[string]access.Strings{"env": {"test"}},
				Logins:  access.Strings{testAccount(t)},
				Actions: []string{"shell", "exec"},
			},
		},
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

// login speaks SSH through a tunnel, as a client behind the proxy does.
func login(t *testing.T, c *membertest.Cluster, a *tunnel.Attached) *ssh.Client {
	t.Helper()
	conn, err := a.Open(t.Context(), tunnel.Header{From: "192.0.2.7:4711", Protocol: "dial"})
	if err != nil {
		t.Fatal(err)
	}
	signer := c.UserSigner(c.User("alice@example.com", "ops"), nil, testAccount(t))
	cc, chans, reqs, err := ssh.NewClientConn(
		conn,
		"web-1",
		&ssh.ClientConfig{User: testAccount(t), Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)},
			HostKeyCallback: func(_ string, _ net.Addr, key ssh.PublicKey) error {
				return identity.VerifySSHHost(key, "web-1", []ssh.PublicKey{c.HostAuthority()}, time.Now())
			}},
	)
	if err != nil {
		t.Fatal(err)
	}
	client := ssh.NewClient(cc, chans, reqs)
	t.Cleanup(func() { client.Close() })
	return client
}

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

func TestASessionThroughATunnel(t *testing.T) {
	c := membertest.New(t)
	allow(t, c)
	d := newTestProxy(t, c, "proxy-1", "127.0.0.1:0")
	m := start(t, c, d)
	a := receive(t, "the tunnel", d.tunnels)
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
			if e.Machine != "web-1" || e.Proxy != "proxy-1" || e.From != "192.0.2.7:4711" {
				t.Errorf("got event %+v", e)
			}
		}
	}
}

func TestTheNodeHasNoListenerWhileASessionIsOpen(t *testing.T) {
	c := membertest.New(t)
	allow(t, c)
	d := newTestProxy(t, c, "proxy-1", "127.0.0.1:0")
	before := listeners(t)
	start(t, c, d)
	client := login(t, c, receive(t, "the tunnel", d.tunnels))
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

// listeners counts this process's listening sockets: those of auth and the door, which are this test's own.
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

func TestOneTunnelToEachOfTwoProxies(t *testing.T) {
	c := membertest.New(t)
	d1 := newTestProxy(t, c, "proxy-1", "127.0.0.1:0")
	d2 := newTestProxy(t, c, "proxy-2", "127.0.0.1:0")
	start(t, c, d1, d2)
	receive(t, "the first tunnel", d1.tunnels)
	receive(t, "the second tunnel", d2.tunnels)
	select {
	case <-d1.tunnels:
		t.Error("got a second tunnel to the same proxy, want one")
	case <-d2.tunnels:
		t.Error("got a second tunnel to the same proxy, want one")
	default:
	}
}

func TestATunnelIsRestoredAfterAnOutage(t *testing.T) {
	c := membertest.New(t)
	allow(t, c)
	d := newTestProxy(t, c, "proxy-1", "127.0.0.1:0")
	start(t, c, d)
	receive(t, "the tunnel", d.tunnels)
	addr := d.addr()
	d.close()
	again := newTestProxy(t, c, "proxy-1", addr)
	a := receive(t, "the tunnel after the outage", again.tunnels)
	if got := runCommand(t, login(t, c, a), "echo back"); got != "back\n" {
		t.Errorf("got %q, want back", got)
	}
}

func TestPushedRulesApplyAtOnce(t *testing.T) {
	c := membertest.New(t)
	d := newTestProxy(t, c, "proxy-1", "127.0.0.1:0")
	m := start(t, c, d)
	a := receive(t, "the tunnel", d.tunnels)
	allow(t, c)
	set := c.SignRules()
	b, _ := set.Encode()
	if err := a.PushRules(t.Context(), tunnel.RulesPush{Set: b}); err != nil {
		t.Fatal(err)
	}
	want := filepath.Join(m.dir, "rules.json")
	deadline := time.Now().Add(10 * time.Second)
	for {
		if text, err := os.ReadFile(want); err == nil {
			if kept, err := rules.Decode(text); err == nil &&
				bytes.Equal(kept.Roles.Payload, set.Roles.Payload) {
				break
			}
		}
		if time.Now().After(deadline) {
			t.Fatal("the pushed rules are not on disk after 10 s")
		}
		<-time.After(5 * time.Millisecond)
	}
	runCommand(t, login(t, c, a), "true")
}

func TestAProxyThatPushesGarbageDoesNotFillTheLog(t *testing.T) {
	c := membertest.New(t)
	d := newTestProxy(t, c, "proxy-1", "127.0.0.1:0")
	m := start(t, c, d)
	a := receive(t, "the tunnel", d.tunnels)
	began := time.Now()
	for range 5000 {
		if err := a.PushRules(t.Context(), tunnel.RulesPush{Set: []byte("{")}); err != nil {
			t.Fatal(err)
		}
	}
	allow(t, c)
	set := c.SignRules()
	b, _ := set.Encode()
	if err := a.PushRules(t.Context(), tunnel.RulesPush{Set: b}); err != nil {
		t.Fatal(err)
	}
	for deadline := time.After(10 * time.Second); ; {
		if text, err := os.ReadFile(filepath.Join(m.dir, "rules.json")); err == nil {
			if kept, err := rules.Decode(text); err == nil &&
				bytes.Equal(kept.Roles.Payload, set.Roles.Payload) {
				break
			}
		}
		select {
		case <-deadline:
			t.Fatal("good rules after the nonsense are not on disk after 10 s")
		case <-time.After(5 * time.Millisecond):
		}
	}
	if n, most := strings.Count(m.log.String(), "pushed rules are not used"), 40+5*int(time.Since(began)/time.Second); n == 0 ||
		n > most {
		t.Errorf("got %d lines of 5000 pushes, want some and at most %d", n, most)
	}
}

func TestANodeRestartsWhileAuthIsUnavailable(t *testing.T) {
	c := membertest.New(t)
	allow(t, c)
	dir := filepath.Join(t.TempDir(), "data")
	d := newTestProxy(t, c, "proxy-1", "127.0.0.1:0")
	first := startIn(t, c, dir, d)
	receive(t, "the tunnel", d.tunnels)
	first.stop()
	if err := receive(t, "the end of Run", first.done); err != nil {
		t.Fatal(err)
	}
	close(first.done)
	c.Refuse(fault.New(fault.Unavailable, "auth", "away", "wait"))
	startIn(t, c, dir, d)
	client := login(t, c, receive(t, "the tunnel", d.tunnels))
	runCommand(t, client, "true")
	client.Close()
	c.Refuse(nil)
	receive(t, "spooled events", c.EventsSeen())
}

func TestTwoNodesDoNotShareADirectory(t *testing.T) {
	c := membertest.New(t)
	d := newTestProxy(t, c, "proxy-1", "127.0.0.1:0")
	m := start(t, c, d)
	receive(t, "the tunnel", d.tunnels)
	n, err := node.New(node.Config{Dir: m.dir, Proxies: []string{d.addr()}, Name: "web-2"})
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Run(t.Context()); !fault.Is(err, fault.Conflict) || fault.Remedy(err) == "" {
		t.Errorf("got %v, want a conflict with a remedy", err)
	}
}

func TestASessionMayFinishWhileTheNodeDrains(t *testing.T) {
	c := membertest.New(t)
	allow(t, c)
	d := newTestProxy(t, c, "proxy-1", "127.0.0.1:0")
	m := start(t, c, d)
	client := login(t, c, receive(t, "a tunnel", d.tunnels))
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
	m.stop()
	gone := make(chan error, 1)
	go func() { gone <- s.Wait() }()
	select {
	case err := <-gone:
		t.Fatalf("got the session ended (%v) by the stop, want it to go on", err)
	case <-time.After(200 * time.Millisecond):
	}
	in.Close()
	var exit *ssh.ExitError
	if err := receive(t, "the session's end", gone); !errors.As(err, &exit) || exit.ExitStatus() != 7 {
		t.Errorf("got %v, want the program's own status 7", err)
	}
	if err := receive(t, "the node's end", m.done); err != nil {
		t.Errorf("got %v from Run, want nil", err)
	}
	close(m.done)
}

func TestInvalidConfigurations(t *testing.T) {
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

func TestJoiningIsRetriedUntilTheContextEnds(t *testing.T) {
	var log logBuffer
	n, err := node.New(node.Config{
		Dir:     t.TempDir() + "/d",
		Proxies: []string{"127.0.0.1:1"},
		Name:    "web-1",
		Token:   membertest.New(t).Token(identity.Node),
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
