package identity_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"math/big"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/threshold-access/threshold/internal/identity"
)

// issuer is an X.509 authority for tests.
type issuer struct {
	cert *x509.Certificate
	key  crypto.Signer
}

func newKey(t testing.TB, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// newIssuer makes an authority under parent, or a root where parent is nil.
func newIssuer(t testing.TB, name string, parent *issuer) *issuer {
	return issuerOf(t, name, parent, newKey(t, elliptic.P256()))
}

func issuerOf(t testing.TB, name string, parent *issuer, k crypto.Signer) *issuer {
	t.Helper()
	tmpl := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             noon.AddDate(-1, 0, 0),
		NotAfter:              noon.AddDate(9, 0, 0),
		KeyUsage:              x509.KeyUsageCertSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	by := &issuer{tmpl, k}
	if parent != nil {
		by = parent
	}
	return &issuer{create(t, tmpl, by, k), k}
}

func create(t testing.TB, tmpl *x509.Certificate, by *issuer, subject crypto.Signer) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, tmpl, by.cert, subject.Public(), by.key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func node() identity.Identity {
	return identity.Identity{
		V:       identity.Version,
		Kind:    identity.Node,
		Cluster: cluster,
		Name:    "web-1",
		ID:      "0123456789abcdef0123456789abcdef",
		Labels:  identity.Labels{"env": "prod"},
	}
}

// leafOf is the template of a valid leaf for id.
func leafOf(t testing.TB, id identity.Identity) *x509.Certificate {
	t.Helper()
	u, err := url.Parse(id.URI())
	if err != nil {
		t.Fatal(err)
	}
	return &x509.Certificate{
		SerialNumber: big.NewInt(7),
		NotBefore:    noon.Add(-identity.Skew),
		NotAfter:     noon.Add(24 * time.Hour),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{
			x509.ExtKeyUsageClientAuth,
		},
		BasicConstraintsValid: true,
		URIs:                  []*url.URL{u},
		ExtraExtensions:       []pkix.Extension{{Id: identity.X509Extension, Value: encodeX509(t, id)}},
	}
}

// testAuthorities are those of the cluster, and a foreign one.
type testAuthorities struct{ users, root, services, foreign *issuer }

func newTestAuthorities(t testing.TB) testAuthorities {
	root := newIssuer(t, "root", nil)
	return testAuthorities{
		users:    newIssuer(t, "users", nil),
		root:     root,
		services: newIssuer(t, "services", root),
		foreign:  newIssuer(t, "root", nil),
	}
}

func (tr testAuthorities) roots() identity.Roots {
	return identity.Roots{Users: pool(tr.users), Services: pool(tr.root)}
}

func pool(is ...*issuer) *x509.CertPool {
	p := x509.NewCertPool()
	for _, i := range is {
		p.AddCert(i.cert)
	}
	return p
}

// A user's certificate is verified under the user authority, and a machine's under the service authority, by
// the same Roots.
func TestVerifyX509ReadsUsersAndMachines(t *testing.T) {
	t.Parallel()
	trusted := newTestAuthorities(t)
	user := []*x509.Certificate{create(t, leafOf(t, alice()), trusted.users, newKey(t, elliptic.P256()))}
	peer, err := trusted.roots().VerifyX509(user, cluster, x509.ExtKeyUsageClientAuth, noon,
		identity.User, identity.Node)
	if err != nil {
		t.Fatal(err)
	}
	if peer.UserKey() != alice().UserKey() || !peer.Expires.Equal(noon.Add(24*time.Hour)) ||
		peer.Cert != user[0] {
		t.Errorf("got %+v, want alice until the certificate's end", peer)
	}
	machine := []*x509.Certificate{
		create(t, leafOf(t, node()), trusted.services, newKey(t, elliptic.P384())),
		trusted.services.cert,
		trusted.root.cert,
	}
	peer, err = trusted.roots().VerifyX509(machine, cluster, x509.ExtKeyUsageClientAuth, noon,
		identity.User, identity.Node)
	if err != nil || peer.ID != node().ID {
		t.Errorf("got %+v, %v, want the node", peer, err)
	}
}

// Each case is a chain with one thing wrong.
func TestVerifyX509Refuses(t *testing.T) {
	t.Parallel()
	type cert = x509.Certificate
	trusted := newTestAuthorities(t)
	changed := func(id identity.Identity, change func(c *cert)) *cert {
		c := leafOf(t, id)
		change(c)
		return c
	}
	user := func(change func(c *cert)) *cert { return changed(alice(), change) }
	machine := func(change func(c *cert)) *cert { return changed(node(), change) }
	same := func(*cert) {}
	raw := func(v string) func(c *cert) {
		return func(c *cert) { c.ExtraExtensions[0].Value = []byte(v) }
	}
	uris := func(list ...string) func(c *cert) {
		return func(c *cert) {
			c.URIs = nil
			for _, s := range list {
				u, _ := url.Parse(s)
				c.URIs = append(c.URIs, u)
			}
		}
	}
	usage := func(u ...x509.ExtKeyUsage) func(c *cert) {
		return func(c *cert) { c.ExtKeyUsage = u }
	}
	foreignUser, proxy := alice(), node()
	foreignUser.Cluster, proxy.Kind = "other.example.com", identity.Proxy
	const otherID = "ffffffffffffffffffffffffffffffff"
	for _, tc := range []struct {
		name string
		tmpl *cert
		by   *issuer
		want string
	}{
		{"expired", user(func(c *cert) {
			c.NotBefore, c.NotAfter = noon.Add(-9*time.Hour), noon.Add(-10*time.Minute)
		}), trusted.users, "expired at"},
		{"not yet valid", user(func(c *cert) { c.NotBefore = noon.Add(10 * time.Minute) }),
			trusted.users, "check this machine's clock"},
		{"a foreign root of the same name", machine(same), trusted.foreign, "certificate"},
		{"a user under the service authority", user(same), trusted.services, "unknown authority"},
		{"a user under the cluster root", user(same), trusted.root, "unknown authority"},
		{"a node under the user authority", machine(same), trusted.users, "unknown authority"},
		{"a proxy where none is accepted", changed(proxy, same), trusted.services, "may not do this"},
		{"no identity", user(func(c *cert) { c.ExtraExtensions = nil }), trusted.users, "unknown authority"},
		{"a machine without identity", machine(func(c *cert) { c.ExtraExtensions = nil }),
			trusted.services, "no identity"},
		{"an empty identity", machine(raw("")), trusted.services, "identity"},
		{"an identity with trailing bytes", machine(raw(encode(t, node()) + "{}")), trusted.services, "identity"},
		{"an identity over 4 KiB", machine(raw(encode(t, node()) + strings.Repeat(" ", 4096))),
			trusted.services, "4096"},
		{"another cluster", changed(foreignUser, same), trusted.users, "other.example.com"},
		{"no URI", machine(uris()), trusted.services, "disagree"},
		{"another node's URI", machine(uris("threshold://" + cluster + "/node/" + otherID)),
			trusted.services, "disagree"},
		{"two URIs", machine(uris(node().URI(), node().URI())), trusted.services, "disagree"},
		{"the URI of another kind", machine(uris(strings.Replace(node().URI(), "/node/", "/auth/", 1))),
			trusted.services, "disagree"},
		{"an authority as leaf", machine(func(c *cert) { c.IsCA, c.KeyUsage = true, x509.KeyUsageCertSign }),
			trusted.services, "authority's own"},
		{"a leaf that may sign certificates", machine(func(c *cert) {
			c.KeyUsage |= x509.KeyUsageCertSign
			c.BasicConstraintsValid = false
		}), trusted.services, "authority's own"},
		{"another use", machine(usage(x509.ExtKeyUsageServerAuth)), trusted.services, "usage"},
		{"any use", machine(usage(x509.ExtKeyUsageAny)), trusted.services, "not for this use"},
		{"no use", machine(usage()), trusted.services, "not for this use"},
		{"a lifetime of more than a day", machine(func(c *cert) { c.NotAfter = noon.Add(25 * time.Hour) }),
			trusted.services, "longer"},
		{"a P-521 key", machine(same), trusted.services, "P-256"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			curve := elliptic.P256()
			if tc.name == "a P-521 key" {
				curve = elliptic.P521()
			}
			chain := []*cert{create(t, tc.tmpl, tc.by, newKey(t, curve)), trusted.services.cert}
			peer, err := trusted.roots().VerifyX509(chain, cluster, x509.ExtKeyUsageClientAuth, noon,
				identity.User, identity.Node)
			if err == nil {
				t.Fatalf("got %+v, want a refusal", peer)
			}
			if !strings.Contains(err.Error(), tc.want) || peer.Cert != nil || peer.Name != "" {
				t.Errorf("got %+v, %q, want nothing but a message with %q", peer, err, tc.want)
			}
		})
	}
}

