package issue

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"testing"
	"time"

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
)

type fixture struct {
	*testing.T
	*Issuer
	st *state.State
}

func grant(login, action string) access.Grant {
	return access.Grant{
		Nodes:   map[string]access.Strings{"env": {"dev"}},
		Logins:  access.Strings{login},
		Actions: access.Strings{action},
	}
}

func newFixture(t *testing.T) *fixture {
	st, _ := statetest.NewCluster(
		t,
		access.Role{
			Name:    "shell",
			Allow:   []access.Grant{grant("ubuntu", "shell")},
			Options: access.Options{CertTTL: access.Duration(time.Hour)},
		},
		access.Role{Name: "copy", Allow: []access.Grant{grant("backup", "sftp")}},
		access.Role{
			Name:  "forward",
			Allow: []access.Grant{grant("ubuntu", "forward-local"), grant("ubuntu", "forward-agent")},
		},
		access.Role{
			Name: "viewer",
			Allow: []access.Grant{
				{Nodes: map[string]access.Strings{"*": {"*"}}, Actions: access.Strings{"list"}},
			},
		},
	)
	keys := keyringtest.New(t, statetest.Cluster, time.Now())
	signer, err := ca.New(ca.Config{Cluster: statetest.Cluster, Keys: keys, Recorder: Recorder{State: st}})
	if err != nil {
		t.Fatal(err)
	}
	book := rules.New(rules.Config{
		State:   st,
		Cluster: statetest.Cluster,
		Signer:  keys.RulesSigner,
		Now:     time.Now,
		Log:     slog.New(slog.DiscardHandler),
	})
	return &fixture{
		t,
		New(Config{CA: signer, State: st, Rules: book, Cluster: statetest.Cluster, Now: time.Now}),
		st,
	}
}

func (o *fixture) forRoles(roles ...string) authrpc.RedeemLoginResponse {
	o.Helper()
	pub, _, err := ed25519.GenerateKey(rand.Reader)
	o.must(err)
	sshKey, err := ssh.NewPublicKey(pub)
	o.must(err)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	o.must(err)
	res, err := o.forUser(
		o.Context(),
		userLogin{
			who:     statetest.User("alice@example.com", roles...),
			ssh:     sshKey,
			service: key.Public(),
			proxy:   "edge",
			from:    "192.0.2.1",
		},
	)
	o.must(err)
	return res
}

func (o *fixture) must(err error) {
	o.Helper()
	if err != nil {
		o.Fatal(err)
	}
}

func TestACertificateSaysWhatTheRolesAllow(t *testing.T) {
	o := newFixture(t)
	for _, tt := range []struct {
		roles  []string
		logins string
		exts   string
		ttl    time.Duration
	}{
		{[]string{"shell"}, "[ubuntu]", "[identity@threshold permit-pty]", time.Hour},
		{[]string{"copy"}, "[backup]", "[identity@threshold]", 8 * time.Hour},
		{[]string{"shell", "copy", "forward"}, "[backup ubuntu]", "[identity@threshold permit-agent-forwarding permit-port-forwarding permit-pty]", time.Hour},
	} {
		res := o.forRoles(tt.roles...)
		key, err := ssh.ParsePublicKey(res.SSHCert)
		o.must(err)
		cert := key.(*ssh.Certificate)
		if got := fmt.Sprint(cert.ValidPrincipals); got != tt.logins || fmt.Sprint(res.Logins) != tt.logins {
			t.Errorf("%v: got principals %s and logins %v, want %s", tt.roles, got, res.Logins, tt.logins)
		}
		if got := fmt.Sprint(slices.Sorted(maps.Keys(cert.Extensions))); got != tt.exts {
			t.Errorf("%v: got extensions %s, want %s", tt.roles, got, tt.exts)
		}
		if left := time.Until(res.Identity.Expires); left > tt.ttl || left < tt.ttl-time.Minute {
			t.Errorf("%v: got %s to live, want %s", tt.roles, left, tt.ttl)
		}
		if cert.KeyId != "alice@example.com@example.com/login-1" {
			t.Errorf("got key id %q", cert.KeyId)
		}
	}
}

func TestWithoutALoginThereIsNoSSHCertificate(t *testing.T) {
	o := newFixture(t)
	for _, roles := range [][]string{{"viewer"}, {"no-such-role"}, nil} {
		res := o.forRoles(roles...)
		if len(res.SSHCert) != 0 || len(res.X509) != 1 || len(res.Logins) != 0 {
			t.Errorf(
				"%v: got %d bytes of SSH certificate and %d X.509, want X.509 alone",
				roles,
				len(res.SSHCert),
				len(res.X509),
			)
		}
	}
}

func TestRecordAndEventAreOneTransaction(t *testing.T) {
	o := newFixture(t)
	o.forRoles("shell")
	records, err := o.st.ReadIssuances(t.Context(), 1, 10)
	o.must(err)
	events, err := o.st.ReadEvents(t.Context(), 1, 10)
	o.must(err)
	if len(records) != 1 || len(events) != 1 {
		t.Fatalf("got %d records and %d events, want one each", len(records), len(events))
	}
	var r ca.Record
	o.must(json.Unmarshal(records[0], &r))
	e := events[0].Event
	if e.Code != audit.CertIssued || e.Proxy != "edge" || e.From != "192.0.2.1" ||
		e.Fields["serial"] != fmt.Sprint(uint64(r.Serial)) ||
		e.LoginID != "login-1" {
		t.Errorf("got event %+v, want it to name serial %d, login and proxy", e, r.Serial)
	}
}

func TestAFullDiskErrorIsUnwrapped(t *testing.T) {
	full := fault.New(fault.Exhausted, "raftstore", "the disk is full", "free space")
	wrapped := fault.Wrap(full, fault.Unavailable, "ca.Issue", "not recorded", "try again in a moment")
	if err := unwrapExhausted(wrapped); !fault.Is(err, fault.Exhausted) || fault.Remedy(err) != "free space" {
		t.Errorf("got %v, want the full disk", err)
	}
	if err := unwrapExhausted(nil); err != nil {
		t.Errorf("got %v of nil", err)
	}
	other := fault.New(fault.Unavailable, "ca.Issue", "not recorded", "try again in a moment")
	if err := unwrapExhausted(other); !fault.Is(err, fault.Unavailable) {
		t.Errorf("got %v, want it as it was", err)
	}
}
