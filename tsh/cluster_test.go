package tsh_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/ca"
	"github.com/threshold-access/threshold/ca/keyring"
	"github.com/threshold-access/threshold/ca/keyring/keyringtest"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/dial"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/rules"
)

const clusterName = "demo.example.com"

// testCluster is a cluster as tsh sees it: one port that serves pings, the auth service and dial requests.
// The auth service and the nodes are small ones of this test; certificates and signed authorities are real.
type testCluster struct {
	t     testing.TB
	keys  *keyring.Keyring
	ca    *ca.CA
	addr  string
	chain []rules.Signed
	clock func() time.Time // of the auth service
	dials chan struct{}    // gets an element for each dial request, as far as there is room

	mu      sync.Mutex // guards what follows
	logins  []identity.Login
	nodes   []authrpc.NodeInfo
	hosts   map[string]*testNode // by whole name
	calls   []string             // routes of the auth service that were called, and dial requests
	pingPin identity.Pin         // in the ping document
	docs    map[string]authrpc.Resource
	// headlessAnswers has the result of each poll of a headless login: "approve", "refuse", "away" or "wait".
	headlessAnswers []string
	certifyKey      []byte // not nil: redeem certifies this SSH key instead of the requested one
}

// RecordIssuance implements ca.Recorder.
func (tc *testCluster) RecordIssuance(context.Context, ca.Record) error { return nil }

func newTestCluster(t testing.TB) *testCluster {
	t.Helper()
	now := time.Now()
	tc := &testCluster{
		t:      t,
		keys:   keyringtest.New(t, clusterName, now),
		clock:  time.Now,
		dials:  make(chan struct{}, 1),
		hosts:  map[string]*testNode{},
		logins: []identity.Login{"alice"},
		docs:   map[string]authrpc.Resource{},
	}
	var err error
	if tc.ca, err = ca.New(ca.Config{Cluster: clusterName, Keys: tc.keys, Recorder: tc}); err != nil {
		t.Fatal(err)
	}
	tc.pingPin = tc.keys.Pin()
	tc.chain = []rules.Signed{tc.authorities()}
	tc.listen()
	return tc
}

// authorities is the signed document with the keys of the cluster.
func (tc *testCluster) authorities() rules.Signed {
	tc.t.Helper()
	pub := tc.keys.Public()
	body := rules.Authorities{Root: pub.Root.Raw}
	for _, k := range pub.UserSSH {
		body.UserSSH = append(body.UserSSH, k.Marshal())
	}
	for _, k := range pub.HostSSH {
		body.HostSSH = append(body.HostSSH, k.Marshal())
	}
	for _, c := range pub.UserX509 {
		body.UserX509 = append(body.UserX509, c.Raw)
	}
	for _, c := range pub.ServiceX509 {
		body.ServiceX509 = append(body.ServiceX509, c.Raw)
	}
	for _, k := range pub.Rules {
		body.Rules = append(body.Rules, k)
	}
	raw, err := json.Marshal(body)
	if err != nil {
		tc.t.Fatal(err)
	}
	root, err := tc.keys.RootSigner()
	if err != nil {
		tc.t.Fatal(err)
	}
	s, err := rules.SignDocument(root, rules.Document{
		Kind:     rules.AuthoritiesKind,
		Cluster:  clusterName,
		Revision: rules.Revision{Epoch: 1, Index: 1},
		Time:     time.Now(),
		Body:     raw,
	})
	if err != nil {
		tc.t.Fatal(err)
	}
	return s
}

// service issues the certificate of a service on 127.0.0.1.
func (tc *testCluster) service(kind identity.Kind) tls.Certificate {
	tc.t.Helper()
	key := newKey(tc.t)
	out, err := tc.ca.Issue(tc.t.Context(), ca.Request{
		Profile: ca.Service,
		X509Key: key.Public(),
		Names:   []string{"127.0.0.1"},
		Identity: identity.Identity{
			Kind:    kind,
			Cluster: clusterName,
			Name:    string(kind) + "-1",
			ID:      "0123456789abcdef0123456789abcdef",
		},
	})
	if err != nil {
		tc.t.Fatal(err)
	}
	cert := tls.Certificate{PrivateKey: key}
	for _, c := range out.Chain {
		cert.Certificate = append(cert.Certificate, c.Raw)
	}
	return cert
}

