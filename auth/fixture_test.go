package auth

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/auth/state"
	"github.com/threshold-access/threshold/ca"
	"github.com/threshold-access/threshold/ca/catest"
	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/raftstore"
	"github.com/threshold-access/threshold/raftstore/raftstoretest"
)

// patience is how long a test waits for what must happen, and does at once unless something is broken.
const patience = 30 * time.Second

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction(raftstoretest.UnansweredFuture))
}

// testServer is a running auth server with a data folder of its own.
type testServer struct {
	t      *testing.T
	dir    string
	auth   *Server
	addr   string
	stop   func() error // ends the server and returns what Run returned
	offset atomic.Int64 // how far the clock of auth and its clients is ahead of the machine's, in ns
}

// now is the clock of auth and of its clients.
func (s *testServer) now() time.Time { return time.Now().Add(time.Duration(s.offset.Load())) }

// advance moves the clock and renews auth's own certificate, as auth would have done meanwhile.
func (s *testServer) advance(d time.Duration) {
	s.t.Helper()
	s.offset.Add(int64(d))
	s.must(s.auth.services.certificate.Renew(s.t.Context()))
}

// bootstrapText is a bootstrap file whose seal key is in dir.
func bootstrapText(dir string) []byte {
	return fmt.Appendf(nil, `kind: cluster
version: v1
metadata: {name: example.com}
spec:
  seal: file://%s
  root_key: store
  connector:
    name: corp
    type: oidc
    issuer: https://login.example.org
    client_id: threshold
    client_secret: a client secret
  admin: {claim: groups, value: admins}
---
kind: role
version: v1
metadata: {name: ops}
spec:
  allow:
    - nodes: {env: prod}
      logins: [ubuntu]
      actions: [shell, exec]
---
kind: role
version: v1
metadata: {name: viewer}
spec:
  allow:
    - nodes: {"*": "*"}
      actions: [list]
`, filepath.Join(dir, "seal.key"))
}

// startServer creates a cluster in dir, or opens the one that is there if bootstrap is nil. It stops the
// server when the test ends, unless the test does.
func startServer(
	t *testing.T,
	dir string,
	bootstrap []byte,
	adjust ...func(*raftstore.Config),
) *testServer {
	t.Helper()
	s := &testServer{t: t, dir: dir}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	s.must(err)
	s.addr = ln.Addr().String()
	s.auth, err = newServer(Config{
		Dir:           filepath.Join(dir, "auth"),
		Listener:      ln,
		Bootstrap:     bootstrap,
		BootstrapName: "cluster.yaml",
		ReplicaID:     "auth-1",
		Version:       "test",
		Log:           slog.New(slog.DiscardHandler),
		Now:           s.now,
	}, func(store *raftstore.Config) {
		store.Heartbeat, store.Bounds.LogSegmentBytes = 5*time.Millisecond, 1<<20
		for _, a := range adjust {
			a(store)
		}
	})
	s.must(err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.auth.Run(ctx) }()
	stopped := false
	s.stop = func() error {
		stopped = true
		cancel()
		return <-ended
	}
	t.Cleanup(func() {
		if !stopped {
			if err := s.stop(); err != nil {
				t.Errorf("auth ended with %v, want nil", err)
			}
		}
	})
	wait, done := context.WithTimeout(ctx, patience)
	defer done()
	if err := s.auth.Ready(wait); err != nil {
		t.Fatalf("auth is not ready: %v", err)
	}
	return s
}

// newTestServer is a server of a new cluster.
func newTestServer(t *testing.T) *testServer {
	t.Helper()
	dir := t.TempDir()
	return startServer(t, dir, bootstrapText(dir))
}

