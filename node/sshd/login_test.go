package sshd_test

import (
	"io"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/clustertest"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/sshprofile"
	"github.com/threshold-access/threshold/node/account"
	"github.com/threshold-access/threshold/node/sshd"
)

// Each certificate has one fault. The client is told which, and only refusals of clients that proved to hold
// a good certificate are audited.
func TestCertificatesRefusedAtLogin(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	me := testAccount()
	alice, bob := f.cluster.User("alice@example.com", "ops"), f.cluster.User("bob@example.com")
	ofCluster, ofNode, withUnknownRole := alice, alice, bob
	ofCluster.Cluster = "other.example.com"
	ofNode.Kind = identity.Node
	withUnknownRole.Roles = []string{"gone"}
	// sign makes a certificate of Alice for her account, which change may alter.
	sign := func(change func(*ssh.Certificate)) ssh.Signer { return f.cluster.UserSigner(alice, change, me) }
	shift := func(hours int) func(*ssh.Certificate) {
		return func(c *ssh.Certificate) {
			c.ValidAfter += uint64(hours * 3600)
			c.ValidBefore += uint64(hours * 3600)
		}
	}
	criticalOption := func(name, value string) func(*ssh.Certificate) {
		return func(c *ssh.Certificate) { c.CriticalOptions = map[string]string{name: value} }
	}
	noEnd := func(c *ssh.Certificate) { c.ValidBefore = ssh.CertTimeInfinity }
	noIdentity := func(c *ssh.Certificate) { delete(c.Extensions, identity.SSHExtension) }
	ofHost := func(c *ssh.Certificate) { c.CertType = ssh.HostCert }
	elsewhere := criticalOption("source-address", "203.0.113.0/24")
	otherName := f.cluster.UserSigner(ofCluster, nil, me)
	otherCA := clustertest.NewInMemory(t).UserSigner(alice, nil, me)
	const noRole = "no role of alice@example.com (roles: ops) allows"
	for _, tt := range []struct {
		name   string
		signer ssh.Signer
		login  string
		banner string // part of what the client is told; empty: nothing at all
	}{
		{"another cluster's", otherCA, me, "an authority this cluster does not have"},
		{"another cluster's name, our key", otherName, me, "other.example.com"},
		{"without principals", f.cluster.UserSigner(alice, nil), me, "no principals"},
		{"with a wildcard principal", f.cluster.UserSigner(alice, nil, "*"), me, "principal"},
		{"with a comma in a principal", f.cluster.UserSigner(alice, nil, "root,"+me), me, "principal"},
		{"expired", sign(shift(-3)), me, "expired at"},
		{"not valid yet", sign(shift(2)), me, "check this machine's clock"},
		{"without an end", sign(noEnd), me, "validity"},
		{"without an identity", sign(noIdentity), me, "identity"},
		{"with an unknown critical option", sign(criticalOption("force-command", "x")), me, "force-command"},
		{"of a host", sign(ofHost), me, "wrong type"},
		{"pinned to another address", sign(elsewhere), me, "pinned"},
		{"of another kind of holder", f.cluster.UserSigner(ofNode, nil, me), me, "threshold: error"},
		{"for another login", f.cluster.UserSigner(alice, nil, "somebody"), me, "does not name the login"},
		{"for a login that no rule allows", f.cluster.UserSigner(alice, nil, "daemon"), "daemon", noRole},
		{"for an invalid login", sign(nil), "a,b", "not a valid account name"},
		{"without roles", f.cluster.UserSigner(bob, nil, me), me, "no role of bob@example.com (none) allows"},
		{"with an unknown role", f.cluster.UserSigner(withUnknownRole, nil, me), me, "roles: gone"},
		{"a plain key", plainKey(t), me, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, banner, err := f.dial(tt.login, tt.signer)
			if err == nil {
				t.Fatal("got logged in, want refused")
			}
			if tt.banner == "" && banner != "" || !strings.Contains(banner, tt.banner) {
				t.Errorf("got banner %q, want %q in it", banner, tt.banner)
			}
			if tt.banner != "" && !strings.Contains(banner, "threshold: hint: ") {
				t.Errorf("got banner %q, want a hint in it", banner)
			}
		})
	}
	if got := f.recorded(audit.SessionStarted); len(got) != 0 {
		t.Errorf("got %d sessions recorded, want none", len(got))
	}
	refusals := f.recorded(audit.SessionRefused)
	if len(refusals) != 5 { // those who proved to hold a good certificate
		t.Errorf("got %d refusals recorded, want 5: %+v", len(refusals), refusals)
	}
	f.client() // a good certificate still logs in
}

// plainKey is a key without a certificate.
func plainKey(t *testing.T) ssh.Signer {
	t.Helper()
	c := clustertest.NewInMemory(t)
	return keyOnly{c.UserSigner(c.User("x"), nil, "x")}
}

