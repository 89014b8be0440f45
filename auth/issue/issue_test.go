package issue

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/auth/rules"
	"github.com/threshold-access/threshold/auth/state"
	"github.com/threshold-access/threshold/auth/state/statetest"
	"github.com/threshold-access/threshold/ca"
	"github.com/threshold-access/threshold/ca/keyring/keyringtest"
	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/fault/faulttest"
	"github.com/threshold-access/threshold/raftstore/raftstoretest"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction(raftstoretest.UnansweredFuture))
}

// fixture is an issuer of a cluster with some roles.
type fixture struct {
	*testing.T
	*Issuer
	st *state.State
}

// roles give different extensions and lifetimes.
var roles = []access.Role{
	{
		Name:    "shell",
		Allow:   []access.Grant{grant("ubuntu", "shell")},
		Options: access.Options{CertTTL: access.Set(access.Duration(time.Hour))},
	},
	{
		Name:  "copy",
		Allow: []access.Grant{grant("backup", "sftp")},
	},
	{
		Name:  "forward",
		Allow: []access.Grant{grant("ubuntu", "forward-local"), grant("ubuntu", "forward-agent")},
	},
	{
		Name: "viewer",
		Allow: []access.Grant{
			{Nodes: map[string]access.Strings{"*": {"*"}}, Actions: access.Strings{"list"}},
		},
	},
}

func grant(login, action string) access.Grant {
	return access.Grant{
		Nodes:   map[string]access.Strings{"env": {"dev"}},
		Logins:  access.Strings{login},
		Actions: access.Strings{action},
	}
}

// newFixture creates a cluster with the roles and an issuer with keys of the cluster's name. The clock is the
// machine's.
func newFixture(t *testing.T) *fixture {
	t.Helper()
	st, _ := statetest.NewCluster(t, roles...)
	f := &fixture{T: t, st: st}
	keys := keyringtest.New(t, statetest.Cluster, time.Now())
	signer, err := ca.New(ca.Config{
		Cluster: statetest.Cluster,
		Keys:    keys,
	})
	f.must(err)
	publisher := rules.New(rules.Config{
		Source:  st.Rules,
		Cluster: statetest.Cluster,
		Signer:  keys.RulesSigner(),
		Now:     time.Now,
		Log:     slog.New(slog.DiscardHandler),
	})
	f.Issuer = New(Config{
		CA:        signer,
		Policies:  st.Reader,
		Renewals:  st.Machines,
		Issuances: st.Issuances,
		Rules:     publisher,
		Cluster:   statetest.Cluster,
		Now:       time.Now,
	})
	return f
}

// forRoles issues the certificates of a user who has the roles.
func (f *fixture) forRoles(roles ...string) authrpc.RedeemLoginResponse {
	f.Helper()
	res, err := f.forUser(f.Context(), f.login(roles...))
	f.must(err)
	return res
}

// login is the finished login of a user who has the roles.
func (f *fixture) login(roles ...string) userLogin {
	f.Helper()
	pub, _, err := ed25519.GenerateKey(rand.Reader)
	f.must(err)
	sshKey, err := ssh.NewPublicKey(pub)
	f.must(err)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	f.must(err)
	return userLogin{
		who:     statetest.User("alice@example.com", roles...),
		sshKey:  sshKey,
		x509Key: key.Public(),
		proxy:   "edge",
		from:    netip.MustParseAddr("192.0.2.1"),
		commit:  f.st.Issuances.AppendIssuances,
	}
}

func (f *fixture) must(err error) {
	f.Helper()
	if err != nil {
		f.Fatal(err)
	}
}

