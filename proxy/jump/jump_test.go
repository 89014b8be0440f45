package jump_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/clustertest"
	"github.com/threshold-access/threshold/internal/dial"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/rules"
	"github.com/threshold-access/threshold/internal/testnet"
	"github.com/threshold-access/threshold/internal/tunnel"
	"github.com/threshold-access/threshold/internal/wire"
	"github.com/threshold-access/threshold/proxy/jump"
	"github.com/threshold-access/threshold/proxy/proxytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// testNodes are attached nodes that echo. It remembers the last header.
type testNodes struct {
	mu    sync.Mutex
	nodes map[string]access.Node // by name; set before the test
	reset error                  // if not nil, every Read of a stream returns it; set before the test
	last  tunnel.Header          // guarded by mu
}

func (n *testNodes) Find(name string) (access.Node, bool) {
	for _, node := range n.nodes {
		if node.Name == name || string(node.ID) == name {
			return node, true
		}
	}
	return access.Node{}, false
}

func (n *testNodes) Open(
	_ context.Context, _ identity.MachineID, h tunnel.Header,
) (net.Conn, wire.Features, error) {
	n.mu.Lock()
	n.last = h
	n.mu.Unlock()
	near, far := testnet.Pipe()
	if n.reset != nil {
		far.Close()
		return resetConn{near, n.reset}, nodeFeatures, nil
	}
	go func() { // echoes, also after the client has closed its half
		io.Copy(far, far)
		far.Close()
	}()
	return near, nodeFeatures, nil
}

// resetConn is a stream that the node has reset.
type resetConn struct {
	net.Conn
	err error
}

func (c resetConn) Read([]byte) (int, error) { return 0, c.err }

// nodeFeatures is what the nodes understand.
var nodeFeatures = wire.Features{"early-requests", "of-a-later-release"}

// fixedRules are rules that do not change.
type fixedRules struct{ trust *rules.Trust }

func (s fixedRules) Current() *rules.Trust    { return s.trust }
func (s fixedRules) Changed() <-chan struct{} { return nil }

// testServer is a Server with two attached nodes, web-1 and secretNode, and one offline, web-2.
type testServer struct {
	*proxytest.Auth
	*jump.Server
	t     *testing.T
	nodes *testNodes
	trust *rules.Trust
}

// lockedMachine is locked in the cluster of newTestServer.
const lockedMachine = identity.MachineID("fedcba9876543210fedcba9876543210")

func grant(nodes map[string]access.Strings, logins, actions access.Strings) access.Grant {
	return access.Grant{Nodes: nodes, Logins: logins, Actions: actions}
}

var (
	web = map[string]access.Strings{"env": {"web"}}
	all = map[string]access.Strings{"*": {"*"}}
	// ops may reach the web nodes, viewers may list every node, and barred denies the web nodes.
	ops = access.Role{
		Name:  "ops",
		Allow: []access.Grant{grant(web, access.Strings{"ubuntu"}, access.Strings{"shell"})},
	}
	viewers = access.Role{Name: "viewers", Allow: []access.Grant{grant(all, nil, access.Strings{"list"})}}
	barred  = access.Role{Name: "barred", Deny: []access.Grant{grant(web, nil, nil)}}
)

// secretNode is a node that ops may not know of.
const secretNode = "vault-1"

// newTestServer returns a server for a cluster with an attached node web-1, an attached node that no role
// allows (secretNode), and a node web-2 that is offline.
func newTestServer(t *testing.T) *testServer {
	t.Helper()
	auth := proxytest.New(t)
	auth.SetRoles(ops, viewers, barred)
	deny := access.Effect{Kind: access.Deny}
	auth.SetMachineLocks(access.NewLock(access.Facts{Machine: lockedMachine}, deny))
	trust, err := rules.Open(auth.Pin(), auth.SignRules())
	if err != nil {
		t.Fatal(err)
	}
	client := auth.Client()
	t.Cleanup(client.Close)
	nodes := &testNodes{nodes: map[string]access.Node{}}
	for _, name := range []string{"web-1", secretNode} {
		id := auth.Machine(identity.Node, name, nil).ID
		env, _, _ := strings.Cut(name, "-")
		nodes.nodes[name] = access.Node{ID: id, Name: name, Labels: identity.Labels{"env": env}}
	}
	server := jump.New(jump.Config{
		Cluster:    clustertest.Name,
		Proxy:      proxytest.Name,
		ProxyID:    auth.ProxyID(),
		Rules:      fixedRules{trust},
		Nodes:      nodes,
		Auth:       client,
		HostSigner: auth.HostKey,
		Log:        proxytest.Log(),
	})
	auth.Register(authrpc.NodeInfo{
		ID:       "0123456789abcdef0123456789abcdef",
		Name:     "web-2",
		Labels:   identity.Labels{"env": "web"},
		LastSeen: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
	})
	return &testServer{auth, server, t, nodes, trust}
}

