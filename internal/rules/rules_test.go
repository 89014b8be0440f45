package rules_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"maps"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/fault"
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
	body    rules.Authorities    // without rules keys
	signers []ed25519.PrivateKey // rules keys; generation 0 first
	epoch   uint64               // of the documents and heads that are signed
	heads   uint64               // the number of the last head
}

// newCluster makes a cluster with a new root, new authorities and four rules keys.
func newCluster(t testing.TB, name string) *cluster {
	t.Helper()
	c := &cluster{t: t, name: name, rootKey: p256(t), epoch: 1}
	c.root = c.authority("root", c.rootKey.Public(), nil, c.rootKey)
	userKey := p256(t)
	user := c.authority("user", userKey.Public(), nil, userKey)
	service := c.authority("service", p256(t).Public(), c.root, c.rootKey)
	c.body = rules.Authorities{Root: c.root.Raw, Keys: []rules.AuthorityKey{
		rules.SSHKey(rules.UserSSH, 1, rules.Active, sshKey(t)),
		rules.SSHKey(rules.HostSSH, 1, rules.Active, sshKey(t)),
		rules.X509Key(rules.UserX509, 1, rules.Active, user),
		rules.X509Key(rules.ServiceX509, 1, rules.Active, service),
	}}
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

func sshKey(t testing.TB) ssh.PublicKey {
	t.Helper()
	k, err := ssh.NewPublicKey(p256(t).Public())
	if err != nil {
		t.Fatal(err)
	}
	return k
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

// link signs an authorities document that trusts the rules keys of the generations, of which the first is the
// active one.
func (c *cluster) link(signer crypto.Signer, r rules.Revision, generations ...int) rules.Signed {
	c.t.Helper()
	body := c.body
	body.Keys = slices.Clone(body.Keys)
	state := rules.Active
	for _, g := range generations {
		key := c.signers[g].Public().(ed25519.PublicKey)
		body.Keys = append(body.Keys, rules.SigningKey(g+1, state, key))
		state = rules.Previous
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

// head signs a head with the next number.
func (c *cluster) head(signer crypto.Signer, at time.Time, docs map[rules.Kind]rules.Ref) rules.Signed {
	c.t.Helper()
	c.heads++
	number := rules.Sequence{Term: 1, Counter: c.heads}
	return c.headOf(signer, rules.Head{Sequence: number, Time: at, Docs: docs})
}

// headOf signs a head of the cluster and epoch.
func (c *cluster) headOf(signer crypto.Signer, h rules.Head) rules.Signed {
	c.t.Helper()
	h.Cluster, h.Epoch = c.name, c.epoch
	s, err := rules.SignHead(signer, h)
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
	return rules.Set{
		V:     rules.Version,
		Chain: chain,
		Docs:  map[rules.Kind]rules.Signed{rules.RolesKind: roles},
		Head: c.head(signer, at, map[rules.Kind]rules.Ref{
			rules.AuthoritiesKind: rules.RefTo(chain[len(chain)-1], chainRev),
			rules.RolesKind:       rules.RefTo(roles, rolesRev),
		}),
	}
}

// with is the set with one more document, which a new head names. change may change the head's entry.
func (c *cluster) with(
	s rules.Set, signer crypto.Signer, kind rules.Kind, doc rules.Signed, change func(*rules.Ref),
) rules.Set {
	c.t.Helper()
	var head rules.Head
	if err := json.Unmarshal(s.Head.Payload, &head); err != nil {
		c.t.Fatal(err)
	}
	var content rules.Document
	if err := json.Unmarshal(doc.Payload, &content); err != nil {
		c.t.Fatal(err)
	}
	ref := rules.RefTo(doc, content.Revision)
	if change != nil {
		change(&ref)
	}
	head.Docs[kind] = ref
	s.Docs = maps.Clone(s.Docs)
	s.Docs[kind] = doc
	s.Head = c.head(signer, head.Time, head.Docs)
	return s
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
	before := mustOpen(t, c, c.firstSet())
	tail := c.rotated()
	tail.Chain = tail.Chain[1:] // a chain that begins after what is known
	if advanced, err = before.Advance(tail); err != nil ||
		len(advanced.Set().Chain) != 3 {
		t.Errorf("got %v, want the chain to link up", err)
	}
}

// Each case is a set with one thing wrong, and a piece of the message.
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
			moved := *other
			moved.signers = c.signers
			s.Chain[2] = moved.link(c.signers[1], rev(9), 2)
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
		{"tampered roles", func(s *rules.Set) {
			roles := s.Docs[rules.RolesKind]
			roles.Payload = replace(roles.Payload, "ops", "adm")
			setRoles(s, roles)
		}, "not the one the head names"},
		{"roles without signature", func(s *rules.Set) {
			setRoles(s, rules.Signed{Payload: s.Docs[rules.RolesKind].Payload})
		}, "not signed"},
		{"a head signed by a foreign key",
			func(s *rules.Set) { s.Head.Sig = s.Docs[rules.RolesKind].Sig }, "not signed"},
		{"a head by a key that was removed", func(s *rules.Set) {
			r := c.rotated()
			*s = c.set(c.signers[0], noon, r.Chain, rev(9), r.Docs[rules.RolesKind], rev(10))
		}, "not signed"},
		{"roles by a key that was removed", func(s *rules.Set) {
			r := c.rotated()
			*s = c.set(c.signers[2], noon, r.Chain, rev(9), c.roles(c.signers[0], rev(10), "ops"), rev(10))
		}, "not signed"},
		{"roles where authorities belong", func(s *rules.Set) { s.Chain = append(s.Chain, s.Docs[rules.RolesKind]) },
			"not signed"},
		{"authorities where roles belong", func(s *rules.Set) {
			*s = c.set(c.signers[0], noon, s.Chain, rev(1), c.link(c.signers[0], rev(2), 0), rev(2))
		}, "not signed"},
		{"roles that say authorities, signed as roles", func(s *rules.Set) {
			*s = c.set(c.signers[0], noon, s.Chain, rev(1), c.mislabelled(), rev(2))
		}, "want roles"},
		{"roles that the head does not name", func(s *rules.Set) {
			setRoles(s, c.roles(c.signers[0], rev(2), "ops", "more"))
		}, "not the one the head names"},
		{"roles of another revision than the head says", func(s *rules.Set) {
			*s = c.set(c.signers[0], noon, s.Chain, rev(1), c.roles(c.signers[0], rev(1), "ops"), rev(2))
		}, "not the one the head names"},
		{"no roles", func(s *rules.Set) { s.Docs = nil }, "have not come"},
		{"a set of no version", func(s *rules.Set) { s.V = 0 }, "version 0"},
		{"a set of a newer version", func(s *rules.Set) { s.V = 2 }, "version 2"},
		{"a set with a critical field", func(s *rules.Set) { s.Critical = []string{"new"} }, `"new"`},
		{"a head that names no roles", func(s *rules.Set) {
			s.Head = c.head(c.signers[0], noon,
				map[rules.Kind]rules.Ref{rules.AuthoritiesKind: rules.RefTo(s.Chain[0], rev(1))})
		}, "names no roles"},
		{"a head that names no authorities", func(s *rules.Set) {
			s.Head = c.head(c.signers[0], noon,
				map[rules.Kind]rules.Ref{rules.RolesKind: rules.RefTo(s.Docs[rules.RolesKind], rev(2))})
		}, "not the one the head names"},
		{"a head over another revision number", func(s *rules.Set) {
			*s = c.set(c.signers[0], noon, s.Chain, rev(7), s.Docs[rules.RolesKind], rev(2))
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

// setRoles replaces the roles of a set.
func setRoles(s *rules.Set, roles rules.Signed) {
	s.Docs = map[rules.Kind]rules.Signed{rules.RolesKind: roles}
}

// mislabelled is a roles document that says it is of another kind.
func (c *cluster) mislabelled() rules.Signed {
	good := c.roles(c.signers[0], rev(2), "ops")
	payload := replace(good.Payload, `"kind":"roles"`, `"kind":"authorities"`)
	return c.signedAs(rules.RolesKind, payload)
}

// signedAs signs a payload as a document of the kind, whatever it is.
func (c *cluster) signedAs(kind rules.Kind, payload []byte) rules.Signed {
	digest := sha256.Sum256(payload)
	message := append([]byte("threshold rules v1 "+string(kind)+"\x00"), digest[:]...)
	return rules.Signed{Payload: payload, Sig: ed25519.Sign(c.signers[0], message)}
}

func replace(b []byte, old, repl string) []byte {
	return []byte(strings.Replace(string(b), old, repl, 1))
}

// rewritten is the document with the text from replaced by to, signed again.
func (c *cluster) rewritten(kind rules.Kind, doc rules.Signed, from, to string) rules.Signed {
	c.t.Helper()
	if !strings.Contains(string(doc.Payload), from) {
		c.t.Fatalf("got %s, want %s in it", doc.Payload, from)
	}
	return c.signedAs(kind, replace(doc.Payload, from, to))
}

// A program that does not know a field of a role would allow what the field restricts. So every field that
// roles use is critical, and a program that does not know one refuses the document. It ignores other fields.
func TestRolesWithUnknownCriticalFieldsAreRefused(t *testing.T) {
	t.Parallel()
	c := newCluster(t, clusterName)
	key, chain := c.signers[0], []rules.Signed{c.link(c.rootKey, rev(1), 0)}
	trust := mustOpen(t, c, c.set(key, noon, chain, rev(1), c.roles(key, rev(2), "ops"), rev(2)))
	body := json.RawMessage(`{"roles":[{"name":"dev","options":{"idle_timeout":"10m"}},{"name":"ops"}]}`)
	roles := c.document(key, rules.RolesKind, rev(3), body)
	const critical = `"critical":["body.roles","body.roles.name","body.roles.options",` +
		`"body.roles.options.idle_timeout"]`
	for _, tt := range []struct{ name, from, to, want string }{
		{"as they are", `"ops"`, `"ops"`, ""},
		{"with an unknown field", `"name":"ops"`, `"name":"ops","note":"new"`, ""},
		{"of a newer version", `"v":1`, `"v":2`, "version 2, this program reads 1 to 1"},
		{"of no version", `"v":1`, `"v":0`, "version 0"},
		{"with an unknown critical field", critical, `"critical":["body.roles.options.typed_timeout"]`,
			`"body.roles.options.typed_timeout", which is critical`},
		{"with an unknown critical field of the document", critical, `"critical":["until"]`, `"until"`},
	} {
		changed := c.rewritten(rules.RolesKind, roles, tt.from, tt.to)
		set := c.set(key, noon, chain, rev(1), changed, rev(3))
		_, errOpen := rules.Open(c.pin(), set)
		_, errAdvance := trust.Advance(set)
		for _, err := range []error{errOpen, errAdvance} {
			switch {
			case tt.want == "" && err != nil:
				t.Errorf("%s: got %v, want them read", tt.name, err)
			case tt.want != "":
				wantRefusal(t, tt.name, err, tt.want)
				if !strings.Contains(fault.Remedy(err), "update this program") {
					t.Errorf("%s: got the remedy %q, want an update", tt.name, fault.Remedy(err))
				}
			}
		}
	}
	unreadable := c.rewritten(rules.RolesKind, roles, `"10m"`, `["10m","strict"]`) // of a later release
	if _, err := trust.Advance(c.set(key, noon, chain, rev(1), unreadable, rev(3))); err == nil {
		t.Error("got roles with a value of an option that cannot be read, want the last ones kept")
	}
	_, err := rules.SignDocument(key, rules.Document{
		Kind:    rules.RolesKind,
		Cluster: clusterName,
		Body:    json.RawMessage(`{"roles":[{"nmae":"ops"}]}`),
	})
	wantRefusal(t, "to be signed", err, "nmae")
}

// An option that is off is signed, is critical, and is off for those who read it: in a program that does not
// know the option it may be on.
func TestAnOptionThatIsOffIsSigned(t *testing.T) {
	t.Parallel()
	c := newCluster(t, clusterName)
	key, chain := c.signers[0], []rules.Signed{c.link(c.rootKey, rev(1), 0)}
	off := access.Options{EndWithCertificate: access.Set(false)}
	body := rules.Roles{Roles: []access.Role{{Name: "dev", Options: off}, {Name: "ops"}}}
	doc := c.document(key, rules.RolesKind, rev(2), body)
	if !bytes.Contains(doc.Payload, []byte(`"body.roles.options.end_with_certificate"`)) {
		t.Errorf("got %s, want the option among the critical fields", doc.Payload)
	}
	trust := mustOpen(t, c, c.set(key, noon, chain, rev(1), doc, rev(2)))
	if got := trust.Policy.Roles["dev"].Options; got != off {
		t.Errorf("got %+v, want %+v", got, off)
	}
	if got := trust.Policy.Roles["ops"].Options; got != (access.Options{}) {
		t.Errorf("got %+v, want nothing set", got)
	}
}

// A document of a kind that this program does not know is verified, kept and passed on, but not read. If the
// head calls the kind critical, or says that a known kind needs a newer reader, the rules are not used.
func TestUnknownKindsAreKeptUnlessTheyAreCritical(t *testing.T) {
	t.Parallel()
	c := newCluster(t, clusterName)
	key := c.signers[0]
	const locks rules.Kind = "locks"
	body := json.RawMessage(`{"locks":[]}`)
	doc := c.document(key, locks, rev(7), body)
	first := c.firstSet()
	trust := mustOpen(t, c, c.with(first, key, locks, doc, nil))
	if kept := trust.Set().Docs[locks]; string(kept.Payload) != string(doc.Payload) {
		t.Errorf("got %q kept of an unknown kind, want it whole", kept.Payload)
	}
	forged := rules.Signed{Payload: replace(doc.Payload, "[]", "[1]"), Sig: doc.Sig}
	settings := c.document(key, rules.SettingsKind, rev(7), access.Settings{})
	for _, tt := range []struct {
		name string
		set  rules.Set
		want string
	}{
		{"critical", c.with(first, key, locks, doc, func(r *rules.Ref) { r.Critical, r.Reader = true, 3 }),
			"does not know documents of kind locks (version 3), which are critical"},
		{"a known kind for newer readers",
			c.with(first, key, rules.SettingsKind, settings, func(r *rules.Ref) { r.Reader = 4 }),
			"settings is of version 4, this program reads 1 to 1"},
		{"not signed", c.with(first, key, locks, forged, nil), "not signed"},
		{"signed as another kind", c.with(first, key, locks, c.document(key, "lock", rev(7), body), nil),
			"not signed"},
		{"a name that no kind has", c.with(first, key, "a\x00b", doc, nil), "not a kind"},
		{"the name of a head", c.with(first, key, "head", doc, nil), "not a kind"},
		{"a revision of another epoch",
			c.with(first, key, locks, doc, func(r *rules.Ref) { r.Revision.Epoch = 2 }), "epoch"},
	} {
		_, err := rules.Open(c.pin(), tt.set)
		wantRefusal(t, tt.name, err, tt.want)
	}
	withheld := c.with(first, key, locks, doc, nil)
	delete(withheld.Docs, locks)
	_, err := rules.Open(c.pin(), withheld)
	wantRefusal(t, "withheld", err, "have not come")
	later := c.set(key, noon, first.Chain, rev(1), first.Docs[rules.RolesKind], rev(2))
	_, err = trust.Advance(later)
	wantRefusal(t, "a head that names it no more", err, "would go back")
}

// Heads of a newer format are refused with version and remedy; other fields are ignored.
func TestHeadsOfNewerFormats(t *testing.T) {
	t.Parallel()
	c := newCluster(t, clusterName)
	for _, tt := range []struct{ name, from, to, want string }{
		{"one more field", `"v":1`, `"v":1,"weather":"fine"`, ""},
		{"one more critical field", `"v":1`, `"v":1,"critical":["weather"],"weather":"bad"`, `"weather"`},
		{"a critical field that is known", `"v":1`, `"v":1,"critical":["sequence"]`, ""},
		{"a newer version", `"v":1`, `"v":2`, "version 2"},
	} {
		set := c.firstSet()
		set.Head = c.rewritten("head", set.Head, tt.from, tt.to)
		_, err := rules.Open(c.pin(), set)
		if tt.want == "" && err != nil {
			t.Errorf("%s: got %v, want it read", tt.name, err)
		} else if tt.want != "" {
			wantRefusal(t, tt.name, err, tt.want)
		}
	}
}

// Each case lacks one authority, or has a key that is wrong or that the wrong key signed.
func TestAuthoritiesMustBeWhole(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		spoil func(*rules.Authorities)
		want  string
	}{
		{"no root", func(a *rules.Authorities) { a.Root = nil }, "root"},
		{"no user authority", func(a *rules.Authorities) { a.Keys = a.Keys[1:] }, "user-ssh has 0 active keys"},
		{"no service authority", func(a *rules.Authorities) { a.Keys = a.Keys[:3] }, "service-x509 has 0"},
		{"an authority without an active key", func(a *rules.Authorities) { a.Keys[1].State = rules.Next },
			"host-ssh has 0"},
		{"two active keys", func(a *rules.Authorities) {
			second := a.Keys[0]
			second.Generation = 2
			a.Keys = append(a.Keys, second)
		}, "user-ssh has 2"},
		{"a generation twice", func(a *rules.Authorities) {
			second := a.Keys[0]
			second.State = rules.Previous
			a.Keys = append(a.Keys, second)
		}, "generation 1 is there twice"},
		{"a service authority not of root", func(a *rules.Authorities) { a.Keys[3].Key = a.Keys[2].Key }, "service"},
		{"a user authority signed by others", func(a *rules.Authorities) { a.Keys[2].Key = a.Keys[3].Key }, "user"},
		{"garbage as SSH key", func(a *rules.Authorities) { a.Keys[1].Key = []byte("ssh") }, "host-ssh"},
		{"the id of another key", func(a *rules.Authorities) { a.Keys[0].ID = a.Keys[1].ID }, "not that of the key"},
		{"an unknown critical authority", func(a *rules.Authorities) {
			a.Keys = append(a.Keys,
				rules.AuthorityKey{Authority: "recording", State: rules.Active, Critical: true})
		}, `does not know the critical authority "recording"`},
		{"an unknown critical state", func(a *rules.Authorities) {
			a.Keys = append(a.Keys,
				rules.AuthorityKey{Authority: rules.HostSSH, Generation: 2, State: "asleep", Critical: true})
		}, `state "asleep"`},
	} {
		c := newCluster(t, clusterName)
		tt.spoil(&c.body)
		_, err := rules.Open(c.pin(), c.firstSet())
		wantRefusal(t, tt.name, err, tt.want)
	}
	c := newCluster(t, clusterName)
	_, _, err := rules.OpenAuthorities(c.pin(), []rules.Signed{c.link(c.rootKey, rev(1))})
	wantRefusal(t, "no rules key", err, "rules has 0 active keys")
}

// Keys of authorities and states that this program does not know are ignored, so that later releases may add
// some. Keys are listed with the active one first.
func TestUnknownAuthoritiesAreIgnored(t *testing.T) {
	t.Parallel()
	c := newCluster(t, clusterName)
	first, next := c.body.Keys[0], sshKey(t)
	c.body.Keys[0] = rules.SSHKey(rules.UserSSH, 2, rules.Next, next)
	c.body.Keys = append(c.body.Keys,
		first,
		rules.AuthorityKey{Authority: "recording", Generation: 1, State: rules.Active, Key: []byte("age1")},
		rules.AuthorityKey{Authority: rules.UserSSH, Generation: 3, State: "asleep", Key: []byte("z")},
	)
	trust := mustOpen(t, c, c.firstSet())
	got := trust.Authorities.UserSSH
	if len(got) != 2 || string(got[0].Marshal()) != string(first.Key) ||
		string(got[1].Marshal()) != string(next.Marshal()) {
		t.Errorf("got %d user authorities, want the active one and then the next", len(got))
	}
}

// A set that was valid once is refused when the trust has anything newer: a head, roles, or authorities after
// a rotation. Only the numbers of heads tell which is newer.
func TestAdvanceNeverGoesBack(t *testing.T) {
	t.Parallel()
	c := newCluster(t, clusterName)
	key := c.signers[0]
	first := c.firstSet()
	olderNumber := c.set(key, noon.Add(time.Hour), first.Chain, rev(1), c.roles(key, rev(6), "ops"), rev(6))
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
	_, err = trust.Advance(olderNumber)
	wantRefusal(t, "a head with an older number and a later time", err, "older")
	twin := newer
	twin.Head = c.rewritten("head", newer.Head, "12:01:00Z", "12:02:00Z")
	_, err = trust.Advance(twin)
	wantRefusal(t, "another head with the same number", err, "two different heads")
	_, err = trust.Advance(
		c.set(key, noon.Add(time.Hour), first.Chain, rev(1), first.Docs[rules.RolesKind], rev(2)))
	wantRefusal(t, "older roles under a newer head", err, "go back")

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
	wantRefusal(t, "a head that names older authorities", err, "authorities would go back")
	older := rotated
	older.Chain = append(slices.Clone(rotated.Chain), c.link(c.signers[2], rev(6), 0))
	_, err = trust.Advance(older)
	wantRefusal(t, "a link that brings back an old key under an old revision", err, "do not follow")
}

// The clock of auth is an hour off, in either direction, and then set right: every newer head is taken, and
// its age counts from when it came if its time is in the future.
func TestHeadsFromAWrongClock(t *testing.T) {
	t.Parallel()
	c := newCluster(t, clusterName)
	key, chain := c.signers[0], []rules.Signed{c.link(c.rootKey, rev(1), 0)}
	at := func(clock time.Time, index uint64) rules.Set {
		return c.set(key, clock, chain, rev(1), c.roles(key, rev(index), "ops"), rev(index))
	}
	trust := mustOpen(t, c, at(noon, 2))
	for _, tt := range []struct {
		name  string
		clock time.Time // of auth
		now   time.Time // what counts as the time at noon
	}{
		{"an hour ahead", noon.Add(time.Hour), noon.Add(time.Hour)},
		{"right again", noon, noon},
		{"an hour behind", noon.Add(-time.Hour), noon},
		{"ahead again", noon.Add(time.Hour), noon.Add(time.Hour)},
	} {
		next, err := trust.Advance(at(tt.clock, 3))
		if err != nil {
			t.Fatalf("%s: got %v, want the newer head taken", tt.name, err)
		}
		trust = next
		if err := trust.Usable(noon); err != nil {
			t.Errorf("%s: got %v, want honest work to go on", tt.name, err)
		}
		if got := trust.Now(noon); !got.Equal(tt.now) {
			t.Errorf("%s: got %s to decide by, want %s", tt.name, got, tt.now)
		}
	}
	received := rules.NewReceiver(trust, noon).Current() // its head is an hour ahead
	if age := received.Age(noon.Add(30 * time.Minute)); age != 30*time.Minute {
		t.Errorf("got an age of %s, want the time since the head came", age)
	}
	if err := received.Usable(noon.Add(24*time.Hour + time.Minute)); err == nil {
		t.Error("got a head from the future that lasts longer than any other")
	}
}

// The setting rules_age decides how old rules may be.
func TestTheSettingRulesAge(t *testing.T) {
	t.Parallel()
	c := newCluster(t, clusterName)
	key := c.signers[0]
	settings := access.Settings{RulesAge: access.Duration(15 * time.Minute)}
	doc := c.document(key, rules.SettingsKind, rev(7), settings)
	trust := mustOpen(t, c, c.with(c.firstSet(), key, rules.SettingsKind, doc, nil))
	if err := trust.Usable(noon.Add(15 * time.Minute)); err != nil {
		t.Errorf("after 15 minutes: got %v, want the rules used", err)
	}
	wantRefusal(t, "after 16 minutes", trust.Usable(noon.Add(16*time.Minute)), "16m0s old, more than 15m0s")
	if got := trust.Policy.Settings.Tunnels; got != 2 {
		t.Errorf("got %d tunnels where nothing is set, want the default", got)
	}
	future := c.rewritten(rules.SettingsKind, doc, `"rules_age"`, `"mood":"good","rules_age"`)
	if _, err := rules.Open(c.pin(), c.with(c.firstSet(), key, rules.SettingsKind, future, nil)); err != nil {
		t.Errorf("got %v for settings with one more field, want them read", err)
	}
}

// A thief has the rules key of the newest authorities. The root replaces it: verifiers follow, whatever the
// thief made them believe, and then believe nothing more that the stolen key signs.
func TestTheRootReplacesAStolenRulesKey(t *testing.T) {
	t.Parallel()
	c := newCluster(t, clusterName)
	stolen := c.signers[0]
	first := c.firstSet()
	honest := mustOpen(t, c, first)
	fork := []rules.Signed{first.Chain[0], c.link(stolen, rev(1000), 3)}
	deceived, err := honest.Advance(c.set(c.signers[3], noon, fork, rev(1000),
		c.roles(c.signers[3], rev(1001), "thief"), rev(1001)))
	if err != nil {
		t.Fatal(err)
	}
	epoch2 := func(index uint64) rules.Revision { return rules.Revision{Epoch: 2, Index: index} }
	_, err = honest.Advance(rules.Set{V: 1, Chain: []rules.Signed{c.link(stolen, epoch2(1), 3)}})
	wantRefusal(t, "the thief raises the epoch", err, "do not follow")

	evil := c.head(stolen, noon.Add(time.Hour), map[rules.Kind]rules.Ref{
		rules.AuthoritiesKind: rules.RefTo(first.Chain[0], rev(1)),
		rules.RolesKind:       rules.RefTo(first.Docs[rules.RolesKind], rev(2)),
	})
	c.epoch, c.heads = 2, 0 // the number of heads may begin anew
	link, fresh := c.link(c.rootKey, epoch2(2), 1), c.signers[1]
	replaced := c.set(fresh, noon, []rules.Signed{first.Chain[0], link}, epoch2(2),
		c.roles(fresh, epoch2(3), "ops"), epoch2(3))
	sameEpoch := c.link(c.rootKey, rev(2000), 1)
	_, err = honest.Advance(rules.Set{V: 1, Chain: []rules.Signed{sameEpoch}})
	wantRefusal(t, "a link by the root without a higher epoch", err, "do not follow")

	for name, before := range map[string]*rules.Trust{"honest": honest, "deceived": deceived} {
		after, err := before.Advance(replaced)
		if err != nil {
			t.Errorf("%s: got %v, want the root followed", name, err)
			continue
		}
		if _, thief := after.Policy.Roles["thief"]; thief || len(after.Set().Chain) != 1 {
			t.Errorf("%s: got %+v, want the new rules alone", name, after.Policy.Roles)
		}
		_, err = after.Advance(rules.Set{V: 1, Docs: first.Docs, Head: evil})
		wantRefusal(t, name+": a head by the stolen key", err, "not signed")
		_, err = after.Advance(rules.Set{V: 1, Chain: fork[1:], Head: replaced.Head})
		wantRefusal(t, name+": a link by the stolen key", err, "not signed")
		_, err = after.Advance(first)
		wantRefusal(t, name+": the rules of the old epoch", err, "do not follow")
		byOldKey := c.roles(stolen, epoch2(4), "thief")
		head := c.head(fresh, noon, map[rules.Kind]rules.Ref{
			rules.AuthoritiesKind: rules.RefTo(link, epoch2(2)),
			rules.RolesKind:       rules.RefTo(byOldKey, epoch2(4)),
		})
		docs := map[rules.Kind]rules.Signed{rules.RolesKind: byOldKey}
		_, err = after.Advance(rules.Set{V: 1, Docs: docs, Head: head})
		wantRefusal(t, name+": roles by the stolen key", err, "not signed")
	}
	// A newcomer needs only what is since the root's last signature, in whatever order the rest comes.
	for name, chain := range map[string][]rules.Signed{
		"the last link alone": {link},
		"the whole chain":     {first.Chain[0], link},
		"a fork before it":    {fork[0], fork[1], link},
	} {
		set := replaced
		set.Chain = chain
		if _, err := rules.Open(c.pin(), set); err != nil {
			t.Errorf("%s: got %v, want a newcomer to follow the root", name, err)
		}
	}
	revision, err := rules.CheckNextLink(c.pin(), first.Chain, link)
	if err != nil || revision != epoch2(2) {
		t.Errorf("got %s and %v, want the link to follow", revision, err)
	}
	if err := rules.MaySign(link, fresh.Public()); err != nil {
		t.Errorf("the new key: got %v, want it to sign", err)
	}
	wantRefusal(t, "the stolen key", rules.MaySign(link, stolen.Public()), "none of those")
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

// Rules are usable for the default of rules_age after their head, and up to two hours before it.
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
		{"after a day", noon.Add(24 * time.Hour), ""},
		{"after more than a day", noon.Add(24*time.Hour + time.Second), "old"},
		{"with the clock an hour behind", noon.Add(-time.Hour), ""},
		{"with the clock three hours behind", noon.Add(-3 * time.Hour),
			"3h0m0s in the future: this machine's clock is behind"},
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
		if trust, err := good.Advance(s); err == nil && trust.Head.Sequence.Before(good.Head.Sequence) {
			t.Errorf("went back to %s", trust.Head.Sequence)
		}
	})
}
