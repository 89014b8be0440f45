package rules_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/rules"
)

const clusterName = "access.example.com"

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// cluster is a cluster that publishes rules: it has the keys, and signs what a test wants.
type cluster struct {
	t       testing.TB
	name    string
	rootKey *ecdsa.PrivateKey
	root    *x509.Certificate
	body    rules.Authorities
	signers []ed25519.PrivateKey // rules keys; generation 0 first
}

// newCluster makes a cluster with a new root, new authorities and four rules keys.
func newCluster(t testing.TB, name string) *cluster {
	t.Helper()
	c := &cluster{t: t, name: name, rootKey: p256(t)}
	c.root = c.authority("root", c.rootKey.Public(), nil, c.rootKey)
	userKey := p256(t)
	user := c.authority("user", userKey.Public(), nil, userKey)
	service := c.authority("service", p256(t).Public(), c.root, c.rootKey)
	c.body = rules.Authorities{
		Root:        c.root.Raw,
		UserSSH:     [][]byte{sshKey(t)},
		HostSSH:     [][]byte{sshKey(t)},
		UserX509:    [][]byte{user.Raw},
		ServiceX509: [][]byte{service.Raw},
	}
	for range 4 {
		_, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		c.signers = append(c.signers, key)
	}
	return c
}

func p256(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func sshKey(t testing.TB) []byte {
	t.Helper()
	k, err := ssh.NewPublicKey(p256(t).Public())
	if err != nil {
		t.Fatal(err)
	}
	return k.Marshal()
}

// authority makes the certificate of an authority with the public key pub. key is the key of parent, which
// signs it; if parent is nil, it is the authority's own.
func (c *cluster) authority(
	name string,
	pub crypto.PublicKey,
	parent *x509.Certificate,
	key crypto.Signer,
) *x509.Certificate {
	c.t.Helper()
	tmpl := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             noon.Add(-time.Hour),
		NotAfter:              noon.Add(time.Hour),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign,
	}
	if parent == nil {
		parent = tmpl
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, pub, key)
	if err != nil {
		c.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		c.t.Fatal(err)
	}
	return cert
}

func (c *cluster) pin() identity.Pin { return identity.PinOf(c.root) }

func rev(index uint64) rules.Revision { return rules.Revision{Epoch: 1, Index: index} }

// link signs an authorities document that trusts the rules keys of the generations.
func (c *cluster) link(signer crypto.Signer, r rules.Revision, generations ...int) rules.Signed {
	c.t.Helper()
	body := c.body
	body.Rules = nil
	for _, g := range generations {
		body.Rules = append(body.Rules, c.signers[g].Public().(ed25519.PublicKey))
	}
	return c.document(signer, rules.AuthoritiesKind, r, body)
}

func (c *cluster) document(signer crypto.Signer, kind rules.Kind, r rules.Revision, body any) rules.Signed {
	c.t.Helper()
	raw, err := json.Marshal(body)
	if err != nil {
		c.t.Fatal(err)
	}
	s, err := rules.SignDocument(
		signer,
		rules.Document{Kind: kind, Cluster: c.name, Revision: r, Time: noon, Body: raw},
	)
	if err != nil {
		c.t.Fatal(err)
	}
	return s
}

func (c *cluster) roles(signer crypto.Signer, r rules.Revision, names ...string) rules.Signed {
	var list []access.Role
	for _, n := range names {
		list = append(list, access.Role{Name: n})
	}
	return c.document(signer, rules.RolesKind, r, rules.Roles{Roles: list})
}

func (c *cluster) head(signer crypto.Signer, at time.Time, docs map[rules.Kind]rules.Ref) rules.Signed {
	c.t.Helper()
	s, err := rules.SignHead(signer, rules.Head{Cluster: c.name, Epoch: 1, Time: at, Docs: docs})
	if err != nil {
		c.t.Fatal(err)
	}
	return s
}

// set is a whole set: the chain, roles and a head over them, signed by signer.
func (c *cluster) set(
	signer crypto.Signer,
	at time.Time,
	chain []rules.Signed,
	chainRev rules.Revision,
	roles rules.Signed,
	rolesRev rules.Revision,
) rules.Set {
	return rules.Set{Chain: chain, Roles: roles, Head: c.head(signer, at, map[rules.Kind]rules.Ref{
		rules.AuthoritiesKind: rules.RefTo(chain[len(chain)-1], chainRev),
		rules.RolesKind:       rules.RefTo(roles, rolesRev),
	})}
}