// Logins and extensions are those of all roles together; the lifetime is the shortest of the roles.
func TestACertificateSaysWhatTheRolesAllow(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for _, tt := range []struct {
		roles  []string
		logins string
		exts   string
		ttl    time.Duration
	}{
		{[]string{"shell"}, "[ubuntu]", "[identity@threshold permit-pty]", time.Hour},
		{[]string{"copy"}, "[backup]", "[identity@threshold]", 8 * time.Hour},
		{
			[]string{"shell", "copy", "forward"},
			"[backup ubuntu]",
			"[identity@threshold permit-agent-forwarding permit-port-forwarding permit-pty]",
			time.Hour,
		},
	} {
		res := f.forRoles(tt.roles...)
		key, err := ssh.ParsePublicKey(res.SSHCert)
		f.must(err)
		cert := key.(*ssh.Certificate)
		if got := fmt.Sprint(cert.ValidPrincipals); got != tt.logins || fmt.Sprint(res.Logins) != tt.logins {
			t.Errorf("%v: got principals %s and logins %v, want %s", tt.roles, got, res.Logins, tt.logins)
		}
		if got := fmt.Sprint(slices.Sorted(maps.Keys(cert.Extensions))); got != tt.exts {
			t.Errorf("%v: got extensions %s, want %s", tt.roles, got, tt.exts)
		}
		if left := time.Until(res.Identity.Expires); left > tt.ttl || left < tt.ttl-time.Minute {
			t.Errorf("%v: got a lifetime of %s, want %s", tt.roles, left, tt.ttl)
		}
		if cert.KeyId != "alice@example.com@example.com/login-1" {
			t.Errorf("got key id %q", cert.KeyId)
		}
	}
}

func TestWithoutALoginThereIsNoSSHCertificate(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for _, roles := range [][]string{{"viewer"}, {"no-such-role"}, nil} {
		res := f.forRoles(roles...)
		if len(res.SSHCert) != 0 || len(res.X509) != 1 || len(res.Logins) != 0 {
			t.Errorf("%v: got %d bytes of SSH certificate and %d X.509 certificates, want X.509 alone",
				roles, len(res.SSHCert), len(res.X509))
		}
	}
}

func TestRecordAndEventAreOneTransaction(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.forRoles("shell")
	records, err := f.st.ReadIssuances(t.Context(), 1, 10)
	f.must(err)
	events := statetest.Events(t, f.st)
	if len(records) != 1 || len(events) != 1 {
		t.Fatalf("got %d records and %d events, want one each", len(records), len(events))
	}
	var r ca.Record
	f.must(json.Unmarshal(records[0], &r))
	e := events[0]
	if e.Code != audit.CertIssued || e.Proxy.Name != "edge" || e.From != "192.0.2.1" ||
		statetest.Body[audit.Issuance](t, e).Serial != r.Serial || e.Actor.LoginID != "login-1" {
		t.Errorf("got event %+v, want it to name serial %d, login and proxy", e, r.Serial)
	}
}

// If the commit fails, no certificate leaves, and the fault of the store says why: a full disk helps more
// than "not recorded".
func TestNothingIsReleasedWithoutACommit(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	full := faulttest.New(fault.Exhausted, "raftstore", "the disk is full", "free space")
	login := f.login("shell")
	login.commit = func(context.Context, []json.RawMessage, ...audit.Event) error { return full }
	res, err := f.forUser(t.Context(), login)
	if !fault.Is(err, fault.Exhausted) || fault.Remedy(err) != "free space" || len(res.X509) != 0 ||
		len(res.SSHCert) != 0 {
		t.Errorf("got %+v and %v, want nothing but the fault of the full disk", res, err)
	}
}

// Certificates say the time in whole seconds. A login after a lock on what was issued before waits for the
// next second if it must, so that the lock does not hit what it gets.
func TestALockOnWhatWasIssuedBeforeHitsNoNewCertificate(t *testing.T) {
	t.Parallel()
	for _, effect := range []access.Effect{
		{Kind: access.Deny}, {Kind: access.WithoutRole, Role: "shell"},
	} {
		f := newFixture(t)
		finished := f.login("shell")
		user, now := access.UserFact(finished.who.UserKey()), time.Now()
		lock := state.LockOfIssuedBefore(access.Facts{User: user}, effect, now)
		f.must(f.st.Locks.PutLock(t.Context(), state.Stored[access.Lock]{}, lock, now))
		res, err := f.forUser(t.Context(), finished)
		f.must(err)
		locks := access.NewLocks([]access.Lock{lock})
		hits := func(issued time.Time) bool {
			who := res.Identity
			who.IssuedAt = issued
			request := access.Request{Who: who, Now: time.Now()}
			_, denied := locks.Denying(request)
			_, taken := locks.TakingRole("shell", request)
			return denied || taken
		}
		if !hits(now.Truncate(time.Second)) || hits(res.Identity.IssuedAt) {
			t.Errorf("%v: the certificate of %s is hit by a lock on what was issued before %s",
				effect, res.Identity.IssuedAt, now)
		}
	}
}