// user is a verified user whose certificate lasts an hour.
func (s *testServer) user(name string, roles ...string) identity.Peer {
	who := s.User(name, roles...)
	who.Expires = time.Now().Add(time.Hour)
	return identity.Peer{Identity: who, Cert: &x509.Certificate{}}
}

// dialAs serves one threshold-dial connection in a goroutine. wait returns when that has ended.
func (s *testServer) dialAs(user identity.Peer) (client *testnet.Conn, wait func()) {
	client, server := testnet.Pipe()
	done := make(chan struct{})
	go func() { s.ServeDial(s.t.Context(), server, user); close(done) }()
	return client, func() { <-done }
}

// A node is reached by its name, its name with the cluster, and its id. Every byte comes back, and the node
// gets the client's address and features, and an id of the connection.
func TestDialReachesByEveryName(t *testing.T) {
	t.Parallel()
	srv := newTestServer(t)
	connections := map[identity.ConnectionID]bool{}
	for _, name := range []string{"web-1", "web-1." + clustertest.Name, string(srv.nodes.nodes["web-1"].ID)} {
		raw, wait := srv.dialAs(srv.user("alice@example.com", "ops"))
		conn := dial.Client(raw, dial.Request{Node: name, Features: wire.Features{"faults", "later"}})
		sent := bytes.Repeat([]byte("x"), 300<<10)
		go func() {
			conn.Write(sent)
			raw.CloseWrite()
		}()
		got, err := io.ReadAll(conn)
		if err != nil || !bytes.Equal(got, sent) {
			t.Errorf("%s: got %d bytes, %v, want all %d back", name, len(got), err, len(sent))
		}
		wait()
		header := srv.nodes.last
		said := wire.Features{"faults", "later"}
		if header.Protocol != "dial" || header.From.String() != raw.LocalAddr().String() ||
			header.Service != tunnel.SSH || header.Connection.Check() != nil ||
			header.Proxy != proxytest.Name || header.ProxyID != srv.ProxyID() ||
			!slices.Equal(header.Features, said) {
			t.Errorf("got header %+v, want dial from %s with the client's features", header, raw.LocalAddr())
		}
		if connections[header.Connection] {
			t.Errorf("got the connection id %s twice", header.Connection)
		}
		connections[header.Connection] = true
		if got := conn.NodeFeatures(); !slices.Equal(got, nodeFeatures) {
			t.Errorf("got the node's features %v, want %v", got, nodeFeatures)
		}
	}
}

// A client that has no document of machine locks, or an older one, gets it with the reply. One that has the
// current one, and one of an earlier release, get a reply without it.
func TestDialBringsMachineLocks(t *testing.T) {
	t.Parallel()
	srv := newTestServer(t)
	current := srv.trust.Head.Docs[rules.MachineLocksKind].Revision
	older := rules.Revision{Epoch: current.Epoch, Index: current.Index - 1}
	for _, tt := range []struct {
		name   string
		has    *rules.Revision
		brings bool
	}{
		{"none", &rules.Revision{}, true},
		{"older", &older, true},
		{"current", &current, false},
		{"an earlier release", nil, false},
	} {
		raw, wait := srv.dialAs(srv.user("alice@example.com", "ops"))
		conn := dial.Client(raw, dial.Request{Node: "web-1", MachineLocks: tt.has})
		go func() {
			conn.Write([]byte("x"))
			raw.CloseWrite()
		}()
		if got, err := io.ReadAll(conn); err != nil || string(got) != "x" {
			t.Errorf("%s: got %q, %v, want x back", tt.name, got, err)
		}
		wait()
		document := conn.Reply().MachineLocks
		if (document != nil) != tt.brings {
			t.Errorf("%s: got the document %v, want %v", tt.name, document != nil, tt.brings)
			continue
		}
		if document == nil {
			continue
		}
		locks, err := rules.MachineLocks{}.Follow(clustertest.Name, srv.trust.Authorities, *document)
		if _, denied := locks.Denied(lockedMachine, time.Now()); err != nil || !denied {
			t.Errorf("%s: got denied %v (%v), want the locks that the cluster signed", tt.name, denied, err)
		}
	}
}