// plainKeys are n keys without a certificate.
func plainKeys(t *testing.T, n int) (keys []ssh.Signer) {
	t.Helper()
	for range n {
		keys = append(keys, plainKey(t))
	}
	return keys
}

// keyOnly shows only the key inside a certificate.
type keyOnly struct{ ssh.Signer }

func (b keyOnly) PublicKey() ssh.PublicKey { return b.Signer.PublicKey().(*ssh.Certificate).Key }

// wrongKeySigner has a certificate, but not its key.
type wrongKeySigner struct{ ssh.Signer }

func (wrongKeySigner) Sign(io.Reader, []byte) (*ssh.Signature, error) {
	return &ssh.Signature{Format: ssh.KeyAlgoED25519, Blob: make([]byte, 64)}, nil
}

func TestACertificateWithoutItsKeyLearnsNothing(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	f.allow() // without any role, the owner of the certificate would be told so
	_, banner, err := f.dial(testAccount(), wrongKeySigner{f.signer()})
	if err == nil || banner != "" {
		t.Errorf("got %v and banner %q, want a refusal without a banner", err, banner)
	}
	if got := f.recorded(audit.SessionRefused); len(got) != 0 {
		t.Errorf("got %d refusals recorded, want none: nobody proved who they are", len(got))
	}
}

func TestLoginWithoutAKeyIsRefused(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	noAnswers := func(string, string, []string, []bool) ([]string, error) { return nil, nil }
	for _, auth := range [][]ssh.AuthMethod{
		nil,
		{ssh.Password("x")},
		{ssh.KeyboardInteractive(noAnswers)},
	} {
		if _, _, err := f.dialWith(testAccount(), auth...); err == nil {
			t.Error("got logged in, want refused")
		}
	}
}

// Clients that offer only keys or passwords are told that they need a certificate once at most, and clients
// with a certificate never.
func TestAClientWithoutACertificateIsToldOnItsLastTry(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	interactive := ssh.KeyboardInteractive(
		func(_, instruction string, questions []string, _ []bool) ([]string, error) {
			t.Errorf("got asked %q %v, want no question", instruction, questions)
			return nil, nil
		},
	)
	keys := func(n int) ssh.AuthMethod { return ssh.PublicKeys(plainKeys(t, n)...) }
	for _, tt := range []struct {
		name string
		auth []ssh.AuthMethod
		told int // how often
	}{
		{"a password, which the method list already excludes", []ssh.AuthMethod{ssh.Password("x")}, 0},
		{"keyboard-interactive", []ssh.AuthMethod{interactive}, 1},
		{"one key, then keyboard-interactive", []ssh.AuthMethod{keys(1), interactive}, 1},
		{"as many keys as are allowed", []ssh.AuthMethod{keys(sshprofile.MaxAuthTries)}, 1},
		{"one key and nothing more", []ssh.AuthMethod{keys(1)}, 0},
	} {
		_, banner, err := f.dialWith(testAccount(), tt.auth...)
		if err == nil || strings.Count(banner, "tsh login") != tt.told {
			t.Errorf("%s: got %v and banner %q, want a refusal that says so %d times",
				tt.name, err, banner, tt.told)
		}
	}
	withCertificate := append(plainKeys(t, sshprofile.MaxAuthTries-1), f.signer())
	if _, banner, err := f.dial(testAccount(), withCertificate...); err != nil || banner != "" {
		t.Errorf("got %v and banner %q, want a client with a certificate logged in silently", err, banner)
	}
	f.allow()
	_, banner, err := f.dialWith(testAccount(), ssh.PublicKeys(f.signer()), interactive)
	if err == nil || strings.Contains(banner, "offered none") {
		t.Errorf("got %v and banner %q, want nothing about a missing certificate", err, banner)
	}
}

func TestLoginTriesAreLimited(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	keys := plainKeys(t, sshprofile.MaxAuthTries)
	if _, _, err := f.dial(testAccount(), append(keys, f.signer())...); err == nil {
		t.Error("got logged in with the seventh key, want the connection closed before")
	}
	if _, _, err := f.dial(testAccount(), append(keys[:3], f.signer())...); err != nil {
		t.Errorf("got %v with the fourth key, want logged in", err)
	}
}

