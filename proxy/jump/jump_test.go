package jump_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/x509"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/dial"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/member/membertest"
	"github.com/threshold-access/threshold/internal/rules"
	"github.com/threshold-access/threshold/internal/tunnel"
	"github.com/threshold-access/threshold/proxy/jump"
	"github.com/threshold-access/threshold/proxy/proxytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// testNodes has nodes that echo, and remembers how they were reached.
type testNodes struct {
	mu    sync.Mutex
	nodes map[string]access.Node
	last  tunnel.Header
}

func (w *testNodes) Find(name string) (access.Node, bool) {
	for _, n := range w.nodes {
		if n.Name == name || string(n.ID) == name {
			return n, true
		}
	}
	return access.Node{}, false
}

func (w *testNodes) Open(_ context.Context, _ identity.MachineID, h tunnel.Header) (net.Conn, error) {
	w.mu.Lock()
	w.last = h
	w.mu.Unlock()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	defer ln.Close()
	near, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		return nil, err
	}
	far, err := ln.Accept()
	if err != nil {
		return nil, err
	}
	go func() { // half-close: what comes goes back, then the end of it
		io.Copy(far, far)
		far.Close()
	}()
	return near, nil
}

type fixedRules struct{ trust *rules.Trust }

func (f fixedRules) Current() *rules.Trust { return f.trust }

type testServer struct {
	*proxytest.Auth
	*jump.Server
	t     *testing.T
	nodes *testNodes
}

func grant(nodes map[string]access.Strings, logins, actions access.Strings) access.Grant {
	return access.Grant{Nodes: nodes, Logins: logins, Actions: actions}
}

var (
	web = map[string]access.Strings{"env": {"web"}}
	all = map[string]access.Strings{"*": {"*"}}
	// ops reach the web nodes, viewers list them, and barred are denied what they would have as ops.
	ops = access.Role{
		Name:  "ops",
		Allow: []access.Grant{grant(web, access.Strings{"ubuntu"}, access.Strings{"shell"})},
	}
	viewers = access.Role{Name: "viewers", Allow: []access.Grant{grant(all, nil, access.Strings{"list"})}}
	barred  = access.Role{Name: "barred", Deny: []access.Grant{grant(web, nil, nil)}}
)

const secretNode = "vault-1"

func newTestServer(t *testing.T) *testServer {
	t.Helper()
	a := proxytest.New(t)
	a.SetRoles(ops, viewers, barred)
	trust, err := rules.Open(a.Pin(), a.SignRules())
	if err != nil {
		t.Fatal(err)
	}
	client := a.Client()
	t.Cleanup(client.Close)
	w := &testNodes{nodes: map[string]access.Node{}}
	for _, name := range []string{"web-1", secretNode} {
		id := a.Machine(identity.Node, name, nil).ID
		env, _, _ := strings.Cut(name, "-")
		w.nodes[name] = access.Node{ID: id, Name: name, Labels: identity.Labels{"env": env}}
	}
	f := jump.New(jump.Config{
		Cluster:    membertest.Name,
		Rules:      fixedRules{trust},
		Nodes:      w,
		Auth:       client,
		HostSigner: a.HostKey,
		Log:        proxytest.Log(),
	})
	a.Register(authrpc.NodeInfo{
		ID:       "0123456789abcdef0123456789abcdef",
		Name:     "web-2",
		Labels:   identity.Labels{"env": "web"},
		LastSeen: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
	})
	return &testServer{a, f, t, w}
}

