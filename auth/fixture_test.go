package auth

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/auth/state"
	"github.com/threshold-access/threshold/ca"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/raftstore"
)

const patience = 30 * time.Second

// testServer is a running auth server in a folder of the test's own.
type testServer struct {
	t      *testing.T
	dir    string
	auth   *Server
	addr   string
	stop   func() error
	offset atomic.Int64 // ns that the clock of auth and of everyone else is ahead of the machine's
}

func (w *testServer) now() time.Time { return time.Now().Add(time.Duration(w.offset.Load())) }

// advance lets time go by, and auth renew its own certificate as it would have meanwhile.
func (w *testServer) advance(d time.Duration) {
	w.t.Helper()
	w.offset.Add(int64(d))
	w.must(w.auth.renewCertificate(w.t.Context(), w.auth.services))
}

func bootstrapText(dir string) []byte {
	return fmt.Appendf(nil, `kind: cluster
version: v1
metadata: {name: example.com}
spec:
  seal: file://%s
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

// startServer gives birth to a cluster, or with birth nil opens the one in dir.
func startServer(
	t *testing.T,
	dir string,
	birth []byte,
	adjust ...func(*Config, *raftstore.Config),
) *testServer {
	t.Helper()
	w := &testServer{t: t, dir: dir}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	w.must(err)
	w.addr = ln.Addr().String()
	cfg := Config{
		Dir:           filepath.Join(dir, "auth"),
		Listener:      ln,
		Bootstrap:     birth,
		BootstrapName: "cluster.yaml",
		ReplicaID:     "auth-1",
		Version:       "test",
		Log:           slog.New(slog.DiscardHandler),
		Now:           w.now,
	}
	for _, a := range adjust {
		a(&cfg, &raftstore.Config{})
	}
	w.auth, err = newServer(cfg, func(s *raftstore.Config) {
		s.Heartbeat, s.Bounds.LogSegmentBytes = 5*time.Millisecond, 1<<20
		for _, a := range adjust {
			a(&Config{}, s)
		}
	})
	w.must(err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.auth.Run(ctx) }()
	stopped := false
	w.stop = func() error {
		stopped = true
		cancel()
		return <-ended
	}
	t.Cleanup(func() {
		if !stopped {
			if err := w.stop(); err != nil {
				t.Errorf("auth ended with %v, want no fault", err)
			}
		}
	})
	wait, done := context.WithTimeout(ctx, patience)
	defer done()
	if err := w.auth.Ready(wait); err != nil {
		t.Fatalf("auth is not ready: %v", err)
	}
	return w
}

func newTestServer(t *testing.T) *testServer {
	t.Helper()
	dir := t.TempDir()
	return startServer(t, dir, bootstrapText(dir))
}

func (w *testServer) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// unrecorded lets a test make certificates that auth would not.
type unrecorded struct{}

func (unrecorded) RecordIssuance(context.Context, ca.Record) error { return nil }

// sign makes a certificate with the cluster's own keys.
func (w *testServer) sign(r ca.Request, key crypto.Signer, now time.Time) *tls.Certificate {
	w.t.Helper()
	c, err := ca.New(ca.Config{
		Cluster:  w.auth.Cluster(),
		Keys:     w.auth.services.keys,
		Recorder: unrecorded{},
		Now:      func() time.Time { return now },
	})
	w.must(err)
	r.X509Key = key.Public()
	out, err := c.Issue(w.t.Context(), r)
	w.must(err)
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

func userIdentity(cluster, name string, roles ...string) identity.Identity {
	return identity.Identity{
		Kind:      identity.User,
		Cluster:   cluster,
		Name:      name,
		Connector: "corp",
		Subject:   "sub-" + name,
		LoginID:   "login-1",
		Roles:     roles,
		Factor:    "totp",
	}
}

// client shows cert, or nothing where it is nil.
func (w *testServer) client(cert *tls.Certificate) *authrpc.Client {
	var show func() (*tls.Certificate, error)
	if cert != nil {
		show = func() (*tls.Certificate, error) { return cert, nil }
	}
	c := authrpc.NewClient(
		w.addr,
		identity.PinnedTLS(w.auth.Pin(), w.auth.Cluster(), identity.ALPNAuth, show, w.now, identity.Auth),
	)
	w.t.Cleanup(c.Close)
	return c
}

func userRequest(who identity.Identity) ca.Request {
	return ca.Request{Profile: ca.User, Identity: who}
}

// user is a client of a person with the roles.
func (w *testServer) user(name string, roles ...string) *authrpc.Client {
	w.t.Helper()
	who := userIdentity(w.auth.Cluster(), name, roles...)
	kept, err := w.state().User(w.t.Context(), who.UserKey())
	if err != nil {
		kept = state.Stored[state.User]{}
	}
	u := state.User{
		Connector: who.Connector,
		Subject:   who.Subject,
		Name:      name,
		Mapped:    roles,
		Roles:     kept.Value.Roles,
	}
	w.must(w.state().Users.PutUser(w.t.Context(), kept, u))
	return w.client(w.sign(userRequest(who), newKey(w.t), w.now()))
}

// machine is one that has joined.
type machine struct {
	key *ecdsa.PrivateKey
	req authrpc.JoinRequest
	res authrpc.JoinResponse
	*authrpc.Client
}

// request is a join request with a good proof.
func (w *testServer) request(
	token string,
	kind identity.Kind,
	name string,
) (authrpc.JoinRequest, *ecdsa.PrivateKey) {
	w.t.Helper()
	key, host := newKey(w.t), newKey(w.t)
	hostKey, err := ssh.NewPublicKey(host.Public())
	w.must(err)
	r := authrpc.JoinRequest{Token: token, Kind: kind, Name: name, SSHKey: hostKey.Marshal(), Time: w.now()}
	r.X509Key, err = x509.MarshalPKIXPublicKey(key.Public())
	w.must(err)
	w.prove(&r, key)
	return r, key
}

func (w *testServer) prove(r *authrpc.JoinRequest, key *ecdsa.PrivateKey) {
	w.t.Helper()
	sum := authrpc.JoinProof(r.Token, r.SSHKey, r.X509Key)
	var err error
	r.Proof, err = key.Sign(rand.Reader, sum[:], crypto.SHA256)
	w.must(err)
}

func (w *testServer) join(kind identity.Kind, name string, labels identity.Labels, names ...string) *machine {
	w.t.Helper()
	token, err := w.auth.Invite(w.t.Context(), kind, labels, time.Minute)
	w.must(err)
	m := &machine{}
	m.req, m.key = w.request(token.String(), kind, name)
	m.req.PublicNames = names
	m.res, err = authrpc.Call(w.t.Context(), w.client(nil), authrpc.Join, m.req)
	w.must(err)
	m.Client = w.client(m.cert())
	return m
}

func (m *machine) cert() *tls.Certificate {
	return &tls.Certificate{Certificate: m.res.X509, PrivateKey: m.key}
}

func (w *testServer) state() *state.State { return w.auth.services.state }