// Each refusal has its kind, a message and a remedy. A user who may not list a node gets the same answer as
// for a node that does not exist.
func TestDialRefuses(t *testing.T) {
	t.Parallel()
	srv := newTestServer(t)
	expired := srv.user("alice@example.com", "ops")
	expired.Expires = time.Now().Add(-time.Minute)
	pinned := srv.user("alice@example.com", "ops")
	pinned.SourceAddresses = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
	alice, bob := srv.user("a", "ops"), srv.user("bob", "viewers")
	noRoles, denied := srv.user("eve"), srv.user("eve", "ops", "barred")
	const tshLs, askAdmin = "see: tsh ls", "ask an administrator"
	const offline = "node web-2 is offline (last seen 2026-01-02T03:04:05Z)"
	const unknown = "no node %s that you may reach"
	missing := func(name string) string { return strings.ReplaceAll(unknown, "%s", name) }
	for _, tt := range []struct {
		name   string
		who    identity.Peer
		node   string
		kind   fault.Kind
		says   string
		remedy string
	}{
		{"an offline node", alice, "web-2", fault.Unavailable, offline, "threshold-node"},
		{"a node that does not exist", alice, "web-9", fault.NotFound, missing("web-9"), tshLs},
		{"a node that is not listed", alice, secretNode, fault.NotFound, missing(secretNode), tshLs},
		{"an offline node that is not listed", noRoles, "web-2", fault.NotFound, missing("web-2"), tshLs},
		{"a node that is only listed", bob, "web-1", fault.Denied,
			"no role of bob (roles: viewers) allows reaching web-1", askAdmin},
		{"an offline node that is only listed", bob, "web-2", fault.Denied,
			"allows reaching web-2", askAdmin},
		{"a denied node", denied, "web-1", fault.NotFound, missing("web-1"), tshLs},
		{"a user without roles", noRoles, "web-1", fault.NotFound, missing("web-1"), tshLs},
		{"an expired certificate", expired, "web-1", fault.Expired, "has expired", "run: tsh login"},
		{"a certificate pinned to another network", pinned, "web-1", fault.Denied, "pinned to", "tsh login"},
		{"part of a name", alice, "web", fault.NotFound, missing("web"), tshLs},
		{"a name in capitals", alice, "WEB-1", fault.NotFound, `no node "WEB-1"`, tshLs},
		{"an empty name", alice, "", fault.NotFound, `no node ""`, tshLs},
		{"a name with an escape", alice, "web\x1b[31m", fault.NotFound, `"web\x1b[31m"`, tshLs},
	} {
		raw, wait := srv.dialAs(tt.who)
		conn := dial.Client(raw, dial.Request{Node: tt.node})
		conn.Write([]byte("SSH-2.0-client\r\n"))
		_, err := conn.Read(make([]byte, 1))
		if !fault.Is(err, tt.kind) || !strings.Contains(fault.Message(err), tt.says) ||
			!strings.Contains(fault.Remedy(err), tt.remedy) {
			t.Errorf("%s: got %v (%s), want %s with %q and %q",
				tt.name, err, fault.Remedy(err), tt.kind, tt.says, tt.remedy)
		}
		raw.Close()
		wait()
	}
}

// Attached nodes are reached while the auth service is down. Of the others nobody can tell whether they
// exist.
func TestDialWithoutAuth(t *testing.T) {
	t.Parallel()
	s := newTestServer(t)
	s.SetDown(true)
	for node, kind := range map[string]fault.Kind{
		"web-2": fault.Unavailable, secretNode: fault.Unavailable, "web-1": "",
	} {
		raw, wait := s.dialAs(s.user("a", "ops"))
		conn := dial.Client(raw, dial.Request{Node: node})
		conn.Write([]byte("x"))
		if _, err := conn.Read(make([]byte, 1)); fault.KindOf(err) != kind {
			t.Errorf("%s: got %v, want kind %q", node, err, kind)
		}
		raw.Close()
		wait()
	}
}