func (s *testServer) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// sign issues a certificate with the cluster's own keys, without a record.
func (s *testServer) sign(r ca.Request, key crypto.Signer, now time.Time) *tls.Certificate {
	s.t.Helper()
	c, err := ca.New(ca.Config{
		Cluster: s.auth.Cluster(),
		Keys:    s.auth.services.keys,
		Now:     func() time.Time { return now },
	})
	s.must(err)
	r.X509Key = key.Public()
	out := catest.Issue(s.t, c, r)
	cert := &tls.Certificate{PrivateKey: key, Leaf: out.X509}
	for _, x := range out.Chain {
		cert.Certificate = append(cert.Certificate, x.Raw)
	}
	return cert
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// userIdentity is a user who has logged in with the connector corp.
func userIdentity(cluster, name string, roles ...string) identity.Identity {
	return identity.Identity{
		Kind:      identity.User,
		Profile:   identity.UserProfile,
		Cluster:   cluster,
		Name:      name,
		Connector: "corp",
		Subject:   "sub-" + name,
		LoginID:   "login-1",
		Roles:     roles,
		Factor:    "totp",
	}
}

// clientTLS is the TLS configuration of a client that knows the pin. The client shows cert, unless it is nil.
func (s *testServer) clientTLS(cert *tls.Certificate) *tls.Config {
	var show func() (*tls.Certificate, error)
	if cert != nil {
		show = func() (*tls.Certificate, error) { return cert, nil }
	}
	pin, cluster := s.auth.Pin(), s.auth.Cluster()
	return identity.PinnedTLS(pin, cluster, identity.ALPNAuth, show, s.now, identity.Auth)
}

// client is a client of the API that shows cert, unless it is nil.
func (s *testServer) client(cert *tls.Certificate) *authrpc.Client {
	c := authrpc.NewClient(s.addr, s.clientTLS(cert))
	s.t.Cleanup(c.Close)
	return c
}

// apply applies a document with an empty spec.
func (s *testServer) apply(
	by *authrpc.Client,
	kind string,
	meta authrpc.Metadata,
) (authrpc.ApplyResourceResponse, error) {
	r := authrpc.Resource{Kind: kind, Version: "v1", Metadata: meta, Spec: json.RawMessage(`{}`)}
	return authrpc.Call(s.t.Context(), by, authrpc.ApplyResource, authrpc.ApplyResourceRequest{Resource: r})
}

// remove removes a document of the kind, which is in the plural.
func (s *testServer) remove(by *authrpc.Client, kind access.Resource, name string) error {
	r := authrpc.RemoveResourceRequest{Kind: kind, Name: name}
	_, err := authrpc.Call(s.t.Context(), by, authrpc.RemoveResource, r)
	return err
}

func userRequest(who identity.Identity) ca.Request {
	return ca.Request{Profile: ca.User, Identity: who}
}

// user puts a user with the roles on record, and returns a client with a certificate of that user.
func (s *testServer) user(name string, roles ...string) *authrpc.Client {
	s.t.Helper()
	who := userIdentity(s.auth.Cluster(), name, roles...)
	stored, err := s.state().User(s.t.Context(), who.UserKey())
	if err != nil {
		stored = state.Stored[state.User]{}
	}
	u := state.User{
		Connector: who.Connector,
		Subject:   who.Subject,
		Name:      name,
		Mapped:    roles,
		Roles:     stored.Value.Roles,
	}
	s.must(s.state().Users.PutUser(s.t.Context(), stored, u, state.By{Time: time.Now()}))
	return s.client(s.sign(userRequest(who), newKey(s.t), s.now()))
}

// machine is a machine that has joined, with its client.
type machine struct {
	key *ecdsa.PrivateKey
	req authrpc.JoinRequest
	res authrpc.JoinResponse
	*authrpc.Client
}

// request is a valid join request of a new machine, and the machine's service key.
func (s *testServer) request(
	token string,
	kind identity.Kind,
	name string,
) (authrpc.JoinRequest, *ecdsa.PrivateKey) {
	s.t.Helper()
	key, host := newKey(s.t), newKey(s.t)
	hostKey, err := ssh.NewPublicKey(host.Public())
	s.must(err)
	r := authrpc.JoinRequest{Token: token, Kind: kind, Name: name, SSHKey: hostKey.Marshal(), Time: s.now()}
	r.X509Key, err = x509.MarshalPKIXPublicKey(key.Public())
	s.must(err)
	s.prove(&r, key)
	return r, key
}

// prove signs the request.
func (s *testServer) prove(r *authrpc.JoinRequest, key *ecdsa.PrivateKey) {
	s.t.Helper()
	sum := authrpc.JoinProof(r.Token, r.SSHKey, r.X509Key)
	var err error
	r.Proof, err = key.Sign(rand.Reader, sum[:], crypto.SHA256)
	s.must(err)
}

// join invites and joins a machine. names are the public names of a proxy.
func (s *testServer) join(kind identity.Kind, name string, labels identity.Labels, names ...string) *machine {
	s.t.Helper()
	token, err := s.auth.Invite(s.t.Context(), Invitation{
		Kind:        kind,
		Labels:      labels,
		PublicNames: names,
		TTL:         time.Minute,
	})
	s.must(err)
	m := &machine{}
	m.req, m.key = s.request(token.String(), kind, name)
	m.req.PublicNames = names
	m.res, err = authrpc.Call(s.t.Context(), s.client(nil), authrpc.Join, m.req)
	s.must(err)
	m.Client = s.client(m.cert())
	return m
}

func (m *machine) cert() *tls.Certificate {
	return &tls.Certificate{Certificate: m.res.X509, PrivateKey: m.key}
}

func (s *testServer) state() *state.State { return s.auth.services.state }