// A leaf with two identities is refused, whichever of them a reader would take.
func TestVerifyX509RefusesTwoIdentities(t *testing.T) {
	t.Parallel()
	trusted := newTestAuthorities(t)
	leaf := create(t, leafOf(t, node()), trusted.services, newKey(t, elliptic.P256()))
	leaf.Extensions = append(
		leaf.Extensions,
		pkix.Extension{Id: identity.X509Extension, Value: encodeX509(t, node())},
	) // x509 parses no such certificate
	_, err := identity.VerifyX509(
		[]*x509.Certificate{leaf, trusted.services.cert},
		cluster,
		pool(trusted.root),
		x509.ExtKeyUsageClientAuth,
		noon,
		identity.Node,
	)
	if err == nil || !strings.Contains(err.Error(), "two identities") {
		t.Errorf("got %v, want a refusal of two identities", err)
	}
}

// No certificate, too many, no roots and no kinds are refused. A missing pool must not mean the system's
// roots.
func TestVerifyX509RefusesEmptyAndEndlessChains(t *testing.T) {
	t.Parallel()
	trusted := newTestAuthorities(t)
	leaf := create(t, leafOf(t, node()), trusted.services, newKey(t, elliptic.P256()))
	verify := func(roots *x509.CertPool, chain ...*x509.Certificate) error {
		_, err := identity.VerifyX509(chain, cluster, roots, x509.ExtKeyUsageClientAuth, noon, identity.Node)
		return err
	}
	nine := append([]*x509.Certificate{leaf}, slices.Repeat([]*x509.Certificate{trusted.services.cert}, 8)...)
	for name, err := range map[string]error{
		"no certificate":     verify(pool(trusted.root)),
		"no intermediate":    verify(pool(trusted.root), leaf),
		"nine certificates":  verify(pool(trusted.root), nine...),
		"no roots":           verify(pool(), leaf, trusted.services.cert),
		"the system's roots": verify(nil, leaf, trusted.services.cert),
		"a root of its own":  verify(pool(trusted.root), leaf, trusted.services.cert)} {
		if want := name == "a root of its own"; (err == nil) != want {
			t.Errorf("%s: got %v, want accepted: %v", name, err, want)
		}
	}
	good := []*x509.Certificate{leaf, trusted.services.cert}
	if _, err := identity.VerifyX509(good, cluster, pool(trusted.root),
		x509.ExtKeyUsageClientAuth, noon); err == nil {
		t.Error("no kinds: got a peer, want a refusal")
	}
	if _, err := (identity.Roots{}).VerifyX509([]*x509.Certificate{leaf}, cluster, x509.ExtKeyUsageClientAuth,
		noon, identity.Node); err == nil {
		t.Error("zero Trust: got a peer, want a refusal")
	}
}