// A proxy refuses everybody when its rules are too old to decide by, or when it knows of newer ones that have
// not come. It says which.
func TestDialWithoutFreshRules(t *testing.T) {
	t.Parallel()
	srv := newTestServer(t)
	old, err := rules.Open(srv.Pin(), srv.SignRulesAt(time.Now().Add(-25*time.Hour)))
	if err != nil {
		t.Fatal(err)
	}
	before, err := rules.Open(srv.Pin(), srv.SignRules())
	if err != nil {
		t.Fatal(err)
	}
	srv.SetRoles(access.Role{Name: "new"})
	feed, err := rules.NewFeed(srv.SignRules())
	if err != nil {
		t.Fatal(err)
	}
	aMinuteAgo := time.Now().Add(-time.Minute)
	receiver := rules.NewReceiver(before, aMinuteAgo)
	_, head := feed.Next(nil)
	if _, err := receiver.Offer(aMinuteAgo, head); err != nil {
		t.Fatal(err)
	}
	for want, trust := range map[string]*rules.Trust{
		"25h": old,
		"newer rules, which have not come for 1m": receiver.Current(),
	} {
		srv.Server = jump.New(jump.Config{
			Cluster:    clustertest.Name,
			Rules:      fixedRules{trust},
			Nodes:      srv.nodes,
			HostSigner: srv.HostKey,
			Log:        proxytest.Log(),
		})
		raw, wait := srv.dialAs(srv.user("a", "ops"))
		conn := dial.Client(raw, dial.Request{Node: "web-1"})
		conn.Write([]byte("x"))
		if _, err := conn.Read(make([]byte, 1)); !fault.Is(err, fault.Unavailable) ||
			!strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error with %q", err, want)
		}
		raw.Close()
		wait()
	}
}

// A client that stalls before its dial request is complete is closed in time. A malformed request gets a
// fault with a remedy.
func TestDialStallsAndGarbage(t *testing.T) {
	t.Parallel()
	srv := newTestServer(t)
	user := srv.user("a", "ops")
	for name, first := range map[string][]byte{
		"nothing": nil, "half a request": {1, 0}, "a length without its bytes": {1, 0, 9, '{'},
	} {
		synctest.Test(t, func(t *testing.T) {
			client, server := net.Pipe()
			start := time.Now()
			go func() {
				if first != nil {
					client.Write(first)
				}
				io.Copy(io.Discard, client)
			}()
			srv.ServeDial(t.Context(), addrConn{server}, user)
			if took := time.Since(start); took > 16*time.Second {
				t.Errorf("%s: got the connection held for %s, want at most 10s and a drain of 5s", name, took)
			}
			client.Close()
		})
	}
	for name, first := range map[string][]byte{
		"another version": {9, 0, 2, '{', '}'}, "no JSON": {1, 0, 2, 'h', 'i'}, "too long": {1, 0xff, 0xff},
	} {
		raw, wait := srv.dialAs(user)
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

// addrConn is a pipe with an IP address as the client's.
type addrConn struct{ net.Conn }

func (addrConn) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 7), Port: 5022} }

// A node that cannot serve a stream resets it, when the client has been told that it is connected. The log
// says why it is not.
func TestTheLogSaysWhyANodeResetsAStream(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	s := newTestServer(t)
	s.nodes.reset = &fault.Error{Code: "stream-unsupported", Kind: fault.Invalid, Msg: "not served here"}
	trust, err := rules.Open(s.Pin(), s.SignRules())
	if err != nil {
		t.Fatal(err)
	}
	s.Server = jump.New(jump.Config{
		Cluster: clustertest.Name,
		Rules:   fixedRules{trust},
		Nodes:   s.nodes,
		Log:     slog.New(slog.NewTextHandler(&out, nil)),
	})
	raw, wait := s.dialAs(s.user("a", "ops"))
	conn := dial.Client(raw, dial.Request{Node: "web-1"})
	conn.Write(nil)
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("got %v, want the connection closed", err)
	}
	raw.Close()
	wait()
	for _, part := range []string{"not served here", "connection="} {
		if !strings.Contains(out.String(), part) {
			t.Errorf("got the log %q, want %q in it", &out, part)
		}
	}
}

func TestShutdownEndsARelay(t *testing.T) {
	t.Parallel()
	s := newTestServer(t)
	ctx, cancel := context.WithCancel(t.Context())
	client, server := testnet.Pipe()
	done := make(chan struct{})
	go func() { s.ServeDial(ctx, server, s.user("a", "ops")); close(done) }()
	conn := dial.Client(client, dial.Request{Node: "web-1"})
	conn.Write([]byte("hello\n"))
	if line, err := bufio.NewReader(conn).ReadString('\n'); err != nil || line != "hello\n" {
		t.Fatalf("got %q, %v", line, err)
	}
	cancel()
	<-done
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Error("got a byte after the shutdown, want the connection closed")
	}
}

// hostKey verifies the host certificate of the proxy.
func hostKey(s *testServer) ssh.HostKeyCallback {
	return func(_ string, _ net.Addr, key ssh.PublicKey) error {
		return identity.VerifySSHHost(key, "127.0.0.1", []ssh.PublicKey{s.HostAuthority()}, time.Now())
	}
}