// caFile writes a file for --ca-file: the authority of the web certificate.
func (tc *testCluster) caFile() string {
	tc.t.Helper()
	path := filepath.Join(tc.t.TempDir(), "ca.pem")
	body := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: tc.keys.Root().Raw})
	if err := os.WriteFile(path, body, 0o600); err != nil {
		tc.t.Fatal(err)
	}
	return path
}

// listen serves the port of the cluster until the test ends.
func (tc *testCluster) listen() {
	tc.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tc.t.Fatal(err)
	}
	tc.addr = l.Addr().String()
	users := tc.userRoots()
	proxy, auth := tc.service(identity.Proxy), tc.service(identity.Auth)
	cfg := &tls.Config{
		ClientCAs: users,
		GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
			c := &tls.Config{
				Certificates: []tls.Certificate{proxy},
				ClientCAs:    users,
				MinVersion:   tls.VersionTLS13,
				NextProtos:   []string{"http/1.1"},
			}
			switch strings.Join(h.SupportedProtos, " ") {
			case identity.ALPNAuth:
				c.Certificates, c.NextProtos = []tls.Certificate{auth}, h.SupportedProtos
				c.ClientAuth = tls.VerifyClientCertIfGiven
			case identity.ALPNDial:
				c.ClientAuth, c.NextProtos = tls.RequireAndVerifyClientCert, h.SupportedProtos
			}
			return c, nil
		},
	}
	srv := &http.Server{
		Handler:   tc.web(),
		TLSConfig: cfg,
		ErrorLog:  slog.NewLogLogger(slog.DiscardHandler, 0),
		TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){
			identity.ALPNAuth: func(_ *http.Server, c *tls.Conn, _ http.Handler) { serveOne(c, tc.auth()) },
			identity.ALPNDial: func(_ *http.Server, c *tls.Conn, _ http.Handler) { tc.serveDial(c) },
		},
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.ServeTLS(l, "", "") }()
	tc.t.Cleanup(func() { _ = srv.Close(); <-done })
}

// oneConn is a listener with one connection.
type oneConn struct {
	conn chan net.Conn
	done chan struct{}
}

func (l *oneConn) Accept() (net.Conn, error) {
	select {
	case c := <-l.conn:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}
func (l *oneConn) Close() error   { return nil }
func (l *oneConn) Addr() net.Addr { return &net.TCPAddr{} }

// serveOne serves HTTP on one connection. net/http does not know the ALPN protocol, so serveOne hides that
// the connection is TLS.
func serveOne(c *tls.Conn, h http.Handler) {
	l := &oneConn{conn: make(chan net.Conn, 1), done: make(chan struct{})}
	l.conn <- struct{ net.Conn }{c}
	state := c.ConnectionState()
	srv := &http.Server{
		ConnState: func(_ net.Conn, s http.ConnState) {
			if s == http.StateClosed {
				close(l.done)
			}
		},
		Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			r.TLS = &state
			h.ServeHTTP(rw, r)
		}),
	}
	_ = srv.Serve(l)
}

// userRoots has the authorities of users' X.509 certificates.
func (tc *testCluster) userRoots() *x509.CertPool {
	pool := x509.NewCertPool()
	for _, c := range tc.keys.Public().UserX509 {
		pool.AddCert(c)
	}
	return pool
}

func (tc *testCluster) web() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+dial.PingPath, func(rw http.ResponseWriter, _ *http.Request) {
		tc.mu.Lock()
		defer tc.mu.Unlock()
		ping := dial.Ping{V: 1, Cluster: clusterName, Pin: tc.pingPin, Time: tc.clock()}
		_ = json.NewEncoder(rw).Encode(ping)
	})
	return mux
}

func (tc *testCluster) recordCall(call string) {
	tc.mu.Lock()
	defer tc.mu.Unlock()
	tc.calls = append(tc.calls, call)
}

// takeCalls returns the recorded calls and forgets them.
func (tc *testCluster) takeCalls() []string {
	tc.mu.Lock()
	defer tc.mu.Unlock()
	calls := tc.calls
	tc.calls = nil
	return calls
}