// firstSet is the first set of a cluster.
func (c *cluster) firstSet() rules.Set {
	key := c.signers[0]
	return c.set(
		key,
		noon,
		[]rules.Signed{c.link(c.rootKey, rev(1), 0)},
		rev(1),
		c.roles(key, rev(2), "ops"),
		rev(2),
	)
}

// rotated is a set after two rotations of the rules key: three authorities, each signed by the key of the one
// before.
func (c *cluster) rotated() rules.Set {
	chain := []rules.Signed{
		c.link(c.rootKey, rev(1), 0),
		c.link(c.signers[0], rev(5), 1, 0),
		c.link(c.signers[1], rev(9), 2),
	}
	return c.set(
		c.signers[2],
		noon.Add(time.Minute),
		chain,
		rev(9),
		c.roles(c.signers[2], rev(10), "ops", "dev"),
		rev(10),
	)
}

func mustOpen(t testing.TB, c *cluster, s rules.Set) *rules.Trust {
	t.Helper()
	trust, err := rules.Open(c.pin(), s)
	if err != nil {
		t.Fatal(err)
	}
	return trust
}

func wantRefusal(t *testing.T, name string, err error, want string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("%s: got %v, want a refusal with %q", name, err, want)
	}
}

func TestOpenTrustsAWholeSetFromThePinAlone(t *testing.T) {
	t.Parallel()
	c := newCluster(t, clusterName)
	trust := mustOpen(t, c, c.firstSet())
	if _, ok := trust.Policy.Roles["ops"]; !ok || trust.Cluster != clusterName ||
		len(trust.Authorities.HostSSH) != 1 ||
		trust.Pin != c.pin() {
		t.Errorf("got %+v, want cluster, roles and authorities", trust)
	}
	name, parsed, err := rules.OpenAuthorities(c.pin(), c.firstSet().Chain)
	if err != nil || name != clusterName || len(parsed.UserSSH) != 1 {
		t.Errorf("got %q, %+v (%v), want the authorities alone", name, parsed, err)
	}
}

// A chain of three revisions is verified from the first, by Open, and from where the trust stands, by
// Advance, also if the set leaves out what is known.
func TestTheChainIsVerifiedOverRotations(t *testing.T) {
	t.Parallel()
	c := newCluster(t, clusterName)
	trust := mustOpen(t, c, c.rotated())
	if len(trust.Policy.Roles) != 2 || len(trust.Set().Chain) != 3 {
		t.Errorf(
			"got %d roles under a chain of %d, want 2 under 3",
			len(trust.Policy.Roles), len(trust.Set().Chain),
		)
	}
	advanced, err := mustOpen(t, c, c.firstSet()).Advance(c.rotated())
	if err != nil || len(advanced.Set().Chain) != 3 || len(advanced.Policy.Roles) != 2 {
		t.Errorf("got %v, want the same by advancing", err)
	}
	tail := c.rotated()
	tail.Chain = tail.Chain[1:] // a chain that begins after what is known
	if advanced, err = mustOpen(t, c, c.firstSet()).Advance(tail); err != nil ||
		len(advanced.Set().Chain) != 3 {
		t.Errorf("got %v, want the chain to link up", err)
	}
}

