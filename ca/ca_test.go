package ca_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"net"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/ca"
	"github.com/threshold-access/threshold/ca/keyring"
	"github.com/threshold-access/threshold/ca/keyring/keyringtest"
	"github.com/threshold-access/threshold/internal/identity"
)

const cluster = "access.example.com"

// The cluster of the tests was created at createdAt. The clock of the tests says testNow.
var (
	createdAt = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	testNow   = createdAt.Add(time.Hour)
)

// fixture is a CA whose commits and clock the test controls.
type fixture struct {
	ca   *ca.CA
	keys *keyring.Keyring

	mu      sync.Mutex // guards what follows
	now     time.Time
	records []ca.Record
	fail    error // the answer of commit; nil means that it stores the records
}

func newFixture(t testing.TB) *fixture {
	t.Helper()
	f := &fixture{keys: keyringtest.New(t, cluster, createdAt), now: testNow}
	var err error
	if f.ca, err = ca.New(ca.Config{Cluster: cluster, Keys: f.keys, Now: f.clock}); err != nil {
		t.Fatal(err)
	}
	return f
}

func (f *fixture) clock() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.now
}

func (f *fixture) setClock(t time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.now = t
}

// commit is the store of the fixture.
func (f *fixture) commit(_ context.Context, records []ca.Record) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fail != nil {
		return f.fail
	}
	f.records = append(f.records, records...)
	return nil
}

// tryIssue prepares the certificates of one request, and releases them.
func (f *fixture) tryIssue(ctx context.Context, r ca.Request) (ca.Issued, error) {
	prepared, err := f.ca.Prepare(r)
	if err != nil {
		return ca.Issued{}, err
	}
	issued, err := prepared.Release(ctx, f.commit)
	if err != nil {
		return ca.Issued{}, err
	}
	return issued[0], nil
}

func (f *fixture) issue(t testing.TB, r ca.Request) ca.Issued {
	t.Helper()
	out, err := f.tryIssue(t.Context(), r)
	if err != nil {
		t.Fatalf("Issue: %v", err)
	}
	return out
}

func alice() identity.Identity {
	return identity.Identity{
		Kind:      identity.User,
		Profile:   identity.UserProfile,
		Cluster:   cluster,
		Name:      "alice@example.com",
		Connector: "corp",
		Subject:   "00u1/a b",
		LoginID:   "login-1",
		Roles:     []string{"ops"},
		Traits:    identity.Traits{"team": {"red"}},
		Factor:    "totp",
	}
}

func machine(kind identity.Kind, name string) identity.Identity {
	return identity.Identity{Kind: kind, Cluster: cluster, Name: name, ID: "0123456789abcdef0123456789abcdef"}
}

func sshKey(t testing.TB) ssh.PublicKey {
	t.Helper()
	pub, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return sshOf(t, pub)
}

func sshOf(t testing.TB, pub crypto.PublicKey) ssh.PublicKey {
	t.Helper()
	k, err := ssh.NewPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func p256(t testing.TB) crypto.PublicKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k.Public()
}

// userRequest asks for both certificates of alice.
func userRequest(t testing.TB) ca.Request {
	return ca.Request{
		Profile:    ca.User,
		Identity:   alice(),
		SSHKey:     sshKey(t),
		X509Key:    p256(t),
		Logins:     []identity.Login{"alice", "ubuntu"},
		Extensions: []string{"permit-pty"},
	}
}

func hostRequest(t testing.TB) ca.Request {
	return ca.Request{
		Profile:  ca.Host,
		Identity: machine(identity.Node, "web-1"),
		SSHKey:   sshKey(t),
		Names:    []string{"web-1", "web-1." + cluster},
	}
}

func serviceRequest(t testing.TB) ca.Request {
	return ca.Request{
		Profile:  ca.Service,
		Identity: machine(identity.Proxy, "proxy-1"),
		X509Key:  p256(t),
		Names:    []string{"proxy.example.com", "127.0.0.1", "::1"},
	}
}

func pool(certs ...*x509.Certificate) *x509.CertPool {
	p := x509.NewCertPool()
	for _, c := range certs {
		p.AddCert(c)
	}
	return p
}

const clientAuth = x509.ExtKeyUsageClientAuth

var loopback = &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 40000}

// Both certificates of a login verify, name the same user, have one serial and end together after the
// profile's default of 8 hours.
func TestUserGetsBothCertificatesWithOneValidity(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	out := f.issue(t, userRequest(t))
	u, err := identity.VerifySSHUser(out.SSH, cluster, f.keys.Public().UserSSH, loopback, testNow)
	if err != nil {
		t.Fatal(err)
	}
	roots := pool(f.keys.Public().UserX509...)
	p, err := identity.VerifyX509(out.Chain, cluster, roots, clientAuth, testNow, identity.User)
	if err != nil {
		t.Fatal(err)
	}
	if u.UserKey() != alice().UserKey() || p.UserKey() != alice().UserKey() {
		t.Errorf("got %+v and %+v, want alice", u, p)
	}
	if !u.HasLogin("ubuntu") || u.HasLogin("root") {
		t.Errorf("got %+v, want the logins alice and ubuntu", u)
	}
	want := testNow.Add(8 * time.Hour)
	if !u.Expires.Equal(want) || !p.Expires.Equal(want) || !out.Record.NotAfter.Equal(want) {
		t.Errorf("got ends %s, %s, %s, want %s", u.Expires, p.Expires, out.Record.NotAfter, want)
	}
	serial := out.X509.SerialNumber.Uint64()
	if len(f.records) != 1 || f.records[0].Serial != u.Serial || serial != uint64(u.Serial) {
		t.Errorf("got %d records, want one with the serial of both certificates", len(f.records))
	}
}

func TestUserWithoutLoginsGetsX509Only(t *testing.T) {
	t.Parallel()
	f, r := newFixture(t), userRequest(t)
	r.Logins = nil
	if out := f.issue(t, r); out.SSH != nil || out.X509 == nil || out.Record.SSHDigest != (ca.Digest{}) {
		t.Errorf("got an SSH certificate %v, want X.509 only", out.SSH)
	}
}

func TestHostCertificateNamesItsHost(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	out := f.issue(t, hostRequest(t))
	if err := identity.VerifySSHHost(out.SSH, "web-1", f.keys.Public().HostSSH, testNow); err != nil {
		t.Error(err)
	}
	if err := identity.VerifySSHHost(out.SSH, "web-2", f.keys.Public().HostSSH, testNow); err == nil {
		t.Error("got a host certificate accepted for another host, want a refusal")
	}
}

// A machine's service certificate comes with the intermediate and the root, and verifies under the root
// alone, as a server and as a client.
func TestServiceChainLeadsToTheRoot(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for _, kind := range []identity.Kind{identity.Node, identity.Proxy, identity.Auth} {
		r := serviceRequest(t)
		r.Identity.Kind = kind
		if kind == identity.Node {
			r.Names = nil
		}
		out := f.issue(t, r)
		if len(out.Chain) != 3 || out.Chain[2] != f.keys.Root() {
			t.Fatalf("%s: got a chain of %d, want leaf, intermediate and root", kind, len(out.Chain))
		}
		for _, use := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
			_, err := identity.VerifyX509(out.Chain, cluster, pool(f.keys.Root()), use, testNow, kind)
			if err != nil {
				t.Errorf("%s: %v", kind, err)
			}
		}
	}
}