// The clock of the node is far behind or far ahead of its certificates and rules.
func TestLoginNeedsARightClockAndFreshRules(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		off    time.Duration
		banner string
	}{
		{"three hours behind", -3 * time.Hour, "clock is behind"},
		{"a day and an hour without news", 25 * time.Hour, "has not heard from the cluster"},
	} {
		f := newFixture(t, func(c *sshd.Config) { c.Now = clustertest.SkewedClock(tt.off) })
		if _, banner, err := f.dial(testAccount(), f.signer()); err == nil ||
			!strings.Contains(banner, tt.banner) ||
			!strings.Contains(banner, "hint: ") {
			t.Errorf("%s: got %v and banner %q, want a refusal with %q", tt.name, err, banner, tt.banner)
		}
	}
	f := newFixture(
		t,
		func(c *sshd.Config) { c.Now = clustertest.SkewedClock(40 * time.Minute) },
	) // rules 40 minutes old, certificate still good
	f.client()
}

// The clock of the node is an hour behind that of auth, or the other way round: honest users log in. A
// certificate that has ended by the clock of auth is refused, although by the node's clock it is valid.
func TestAnHourBetweenTheClocksOfAuthAndNode(t *testing.T) {
	t.Parallel()
	longer := func(c *ssh.Certificate) { c.ValidBefore += 7200 } // those of tests last for an hour
	for _, off := range []time.Duration{-time.Hour, time.Hour} {
		f := newFixture(t, func(c *sshd.Config) { c.Now = clustertest.SkewedClock(off) })
		f.client(f.cluster.UserSigner(f.cluster.User("alice@example.com", "ops"), longer, testAccount()))
	}
	f := newFixture(t, func(c *sshd.Config) { c.Now = clustertest.SkewedClock(-time.Hour) })
	ended := func(c *ssh.Certificate) {
		c.ValidAfter -= 7200
		c.ValidBefore = uint64(time.Now().Add(-30 * time.Minute).Unix())
	}
	signer := f.cluster.UserSigner(f.cluster.User("alice@example.com", "ops"), ended, testAccount())
	if _, banner, err := f.dial(testAccount(), signer); err == nil || !strings.Contains(banner, "expired") {
		t.Errorf("got %v and banner %q, want the certificate refused as expired", err, banner)
	}
}

// The rules allow these accounts, but the machine has no such account or the node may not use it.
func TestUnusableAccounts(t *testing.T) {
	t.Parallel()
	notRoot := account.Database{UID: 12345}
	f := newFixture(t, func(c *sshd.Config) { c.Accounts = notRoot })
	role := fullRole("ops")
	role.Allow[0].Logins = access.Strings{testAccount(), "no-such-account", "daemon"}
	f.allow(role)
	alice := f.cluster.User("alice@example.com", "ops")
	signer := f.cluster.UserSigner(alice, nil, testAccount(), "no-such-account", "daemon")
	for login, want := range map[string]string{
		"no-such-account": `there is no account "no-such-account" on this node`,
		"daemon":          "this node runs as user id 12345, not as root",
	} {
		_, banner, err := f.dial(login, signer)
		if err == nil || !strings.Contains(banner, want) || !strings.Contains(banner, "hint: ") {
			t.Errorf("%s: got %v and %q, want a refusal with %q", login, err, banner, want)
		}
	}
	newFixture(t, nil).client() // an account that can be used
}

// switchingSigner offers one certificate and, once that is accepted, signs with another (CVE-2024-45337).
type switchingSigner struct {
	ssh.Signer               // of the second
	offered    ssh.PublicKey // the first
}

func (c switchingSigner) PublicKey() ssh.PublicKey {
	return &switchingKey{PublicKey: c.offered, later: c.Signer.PublicKey()}
}

// switchingKey becomes another key once it has been offered.
type switchingKey struct {
	ssh.PublicKey
	later      ssh.PublicKey
	marshalled int
}

func (k *switchingKey) Marshal() []byte {
	if k.marshalled++; k.marshalled > 2 { // the offer, and the comparison with its answer
		return k.later.Marshal()
	}
	return k.PublicKey.Marshal()
}

// A client offers the certificate of Alice and signs with that of Bob: it must get the rights of Bob
// (CVE-2024-45337).
func TestIdentityIsThatOfTheKeyThatSigned(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	f.allow(fullRole("ops"), fullRole("files", "sftp"))
	bob := f.cluster.UserSigner(f.cluster.User("bob@example.com", "files"), nil, testAccount())
	alice := f.signer().PublicKey() // may run commands
	c := f.client(switchingSigner{bob, alice})
	if err := newSession(t, c).Run("true"); err == nil {
		t.Error("got a command run with the grants of Alice, want it refused to Bob")
	}
	if err := newSession(t, c).RequestSubsystem("sftp"); err != nil {
		t.Errorf("got %v for what Bob may do", err)
	}
	events := append(f.recorded(audit.SessionStarted), f.recorded(audit.SessionRefused)...)
	for _, e := range events {
		if e.Actor.Name != "bob@example.com" {
			t.Errorf("got %s recorded, want bob@example.com", e.Actor.Name)
		}
	}
	if len(events) != 2 {
		t.Errorf("got %d events, want a refusal and a start", len(events))
	}
}