// Each case is a set with one thing wrong, and a part of the message.
func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	c, other := newCluster(t, clusterName), newCluster(t, clusterName)
	same := newCluster(t, "other.example.com")
	same.rootKey, same.root, same.body, same.signers = c.rootKey, c.root, c.body, c.signers
	_, foreign, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name   string
		change func(*rules.Set)
		want   string
	}{
		{"another cluster's set", func(s *rules.Set) { *s = other.firstSet() }, "pin"},
		{"no chain", func(s *rules.Set) { s.Chain = nil }, "no authorities"},
		{"a first link that the root did not sign",
			func(s *rules.Set) { s.Chain[0] = c.link(c.signers[0], rev(1), 0) }, "not signed"},
		{"a chain without its first link", func(s *rules.Set) { *s = c.rotated(); s.Chain = s.Chain[1:] },
			"not signed"},
		{"a chain without its second link",
			func(s *rules.Set) { *s = c.rotated(); s.Chain = slices.Delete(s.Chain, 1, 2) }, "not signed"},
		{"a chain without its last link", func(s *rules.Set) { *s = c.rotated(); s.Chain = s.Chain[:2] },
			"not signed"},
		{"a chain in another order",
			func(s *rules.Set) {
				*s = c.rotated()
				s.Chain[1], s.Chain[2] = s.Chain[2],
					s.Chain[1]
			}, "not signed"},
		{"a link signed by a foreign key",
			func(s *rules.Set) { *s = c.rotated(); s.Chain[2] = c.link(foreign, rev(9), 2) }, "not signed"},
		{"a link signed by itself",
			func(s *rules.Set) {
				*s = c.rotated()
				s.Chain[2] = c.link(c.signers[2], rev(9),
					2)
			}, "not signed"},
		{"a link of an older revision",
			func(s *rules.Set) {
				*s = c.rotated()
				s.Chain[2] = c.link(c.signers[1], rev(4),
					2)
			}, "do not follow"},
		{"a link of the same revision",
			func(s *rules.Set) {
				*s = c.rotated()
				s.Chain[2] = c.link(c.signers[1], rev(5),
					2)
			}, "do not follow"},
		{"a link under another root", func(s *rules.Set) {
			*s = c.rotated()
			body := other.body
			body.Rules = [][]byte{c.signers[2].Public().(ed25519.PublicKey)}
			s.Chain[2] = c.document(c.signers[1], rules.AuthoritiesKind, rev(9), body)
		}, "pin"},
		{"a link of another cluster by the same keys",
			func(s *rules.Set) {
				*s = c.rotated()
				s.Chain[2] = same.link(c.signers[1], rev(9),
					2)
			}, "do not follow"},
		{"a tampered link",
			func(s *rules.Set) {
				s.Chain[0].Payload = replace(s.Chain[0].Payload, `"index":1`,
					`"index":2`)
			}, "not signed"},
		{"a link without signature", func(s *rules.Set) { s.Chain[0].Sig = nil }, "not signed"},
		{"a tampered head", func(s *rules.Set) { s.Head.Payload = replace(s.Head.Payload, "2026", "2027") },
			"not signed"},
		{"a tampered signature", func(s *rules.Set) { s.Head.Sig[0] ^= 1 }, "not signed"},
		{"tampered roles", func(s *rules.Set) { s.Roles.Payload = replace(s.Roles.Payload, "ops", "adm") },
			"not signed"},
		{"a head signed by a foreign key",
			func(s *rules.Set) { s.Head = c.firstSet().Head; s.Head.Sig = s.Roles.Sig }, "not signed"},
		{"a head by a key that was removed", func(s *rules.Set) {
			r := c.rotated()
			*s = c.set(c.signers[0], noon, r.Chain, rev(9), r.Roles, rev(10))
		}, "not signed"},
		{"roles by a key that was removed", func(s *rules.Set) {
			r := c.rotated()
			*s = c.set(c.signers[2], noon, r.Chain, rev(9), c.roles(c.signers[0], rev(10), "ops"), rev(10))
		}, "not signed"},
		{"roles where authorities belong", func(s *rules.Set) { s.Chain = append(s.Chain, s.Roles) },
			"not signed"},
		{"a head where roles belong", func(s *rules.Set) { s.Roles = s.Head }, "not signed"},
		{"authorities where roles belong", func(s *rules.Set) { s.Roles = c.link(c.signers[0], rev(2), 0) },
			"not signed"},
		{"roles that say authorities, signed as roles", func(s *rules.Set) { s.Roles = c.mislabelled() },
			"want roles"},
		{"roles that the head does not name",
			func(s *rules.Set) {
				s.Roles = c.roles(c.signers[0], rev(2), "ops",
					"more")
			}, "not the one the head names"},
		{"roles of an older revision", func(s *rules.Set) { s.Roles = c.roles(c.signers[0], rev(1), "ops") },
			"not the one the head names"},
		{"a head that names no roles", func(s *rules.Set) {
			s.Head = c.head(c.signers[0], noon,
				map[rules.Kind]rules.Ref{rules.AuthoritiesKind: rules.RefTo(s.Chain[0], rev(1))})
		}, "not the one the head names"},
		{"a head that names no authorities", func(s *rules.Set) {
			s.Head = c.head(c.signers[0], noon,
				map[rules.Kind]rules.Ref{rules.RolesKind: rules.RefTo(s.Roles, rev(2))})
		}, "not the one the head names"},
		{"a head over another revision number", func(s *rules.Set) {
			*s = c.set(c.signers[0], noon, s.Chain, rev(7), s.Roles, rev(2))
		}, "not the one the head names"},
		{"a head of another cluster by the same keys", func(s *rules.Set) { s.Head = same.firstSet().Head },
			"of cluster"},
		{"roles of another cluster by the same keys", func(s *rules.Set) {
			*s = c.set(c.signers[0], noon, s.Chain, rev(1), same.roles(c.signers[0], rev(2), "ops"), rev(2))
		}, "of cluster"},
		{"a role that is there twice", func(s *rules.Set) {
			*s = c.set(c.signers[0], noon, s.Chain, rev(1), c.roles(c.signers[0], rev(2), "ops", "ops"),
				rev(2))
		}, "two roles named"},
	} {
		s := c.firstSet()
		tt.change(&s)
		trust, err := rules.Open(c.pin(), s)
		wantRefusal(t, tt.name, err, tt.want)
		if trust != nil {
			t.Errorf("%s: got a Trust with the error, want none", tt.name)
		}
	}
}