// Only a self-signed authority in the chain can be the pinned root, not an intermediate or the leaf.
func TestVerifyPinnedFindsTheRootByItsPin(t *testing.T) {
	t.Parallel()
	trusted := newTestAuthorities(t)
	tmpl := leafOf(t, node())
	tmpl.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	leaf := create(t, tmpl, trusted.services, newKey(t, elliptic.P256()))
	chain := []*x509.Certificate{leaf, trusted.services.cert, trusted.root.cert}
	verify := func(chain []*x509.Certificate, pinned *x509.Certificate) error {
		_, err := identity.VerifyPinned(chain, identity.PinOf(pinned), cluster, noon, identity.Node)
		return err
	}
	if err := verify(chain, trusted.root.cert); err != nil {
		t.Error(err)
	}
	var wrong *identity.PinError
	if err := verify(chain, trusted.foreign.cert); !errors.As(err, &wrong) {
		t.Errorf("got %v, want a PinError", err)
	}
	if err := verify(chain, trusted.services.cert); err == nil {
		t.Error("got a pinned intermediate as root, want a refusal")
	}
	if err := verify(chain, leaf); err == nil {
		t.Error("got a pinned leaf as root, want a refusal")
	}
	forged := []*x509.Certificate{leaf, trusted.services.cert, trusted.foreign.cert, trusted.root.cert}
	forged[0] = create(t, tmpl, trusted.foreign, newKey(t, elliptic.P256()))
	if err := verify(forged, trusted.root.cert); err == nil {
		t.Error("got a leaf of another root beside the pinned one, want a refusal")
	}
}

// A pin is read in hex and in base64, with the prefixes in use. Anything else is refused with a short error.
func TestParsePin(t *testing.T) {
	t.Parallel()
	want := identity.Pin(bytes.Repeat([]byte{0xa5}, 32))
	hexed, b64 := hex.EncodeToString(want[:]), base64.StdEncoding.EncodeToString(want[:])
	for _, in := range []string{want.String(), hexed, strings.ToUpper(hexed), "sha256:" + b64,
		"sha256//" + b64, b64} {
		if got, err := identity.ParsePin(in); err != nil || got != want {
			t.Errorf("ParsePin(%q): got %v, %v, want %v", in, got, err, want)
		}
	}
	for _, in := range []string{"", "sha256:", hexed[:62], hexed + "00", " " + hexed, hexed + "\n",
		"sha1:" + hexed, "sha256:sha256//" + b64, "sha256:sha256:" + hexed,
		b64[:40] + "\n" + b64[40:], strings.Repeat("x", 1<<16)} {
		if got, err := identity.ParsePin(in); err == nil {
			t.Errorf("ParsePin(%.80q): got %v, want an error", in, got)
		} else if len(err.Error()) > 300 {
			t.Errorf("ParsePin: got an error of %d bytes, want a short one", len(err.Error()))
		}
	}
	var p identity.Pin
	if err := p.UnmarshalText([]byte("nonsense")); err == nil || p != (identity.Pin{}) {
		t.Errorf("got %v, %v, want an error and no pin", p, err)
	}
}