func (tc *testCluster) auth() http.Handler {
	s := authrpc.NewServer(func(r *http.Request) (authrpc.Caller, error) {
		tc.recordCall(r.URL.Path)
		if len(r.TLS.PeerCertificates) == 0 {
			return authrpc.Caller{}, nil
		}
		chain, usage := r.TLS.PeerCertificates, x509.ExtKeyUsageClientAuth
		p, err := identity.VerifyX509(chain, clusterName, tc.userRoots(), usage, time.Now(), identity.User)
		return authrpc.Caller{Identity: p.Identity}, err
	}, slog.New(slog.DiscardHandler))
	authrpc.Handle(s, authrpc.RedeemLogin, tc.redeem)
	authrpc.Handle(s, authrpc.BeginHeadless, tc.beginHeadless)
	authrpc.Handle(s, authrpc.RedeemHeadless, tc.redeemHeadless)
	authrpc.Handle(s, authrpc.ListNodes, tc.list)
	authrpc.Handle(s, authrpc.GetResources, tc.get)
	authrpc.Handle(s, authrpc.ApplyResource, tc.apply)
	authrpc.Handle(s, authrpc.RemoveResource, tc.remove)
	return s
}

func (tc *testCluster) redeem(
	ctx context.Context,
	_ authrpc.Caller,
	r authrpc.RedeemLoginRequest,
) (res authrpc.RedeemLoginResponse, err error) {
	tc.mu.Lock()
	defer tc.mu.Unlock()
	challenge, ok := strings.CutPrefix(r.Code, "good-")
	if !ok || !authrpc.ChallengeMatches(challenge, r.Verifier, r.SSHKey, r.X509Key) {
		return res, fault.New(fault.Denied, "login", "the login code is not good", "run: tsh login")
	}
	if tc.certifyKey != nil {
		r.SSHKey = tc.certifyKey
	}
	sshKey, err := ssh.ParsePublicKey(r.SSHKey)
	if err != nil {
		return res, err
	}
	key, err := x509.ParsePKIXPublicKey(r.X509Key)
	if err != nil {
		return res, err
	}
	req := ca.Request{
		Profile:    ca.User,
		SSHKey:     sshKey,
		X509Key:    key,
		Logins:     tc.logins,
		Extensions: []string{"permit-pty"},
		TTL:        time.Hour,
		Identity: identity.Identity{
			Kind:      identity.User,
			Cluster:   clusterName,
			Name:      "alice@example.com",
			Connector: "corp",
			Subject:   "1",
			LoginID:   "l1",
			Roles:     []string{"ops"},
		},
	}
	out, err := tc.ca.Issue(ctx, req)
	if err != nil {
		return res, err
	}
	res = authrpc.RedeemLoginResponse{
		Identity:    req.Identity,
		Logins:      tc.logins,
		Authorities: tc.chain,
		Time:        tc.clock(),
	}
	for _, c := range out.Chain {
		res.X509 = append(res.X509, c.Raw)
	}
	if out.SSH != nil {
		res.SSHCert = out.SSH.Marshal()
	}
	return res, nil
}

// pageSize is small, so that lists have several pages.
const pageSize = 2

func (tc *testCluster) list(
	_ context.Context,
	_ authrpc.Caller,
	r authrpc.ListNodesRequest,
) (res authrpc.ListNodesResponse, err error) {
	tc.mu.Lock()
	defer tc.mu.Unlock()
	for _, n := range tc.nodes {
		firstLabel, _, _ := strings.Cut(n.Name, ".")
		names := []string{"", n.Name, firstLabel, string(n.ID), n.Name + "." + clusterName}
		if !slices.Contains(names, r.Name) || n.Name <= r.After {
			continue
		}
		if r.Labels["env"] != "" && r.Labels["env"] != n.Labels["env"] {
			continue
		}
		if len(res.Nodes) == pageSize {
			res.Next = res.Nodes[pageSize-1].Name
			break
		}
		res.Nodes = append(res.Nodes, n)
	}
	return res, nil
}