// mislabelled is a roles document that says it is of another kind.
func (c *cluster) mislabelled() rules.Signed {
	good := c.roles(c.signers[0], rev(2), "ops")
	payload := replace(good.Payload, `"kind":"roles"`, `"kind":"authorities"`)
	sig := ed25519.Sign(c.signers[0], append([]byte("threshold rules v1 roles\x00"), payload...))
	return rules.Signed{Payload: payload, Sig: sig}
}

func replace(b []byte, old, repl string) []byte {
	return []byte(strings.Replace(string(b), old, repl, 1))
}

// setWithRoles is a set whose roles document has the body, with the text from replaced by to after
// SignDocument.
func (c *cluster) setWithRoles(body, from, to string) rules.Set {
	c.t.Helper()
	key := c.signers[0]
	roles := c.document(key, rules.RolesKind, rev(2), json.RawMessage(body))
	if !strings.Contains(string(roles.Payload), from) {
		c.t.Fatalf("got %s, want %s in it", roles.Payload, from)
	}
	roles.Payload = replace(roles.Payload, from, to)
	roles.Sig = ed25519.Sign(key, append([]byte("threshold rules v1 roles\x00"), roles.Payload...))
	return c.set(key, noon, []rules.Signed{c.link(c.rootKey, rev(1), 0)}, rev(1), roles, rev(2))
}

// A program that does not know an option of a role must not use the role without it.
func TestRolesHaveTheLowestVersionThatEnforcesThem(t *testing.T) {
	t.Parallel()
	c := newCluster(t, clusterName)
	for _, tt := range []struct{ name, options, want string }{
		{"without options", `{}`, `"v":1`},
		{"a life of certificates", `{"cert_ttl":"8h"}`, `"v":1`},
		{"an idle timeout", `{"idle_timeout":"10m"}`, `"v":2`},
		{"a longest session", `{"max_session":"8h"}`, `"v":2`},
		{"a number of sessions", `{"max_sessions":3}`, `"v":2`},
		{"the end of the certificate", `{"end_with_certificate":true}`, `"v":2`},
	} {
		set := c.setWithRoles(
			`{"roles":[{"name":"free"},{"name":"ops","options":`+tt.options+`}]}`,
			tt.want,
			tt.want,
		)
		trust := mustOpen(t, c, set)
		if got := trust.Policy.Roles["ops"].Options.LimitsSessions(); got != (tt.want == `"v":2`) {
			t.Errorf("%s: got limits %v", tt.name, got)
		}
	}
}