func FuzzParsePin(f *testing.F) {
	for _, s := range []string{"", "sha256:", strings.Repeat("a5", 32),
		"sha256//" + base64.StdEncoding.EncodeToString(make([]byte, 32))} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := identity.ParsePin(s)
		if err != nil {
			return
		}
		if again, err := identity.ParsePin(p.String()); err != nil || again != p {
			t.Errorf("got %v, %v of %q, want the same pin", again, err, p)
		}
	})
}

// FuzzVerifyX509 gives the verifier leaves with odd identities and URIs, signed as by a broken issuer, beside
// any other certificate.
func FuzzVerifyX509(f *testing.F) {
	root := issuerOf(
		f,
		"root",
		nil,
		key('r'),
	) // Ed25519 of fixed keys: the same bytes in every fuzzing process
	trusted := testAuthorities{
		users:    issuerOf(f, "users", nil, key('c')),
		root:     root,
		services: issuerOf(f, "services", root, key('s')),
	}
	subject := key('u')
	f.Add([]byte(encode(f, node())), node().URI(), trusted.services.cert.Raw)
	f.Add([]byte(encode(f, alice())), alice().URI(), trusted.root.cert.Raw)
	f.Add([]byte("{}"), "threshold://x/../", []byte{0x30, 0})
	f.Add(
		[]byte(
			`{"v":1,"kind":"auth","cluster":"`+cluster+`","name":"a","id":"0123456789abcdef0123456789abcdef"}`,
		),
		"",
		[]byte{},
	)
	f.Fuzz(func(t *testing.T, id []byte, uri string, beside []byte) {
		tmpl := leafOf(t, node())
		tmpl.ExtraExtensions[0].Value = id
		u, err := url.Parse(uri)
		if err != nil {
			return
		}
		tmpl.URIs = []*url.URL{u}
		der, err := x509.CreateCertificate(
			rand.Reader,
			tmpl,
			trusted.services.cert,
			subject.Public(),
			trusted.services.key,
		)
		if err != nil {
			return
		}
		leaf, err := x509.ParseCertificate(der)
		if err != nil {
			return
		}
		chain := []*x509.Certificate{leaf, trusted.services.cert}
		if c, err := x509.ParseCertificate(beside); err == nil {
			chain = append(chain, c)
		}
		peer, err := trusted.roots().VerifyX509(chain, cluster, x509.ExtKeyUsageClientAuth, noon,
			identity.User, identity.Node)
		isNode := peer.Kind == identity.Node && peer.Cluster == cluster && peer.Check() == nil
		if err == nil && (!isNode || peer.URI() != uri) {
			t.Errorf("got %+v of %q, want a node of the cluster with its own URI", peer, uri)
		}
	})
}

func encodeX509(t testing.TB, id identity.Identity) []byte {
	t.Helper()
	b, err := identity.X509Value([]byte(encode(t, id)))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The extension must be exactly one DER text: not bare JSON, not cut off, nothing behind it.
func TestAnIdentityThatIsNoSingleDERTextIsRefused(t *testing.T) {
	t.Parallel()
	good := encodeX509(t, node())
	trusted := newTestAuthorities(t)
	verify := func(value []byte) error {
		leaf := leafOf(t, node())
		leaf.ExtraExtensions[0].Value = value
		chain := []*x509.Certificate{
			create(t, leaf, trusted.services, newKey(t, elliptic.P256())),
			trusted.services.cert,
		}
		_, err := trusted.roots().VerifyX509(chain, cluster, x509.ExtKeyUsageClientAuth, noon, identity.Node)
		return err
	}
	for name, value := range map[string][]byte{"bare JSON": []byte(encode(t, node())),
		"something behind": append(slices.Clone(good), 0), "cut": good[:len(good)-1]} {
		if err := verify(value); err == nil {
			t.Errorf("%s: got it accepted, want a refusal", name)
		}
	}
	if err := verify(good); err != nil {
		t.Errorf("got %v, want the DER text accepted", err)
	}
}