func (tc *testCluster) get(
	_ context.Context,
	_ authrpc.Caller,
	r authrpc.GetResourcesRequest,
) (res authrpc.GetResourcesResponse, err error) {
	tc.mu.Lock()
	defer tc.mu.Unlock()
	for _, d := range tc.docs {
		if d.Kind+"s" == string(r.Kind) && (r.Name == "" || r.Name == d.Metadata.Name) {
			res.Resources = append(res.Resources, d)
		}
	}
	return res, nil
}

func (tc *testCluster) apply(
	_ context.Context,
	_ authrpc.Caller,
	r authrpc.ApplyResourceRequest,
) (res authrpc.ApplyResourceResponse, err error) {
	tc.mu.Lock()
	defer tc.mu.Unlock()
	d := r.Resource
	if d.Kind == "token" {
		t := authrpc.Token{Kind: identity.Node, Pin: tc.keys.Pin()}
		d.Metadata.Name = "node-1"
		res.Secret = t.String()
	}
	_, exists := tc.docs[d.Metadata.Name]
	d.Metadata.Revision = uint64(len(tc.docs) + 1)
	tc.docs[d.Metadata.Name] = d
	res.Created, res.Resource = !exists, d
	return res, nil
}

func (tc *testCluster) remove(
	_ context.Context,
	_ authrpc.Caller,
	r authrpc.RemoveResourceRequest,
) (res authrpc.RemoveResourceResponse, err error) {
	tc.mu.Lock()
	defer tc.mu.Unlock()
	if _, exists := tc.docs[r.Name]; !exists {
		return res, fault.New(fault.NotFound, "rm", "there is no "+r.Name, "see: tsh get "+string(r.Kind))
	}
	delete(tc.docs, r.Name)
	return res, nil
}

// addNode adds an online node.
func (tc *testCluster) addNode(name string) *testNode {
	tc.t.Helper()
	n := tc.newNode(name)
	tc.mu.Lock()
	defer tc.mu.Unlock()
	tc.hosts[name] = n
	tc.nodes = append(tc.nodes, authrpc.NodeInfo{
		ID:     identity.MachineID(strings.Repeat("0", 31) + string(rune('a'+len(tc.nodes)))),
		Name:   name,
		Online: true,
		Labels: identity.Labels{"env": "prod"},
		Logins: tc.logins,
	})
	return n
}

// newNode returns a node with a host certificate for the name. It is not in the cluster's list.
func (tc *testCluster) newNode(name string) *testNode {
	tc.t.Helper()
	key, err := ssh.NewSignerFromSigner(newKey(tc.t))
	if err != nil {
		tc.t.Fatal(err)
	}
	out, err := tc.ca.Issue(tc.t.Context(), ca.Request{
		Profile: ca.Host,
		SSHKey:  key.PublicKey(),
		Names:   []string{name, name + "." + clusterName},
		Identity: identity.Identity{
			Kind:    identity.Node,
			Cluster: clusterName,
			Name:    name,
			ID:      "0123456789abcdef0123456789abcdef",
		},
	})
	if err != nil {
		tc.t.Fatal(err)
	}
	cert, err := ssh.NewCertSigner(out.SSH, key)
	if err != nil {
		tc.t.Fatal(err)
	}
	return &testNode{cert: cert}
}

// serveDial serves a dial request, as a proxy does.
func (tc *testCluster) serveDial(c *tls.Conn) {
	defer c.Close()
	req, err := dial.ReadRequest(c)
	if err != nil {
		return
	}
	tc.recordCall("dial " + req.Node)
	select {
	case tc.dials <- struct{}{}:
	default:
	}
	tc.mu.Lock()
	n, ok := tc.hosts[strings.TrimSuffix(req.Node, "."+clusterName)]
	tc.mu.Unlock()
	if !ok {
		msg := "there is no node " + req.Node + " that you may reach"
		f := fault.New(fault.NotFound, "proxy.dial", msg, "see: tsh ls")
		_ = dial.WriteReply(c, dial.Reply{Fault: f})
		_, _ = io.CopyN(io.Discard, c, 1<<16)
		return
	}
	if dial.WriteReply(c, dial.Reply{}) == nil {
		n.serve(tc, c)
	}
}