// pair is a TCP connection, so that addresses are real.
func pair(t *testing.T) (client, server net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if client, err = net.Dial("tcp", ln.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if server, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client, server
}

func (f *testServer) user(name string, roles ...string) identity.Peer {
	who := f.User(name, roles...)
	who.Expires = time.Now().Add(time.Hour)
	return identity.Peer{Identity: who, Cert: &x509.Certificate{}}
}

// dialAs serves one dial connection in the background; wait returns when it has ended.
func (f *testServer) dialAs(user identity.Peer) (client net.Conn, wait func()) {
	client, server := pair(f.t)
	done := make(chan struct{})
	go func() { f.ServeDial(f.t.Context(), server, user); close(done) }()
	return client, func() { <-done }
}

func TestDialReachesByEveryName(t *testing.T) {
	f := newTestServer(t)
	for _, name := range []string{"web-1", "web-1." + membertest.Name, string(f.nodes.nodes["web-1"].ID)} {
		raw, wait := f.dialAs(f.user("alice@example.com", "ops"))
		conn := dial.Client(raw, dial.Request{Node: name})
		sent := bytes.Repeat([]byte("x"), 300<<10)
		go func() {
			conn.Write(sent)
			raw.(*net.TCPConn).CloseWrite()
		}()
		got, err := io.ReadAll(conn)
		if err != nil || !bytes.Equal(got, sent) {
			t.Errorf(
				"%s: got %d bytes, %v, want %d back after the half-close",
				name,
				len(got),
				err,
				len(sent),
			)
		}
		wait()
		if f.nodes.last.Protocol != "dial" || f.nodes.last.From != raw.LocalAddr().String() {
			t.Errorf("got header %+v, want dial from %s", f.nodes.last, raw.LocalAddr())
		}
	}
}

func TestDialRefuses(t *testing.T) {
	f := newTestServer(t)
	expired := f.user("alice@example.com", "ops")
	expired.Expires = time.Now().Add(-time.Minute)
	pinned := f.user("alice@example.com", "ops")
	pinned.SourceAddresses = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
	missing := "no node %s that you may reach"
	for _, tt := range []struct {
		name   string
		who    identity.Peer
		node   string
		kind   fault.Kind
		says   string
		remedy string
	}{
		{"a node that is away", f.user("a", "ops"), "web-2", fault.Unavailable, "node web-2 is offline (last seen 2026-01-02T03:04:05Z)", "threshold-node"},
		{"a node nobody knows", f.user("a", "ops"), "web-9", fault.NotFound, strings.ReplaceAll(missing, "%s", "web-9"), "see: tsh ls"},
		{"a node that the roles do not show", f.user("a", "ops"), secretNode, fault.NotFound, strings.ReplaceAll(missing, "%s", secretNode), "see: tsh ls"},
		{"a node away that the roles do not show", f.user("a"), "web-2", fault.NotFound, strings.ReplaceAll(missing, "%s", "web-2"), "see: tsh ls"},
		{"a node that may only be listed", f.user("bob", "viewers"), "web-1", fault.Denied, "no role of bob (roles: viewers) allows reaching web-1", "ask an administrator"},
		{"a node away that may only be listed", f.user("bob", "viewers"), "web-2", fault.Denied, "allows reaching web-2", "ask an administrator"},
		{"a denied node", f.user("eve", "ops", "barred"), "web-1", fault.NotFound, "no node web-1", "see: tsh ls"},
		{"nobody's roles", f.user("eve"), "web-1", fault.NotFound, "no node web-1", "see: tsh ls"},
		{"an expired certificate", expired, "web-1", fault.Expired, "has ended", "run: tsh login"},
		{"a pinned certificate from elsewhere", pinned, "web-1", fault.Denied, "pinned to", "tsh login"},
		{"part of a name", f.user("a", "ops"), "web", fault.NotFound, "no node web", "see: tsh ls"},
		{"another case", f.user("a", "ops"), "WEB-1", fault.NotFound, `no node "WEB-1"`, "see: tsh ls"},
		{"no name", f.user("a", "ops"), "", fault.NotFound, `no node ""`, "see: tsh ls"},
		{"a name with an escape", f.user("a", "ops"), "web\x1b[31m", fault.NotFound, `"web\x1b[31m"`, "see: tsh ls"},
	} {
		raw, wait := f.dialAs(tt.who)
		conn := dial.Client(raw, dial.Request{Node: tt.node})
		conn.Write([]byte("SSH-2.0-client\r\n"))
		_, err := conn.Read(make([]byte, 1))
		if !fault.Is(err, tt.kind) || !strings.Contains(fault.Message(err), tt.says) ||
			!strings.Contains(fault.Remedy(err), tt.remedy) {
			t.Errorf(
				"%s: got %v (%s), want a %s that says %q and %q",
				tt.name,
				err,
				fault.Remedy(err),
				tt.kind,
				tt.says,
				tt.remedy,
			)
		}
		raw.Close()
		wait()
	}
}

// Without auth nobody can say whether a node exists; one that is attached is reached all the same.
func TestDialWithoutAuth(t *testing.T) {
	f := newTestServer(t)
	f.Down(true)
	for node, kind := range map[string]fault.Kind{"web-2": fault.Unavailable, secretNode: fault.Unavailable, "web-1": ""} {
		raw, wait := f.dialAs(f.user("a", "ops"))
		conn := dial.Client(raw, dial.Request{Node: node})
		conn.Write([]byte("x"))
		if _, err := conn.Read(make([]byte, 1)); fault.KindOf(err) != kind {
			t.Errorf("%s: got %v, want kind %q", node, err, kind)
		}
		raw.Close()
		wait()
	}
}

func TestDialWithoutFreshRules(t *testing.T) {
	f := newTestServer(t)
	trust, err := rules.Open(f.Pin(), f.SignRulesAt(time.Now().Add(-25*time.Hour)))
	if err != nil {
		t.Fatal(err)
	}
	f.Server = jump.New(jump.Config{
		Cluster:    membertest.Name,
		Rules:      fixedRules{trust},
		Nodes:      f.nodes,
		HostSigner: f.HostKey,
		Log:        proxytest.Log(),
	})
	raw, wait := f.dialAs(f.user("a", "ops"))
	conn := dial.Client(raw, dial.Request{Node: "web-1"})
	conn.Write([]byte("x"))
	if _, err := conn.Read(make([]byte, 1)); !fault.Is(err, fault.Unavailable) ||
		!strings.Contains(err.Error(), "25h") {
		t.Errorf("got %v, want to hear that the rules are too old", err)
	}
	raw.Close()
	wait()
}

func TestDialStallsAndGarbage(t *testing.T) {
	f := newTestServer(t)
	user := f.user("a", "ops")
	for name, first := range map[string][]byte{"nothing": nil, "half a request": {1, 0}, "a length without its bytes": {1, 0, 9, '{'}} {
		synctest.Test(t, func(t *testing.T) {
			client, server := net.Pipe()
			start := time.Now()
			go func() {
				if first != nil {
					client.Write(first)
				}
				io.Copy(io.Discard, client)
			}()
			f.ServeDial(t.Context(), addrConn{server}, user)
			if took := time.Since(start); took > 16*time.Second {
				t.Errorf("%s: got it held for %s, want at most 10s and a drain of 5s", name, took)
			}
			client.Close()
		})
	}
	for name, first := range map[string][]byte{"another version": {9, 0, 2, '{', '}'}, "no JSON": {1, 0, 2, 'h', 'i'}, "too much": {1, 0xff, 0xff}} {
		raw, wait := f.dialAs(user)
		raw.Write(first)
		if rep, err := dial.ReadReply(raw); err != nil || rep.Fault == nil ||
			rep.Fault.Kind != fault.Invalid ||
			rep.Fault.Remedy == "" {
			t.Errorf("%s: got %+v, %v, want an invalid fault with a remedy", name, rep, err)
		}
		raw.Close()
		wait()
	}
}

// addrConn gives a pipe a client's address.
type addrConn struct{ net.Conn }

func (addrConn) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 7), Port: 5022} }

func TestShutdownEndsARelay(t *testing.T) {
	f := newTestServer(t)
	ctx, cancel := context.WithCancel(t.Context())
	client, server := pair(t)
	done := make(chan struct{})
	go func() { f.ServeDial(ctx, server, f.user("a", "ops")); close(done) }()
	conn := dial.Client(client, dial.Request{Node: "web-1"})
	conn.Write([]byte("hello\n"))
	if line, err := bufio.NewReader(conn).ReadString('\n'); err != nil || line != "hello\n" {
		t.Fatalf("got %q, %v", line, err)
	}
	cancel()
	<-done
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Error("got bytes after the shutdown")
	}
}

func hostKey(f *testServer) ssh.HostKeyCallback {
	return func(_ string, _ net.Addr, key ssh.PublicKey) error {
		return identity.VerifySSHHost(key, "127.0.0.1", []ssh.PublicKey{f.HostAuthority()}, time.Now())
	}
}