// Roles of a newer version, or with a field that this program does not know, are refused by Open, by Advance
// and when they are signed.
func TestRolesWithUnknownOptionsAreRefused(t *testing.T) {
	t.Parallel()
	c := newCluster(t, clusterName)
	trust := mustOpen(t, c, c.firstSet())
	for _, tt := range []struct{ name, body, from, to, want string }{
		{"of a newer version", `{"roles":[{"name":"ops"}]}`, `"v":1`, `"v":3`, "version 3"},
		{"of no version", `{"roles":[{"name":"ops"}]}`, `"v":1`, `"v":0`, "version 0"},
		{"with an option of a newer version", `{"roles":[{"name":"ops","options":{"idle_timeout":"10m"}}]}`,
			`"idle_timeout"`, `"typed_timeout"`, "typed_timeout"},
		{"with an unknown field in a grant", `{"roles":[{"name":"ops","allow":[{"logins":["a"]}]}]}`,
			`"logins":["a"]`, `"logins":["a"],"from":["10.0.0.0/8"]`, "from"},
		{"with an unknown field beside the roles", `{"roles":[{"name":"ops"}]}`, `"roles":[`,
			`"only":"dev","roles":[`, "only"},
	} {
		set := c.setWithRoles(tt.body, tt.from, tt.to)
		_, err := rules.Open(c.pin(), set)
		wantRefusal(t, tt.name, err, tt.want)
		_, err = trust.Advance(set)
		wantRefusal(t, tt.name+", later", err, tt.want)
	}
	_, err := rules.SignDocument(
		c.signers[0],
		rules.Document{
			Kind:    rules.RolesKind,
			Cluster: clusterName,
			Body:    json.RawMessage(`{"roles":[{"nmae":"ops"}]}`),
		},
	)
	wantRefusal(t, "to be signed", err, "nmae")
}

// Each case lacks one authority, or has one that the wrong key signed.
func TestAuthoritiesMustBeWhole(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(*rules.Authorities){
		"no root":                           func(a *rules.Authorities) { a.Root = nil },
		"no user authority":                 func(a *rules.Authorities) { a.UserSSH = nil },
		"no host authority":                 func(a *rules.Authorities) { a.HostSSH = nil },
		"no user X.509 authority":           func(a *rules.Authorities) { a.UserX509 = nil },
		"no service authority":              func(a *rules.Authorities) { a.ServiceX509 = nil },
		"a service authority not of root":   func(a *rules.Authorities) { a.ServiceX509 = a.UserX509 },
		"a user authority signed by others": func(a *rules.Authorities) { a.UserX509 = a.ServiceX509 },
		"garbage as SSH key":                func(a *rules.Authorities) { a.HostSSH = [][]byte{[]byte("ssh")} },
	} {
		c := newCluster(t, clusterName)
		spoil(&c.body)
		if _, err := rules.Open(c.pin(), c.firstSet()); err == nil {
			t.Errorf("%s: got no error, want one", name)
		}
	}
	c := newCluster(t, clusterName)
	if _, _, err := rules.OpenAuthorities(c.pin(), []rules.Signed{c.link(c.rootKey, rev(1))}); err == nil {
		t.Error("no rules key: got no error, want one")
	}
}

// A set that was valid once is refused when the trust has anything newer: a head, roles, or authorities after
// a rotation.
func TestAdvanceNeverGoesBack(t *testing.T) {
	t.Parallel()
	c := newCluster(t, clusterName)
	key := c.signers[0]
	first := c.firstSet()
	newer := c.set(key, noon.Add(time.Minute), first.Chain, rev(1), c.roles(key, rev(6), "ops"), rev(6))
	trust, err := mustOpen(t, c, first).Advance(newer)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := trust.Advance(newer); err != nil {
		t.Errorf("the same set again: %v", err)
	}
	_, err = trust.Advance(first)
	wantRefusal(t, "the older set", err, "older")
	_, err = trust.Advance(c.set(key, noon.Add(time.Hour), first.Chain, rev(1), first.Roles, rev(2)))
	wantRefusal(t, "older roles under a newer head", err, "go back")
	_, err = trust.Advance(c.set(key, noon, first.Chain, rev(1), newer.Roles, rev(6)))
	wantRefusal(t, "an older head over the same documents", err, "older")

	rotated := c.rotated()
	trust, err = trust.Advance(rotated)
	if err != nil {
		t.Fatal(err)
	}
	_, err = trust.Advance(
		c.set(key, noon.Add(time.Hour), first.Chain, rev(1), c.roles(key, rev(20), "ops"), rev(20)),
	)
	wantRefusal(t, "newer roles by a rules key that was removed", err, "not signed")
	_, err = trust.Advance(
		c.set(
			c.signers[2],
			noon.Add(time.Hour),
			rotated.Chain[:2],
			rev(5),
			c.roles(c.signers[2], rev(20), "ops"),
			rev(20),
		),
	)
	wantRefusal(t, "a head that names older authorities", err, "not the one the head names")
	older := rotated
	older.Chain = append(slices.Clone(rotated.Chain), c.link(c.signers[2], rev(6), 0))
	_, err = trust.Advance(older)
	wantRefusal(t, "a link that brings back an old key under an old revision", err, "do not follow")
}

func TestAdvanceLeavesTheOldTrustAsItWas(t *testing.T) {
	t.Parallel()
	c := newCluster(t, clusterName)
	trust := mustOpen(t, c, c.firstSet())
	bad := c.rotated()
	bad.Head.Sig[0] ^= 1
	if n, err := trust.Advance(bad); err == nil || n != nil {
		t.Fatalf("got %v, want a refusal", err)
	}
	if _, err := trust.Advance(c.rotated()); err != nil {
		t.Fatal(err)
	}
	if len(trust.Set().Chain) != 1 || len(trust.Policy.Roles) != 1 {
		t.Errorf(
			"got a chain of %d and %d roles, want the old 1 and 1",
			len(trust.Set().Chain), len(trust.Policy.Roles),
		)
	}
}

func TestAHigherEpochBeatsAnyIndex(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		a, b rules.Revision
		want bool
	}{
		{rules.Revision{Epoch: 1, Index: 1}, rules.Revision{Epoch: 1, Index: 2},
			true}, {rules.Revision{Epoch: 1, Index: 2}, rules.Revision{Epoch: 1, Index: 1}, false},
		{rules.Revision{Epoch: 1, Index: 9}, rules.Revision{Epoch: 2, Index: 1},
			true}, {rules.Revision{Epoch: 2, Index: 1}, rules.Revision{Epoch: 1, Index: 9}, false},
		{rev(3), rev(3), false},
	} {
		if got := tt.a.Before(tt.b); got != tt.want {
			t.Errorf("%s before %s: got %v, want %v", tt.a, tt.b, got, tt.want)
		}
	}
}

// Rules are usable for MaxAge after their head, and from Skew before it.
func TestUsableChecksTheClock(t *testing.T) {
	t.Parallel()
	c := newCluster(t, clusterName)
	trust := mustOpen(t, c, c.firstSet())
	for _, tt := range []struct {
		name string
		now  time.Time
		want string // empty: usable
	}{
		{"at once", noon, ""},
		{"after a day", noon.Add(rules.MaxAge), ""},
		{"after more than a day", noon.Add(rules.MaxAge + time.Second), "old"},
		{"with the clock a little behind", noon.Add(-identity.Skew), ""},
		{"with the clock ten minutes behind", noon.Add(-10 * time.Minute),
			"10m0s in the future: this machine's clock is behind"},
	} {
		err := trust.Usable(tt.now)
		if tt.want == "" && err != nil {
			t.Errorf("%s: %v", tt.name, err)
		} else if tt.want != "" {
			wantRefusal(t, tt.name, err, tt.want)
		}
	}
	if got := trust.Age(noon.Add(time.Minute)); got != time.Minute {
		t.Errorf("got age %s, want 1m", got)
	}
}

func TestASetRoundTrips(t *testing.T) {
	t.Parallel()
	c := newCluster(t, clusterName)
	b, err := mustOpen(t, c, c.rotated()).Set().Encode()
	if err != nil {
		t.Fatal(err)
	}
	s, err := rules.Decode(b)
	if err != nil {
		t.Fatal(err)
	}
	mustOpen(t, c, s)
	if _, err := rules.Decode(make([]byte, rules.MaxSetBytes+1)); err == nil {
		t.Error("a set that is too large: got no error, want one")
	}
	if _, err := rules.Decode([]byte("{")); err == nil {
		t.Error("half a set: got no error, want one")
	}
}

// No input makes Open or Advance panic, gives trust in another cluster, or takes a trust back in time.
func FuzzOpen(f *testing.F) {
	c := newCluster(f, clusterName)
	for _, s := range []rules.Set{c.firstSet(), c.rotated(), {}} {
		b, err := s.Encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	good := mustOpen(f, c, c.firstSet())
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := rules.Decode(b)
		if err != nil {
			return
		}
		if trust, err := rules.Open(c.pin(), s); err == nil && trust.Cluster != clusterName {
			t.Errorf("got trust in %q", trust.Cluster)
		}
		if trust, err := good.Advance(s); err == nil && trust.Head.Time.Before(good.Head.Time) {
			t.Errorf("went back to %s", trust.Head.Time)
		}
	})
}
