package keyring_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/threshold-access/threshold/ca/keyring"
	"github.com/threshold-access/threshold/ca/keyring/keyringtest"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/fault/faulttest"
	"github.com/threshold-access/threshold/internal/identity"
)

const cluster = "access.example.com"

var createdAt = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// newKeyring generates a keyring, and returns it with its store and seal.
func newKeyring(t *testing.T) (*keyring.Keyring, *keyringtest.Store, keyring.Seal) {
	t.Helper()
	st, seal := new(keyringtest.Store), keyringtest.Seal(t)
	k, _, err := keyring.Generate(t.Context(), newCluster(st, seal))
	if err != nil {
		t.Fatal(err)
	}
	return k, st, seal
}

// newCluster is a cluster that keeps its root key, so that the tests see it sealed.
func newCluster(st keyring.Store, seal keyring.Seal) keyring.NewCluster {
	return keyring.NewCluster{Cluster: cluster, Store: st, Seal: seal, Now: createdAt, RootInStore: true}
}

// wantFault checks that err is a fault of the kind, with a remedy.
func wantFault(t *testing.T, what string, err error, kind fault.Kind) {
	t.Helper()
	if !fault.Is(err, kind) || fault.Remedy(err) == "" {
		t.Errorf("%s: got %v, want a fault of kind %s with a remedy", what, err, kind)
	}
}

// A keyring that is opened from the store has the keys of the generated one, and they sign.
func TestOpenReturnsTheGeneratedKeys(t *testing.T) {
	t.Parallel()
	k, st, seal := newKeyring(t)
	again, err := keyring.Open(t.Context(), st, seal)
	if err != nil {
		t.Fatal(err)
	}
	if again.Pin() != k.Pin() || again.Cluster() != cluster ||
		!bytes.Equal(again.UserSSH().PublicKey().Marshal(), k.UserSSH().PublicKey().Marshal()) {
		t.Errorf("got %v, want %v", again, k)
	}
	p := again.Public()
	if len(p.UserSSH) != 1 || len(p.HostSSH) != 1 || len(p.UserX509) != 1 || len(p.ServiceX509) != 1 ||
		len(p.Rules) != 1 || p.Root == nil {
		t.Fatalf("got %+v, want one key of each", p)
	}
	msg := []byte("rules")
	sig, err := again.RulesSigner().Sign(rand.Reader, msg, crypto.Hash(0))
	if err != nil || !ed25519.Verify(p.Rules[0], msg, sig) {
		t.Errorf("got %v, want a rules signature that verifies", err)
	}
	digest := sha256.Sum256(msg)
	rootKey, kept := again.RootKey()
	if !kept {
		t.Fatal("got no root key")
	}
	sig, err = rootKey.Signer().Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil || p.Root.CheckSignature(x509.ECDSAWithSHA256, msg, sig) != nil {
		t.Errorf("got %v, want a root signature that verifies", err)
	}
}

// All six keys are different. The root has signed the service authority and not the user authority, which is
// valid for clients only.
func TestUserAndServiceTreesAreSeparate(t *testing.T) {
	t.Parallel()
	k, _, _ := newKeyring(t)
	p := k.Public()
	keys := map[string]bool{}
	for _, c := range []*x509.Certificate{p.Root, p.UserX509[0], p.ServiceX509[0]} {
		keys[string(c.RawSubjectPublicKeyInfo)] = true
		if !c.IsCA || c.NotBefore != createdAt.Add(-identity.Skew) {
			const format = "%s: got CA %v from %s, want an authority valid from a minute before its creation"
			t.Errorf(format, c.Subject, c.IsCA, c.NotBefore)
		}
	}
	for _, pub := range []ssh{p.UserSSH[0], p.HostSSH[0]} {
		keys[string(pub.Marshal())] = true
	}
	if keys[string(p.Rules[0])] = true; len(keys) != 6 {
		t.Errorf("got %d distinct keys, want 6", len(keys))
	}
	if err := p.UserX509[0].CheckSignatureFrom(p.Root); err == nil {
		t.Error("got the user authority under the cluster root, want a tree of its own")
	}
	if err := p.ServiceX509[0].CheckSignatureFrom(p.Root); err != nil {
		t.Errorf("service authority: %v", err)
	}
	if got, want := p.Root.NotAfter, createdAt.AddDate(30, 0, 0); !got.Equal(want) {
		t.Errorf("got a root until %s, want %s", got, want)
	}
	if !slices.Equal(p.UserX509[0].ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}) {
		t.Errorf("got %v, want the user tree limited to clients", p.UserX509[0].ExtKeyUsage)
	}
}

type ssh interface{ Marshal() []byte }

func TestPublicReturnsACopy(t *testing.T) {
	t.Parallel()
	k, _, _ := newKeyring(t)
	p := k.Public()
	clear(p.Rules[0])
	p.UserSSH[0] = nil
	if q := k.Public(); q.UserSSH[0] == nil || bytes.Equal(q.Rules[0], p.Rules[0]) {
		t.Error("got a keyring changed through Public, want a copy")
	}
}

func TestGenerateRefusesASecondTime(t *testing.T) {
	t.Parallel()
	k, st, seal := newKeyring(t)
	_, _, err := keyring.Generate(t.Context(), newCluster(st, seal))
	wantFault(t, "second call", err, fault.Conflict)
	if again, err := keyring.Open(t.Context(), st, seal); err != nil || again.Pin() != k.Pin() {
		t.Errorf("got %v, %v, want the first keys untouched", again, err)
	}
}

// Of concurrent calls one creates the keyring; the others get a conflict.
func TestConcurrentGenerateCallsCreateOneKeyring(t *testing.T) {
	t.Parallel()
	st, seal := new(keyringtest.Store), keyringtest.Seal(t)
	var wg sync.WaitGroup
	errs := make([]error, 4)
	for i := range errs {
		wg.Go(func() { _, _, errs[i] = keyring.Generate(t.Context(), newCluster(st, seal)) })
	}
	wg.Wait()
	succeeded := 0
	for _, err := range errs {
		if err == nil {
			succeeded++
			continue
		}
		wantFault(t, "losing call", err, fault.Conflict)
	}
	if succeeded != 1 {
		t.Errorf("got %d keyrings, want 1", succeeded)
	}
}

func TestGenerateRefusesABadClusterName(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"", "Access.example.com", "a/b", "10.0.0.1", "a b"} {
		n := newCluster(new(keyringtest.Store), keyringtest.Seal(t))
		n.Cluster = name
		_, _, err := keyring.Generate(t.Context(), n)
		wantFault(t, name, err, fault.Invalid)
	}
}

// brokenStore fails in the ways a replicated store does.
type brokenStore struct {
	keyringtest.Store
	load, save error
}

func (s *brokenStore) Load(ctx context.Context) ([]byte, error) {
	if s.load != nil {
		return nil, s.load
	}
	return s.Store.Load(ctx)
}

func (s *brokenStore) Save(context.Context, []byte, []byte) error { return s.save }

func TestStoreFailuresAreNotTakenForAnEmptyStore(t *testing.T) {
	t.Parallel()
	down := faulttest.New(fault.Unavailable, "store", "no leader", "wait")
	seal := keyringtest.Seal(t)
	for _, st := range []*brokenStore{{load: down}, {save: down}} {
		if _, _, err := keyring.Generate(t.Context(), newCluster(st, seal)); !errors.Is(err, down) {
			t.Errorf("Generate: got %v, want the store's error", err)
		}
	}
	if _, err := keyring.Open(t.Context(), &brokenStore{load: down}, seal); !errors.Is(err, down) {
		t.Errorf("Open: got %v, want the store's error", err)
	}
	_, err := keyring.Open(t.Context(), new(keyringtest.Store), seal)
	wantFault(t, "open before Generate", err, fault.NotFound)
}

func TestAnotherSealDoesNotOpen(t *testing.T) {
	t.Parallel()
	_, st, _ := newKeyring(t)
	_, err := keyring.Open(t.Context(), st, keyringtest.Seal(t))
	wantFault(t, "another seal", err, fault.Invalid)
}

// doc is the stored document, as somebody with write access to the store sees it.
type doc struct {
	V        int          `json:"v"`
	Critical []string     `json:"critical,omitempty"`
	Cluster  string       `json:"cluster"`
	Created  time.Time    `json:"created"`
	DataKeys []docDataKey `json:"data_keys"`
	Keys     []docKey     `json:"keys"`
	Future   string       `json:"future,omitempty"`
}

type docDataKey struct {
	Generation int       `json:"generation"`
	Created    time.Time `json:"created"`
	Wraps      []docWrap `json:"wraps"`
}

type docWrap struct {
	Seal   string `json:"seal"`
	URI    string `json:"uri"`
	Sealed []byte `json:"sealed"`
}

type docKey struct {
	Authority  string    `json:"authority"`
	Generation int       `json:"generation"`
	State      string    `json:"state"`
	Created    time.Time `json:"created"`
	Public     []byte    `json:"public"`
	Cert       []byte    `json:"cert,omitempty"`
	Sealed     []byte    `json:"sealed,omitempty"`
	Critical   bool      `json:"critical,omitempty"`
}

func (d *doc) key(authority string) *docKey {
	for i := range d.Keys {
		if d.Keys[i].Authority == authority {
			return &d.Keys[i]
		}
	}
	return nil
}

// rewriteDocument changes the stored document with f.
func rewriteDocument(t *testing.T, st *keyringtest.Store, f func(d *doc)) {
	t.Helper()
	raw, err := st.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var d doc
	if err := json.Unmarshal(raw, &d); err != nil {
		t.Fatal(err)
	}
	f(&d)
	changed, err := json.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	if err := st.Save(t.Context(), raw, changed); err != nil {
		t.Fatal(err)
	}
}

// Each case is what somebody could do who can write to the store but does not have the seal key. Open must
// refuse the document and return no keyring.
func TestOpenRefusesAnAlteredDocument(t *testing.T) {
	t.Parallel()
	_, otherStore, _ := newKeyring(t)
	var foreign doc // the document of another cluster
	rewriteDocument(t, otherStore, func(d *doc) { foreign = *d })
	pub, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	foreignPublic, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name   string
		change func(d *doc)
		kind   fault.Kind
	}{
		{"two sealed keys swapped", func(d *doc) {
			a, b := d.key("user-ssh"), d.key("host-ssh")
			a.Sealed, b.Sealed = b.Sealed, a.Sealed
		}, fault.Invalid},
		{"two keys swapped as a whole", func(d *doc) {
			a, b := d.key("user-ssh"), d.key("host-ssh")
			a.Authority, b.Authority = b.Authority, a.Authority
		}, fault.Invalid},
		{"another generation", func(d *doc) { d.key("rules").Generation = 2 }, fault.Invalid},
		{"another cluster's name", func(d *doc) { d.Cluster = "other.example.com" }, fault.Invalid},
		{"a flipped bit in a sealed key", func(d *doc) { d.key("rules").Sealed[40] ^= 1 }, fault.Invalid},
		{"a flipped bit in a nonce", func(d *doc) { d.key("rules").Sealed[2] ^= 1 }, fault.Invalid},
		{"an unknown sealed form", func(d *doc) { d.key("rules").Sealed[0] = 1 }, fault.Invalid},
		{"another data key generation", func(d *doc) { d.key("rules").Sealed[4] = 2 }, fault.Invalid},
		{"no data key", func(d *doc) { d.DataKeys = nil }, fault.Internal},
		{"a data key twice", func(d *doc) { d.DataKeys = append(d.DataKeys, d.DataKeys[0]) }, fault.Internal},
		{"a data key without wraps", func(d *doc) { d.DataKeys[0].Wraps = nil }, fault.Invalid},
		{"a data key wrapped for another generation", func(d *doc) { d.DataKeys[0].Generation = 2 },
			fault.Invalid},
		{"a flipped bit in a wrap", func(d *doc) { d.DataKeys[0].Wraps[0].Sealed[40] ^= 1 }, fault.Invalid},
		{"another cluster's data key", func(d *doc) { d.DataKeys = foreign.DataKeys }, fault.Invalid},
		{
			"a truncated sealed key",
			func(d *doc) { d.key("rules").Sealed = d.key("rules").Sealed[:20] }, fault.Invalid,
		},
		{"no sealed key", func(d *doc) { d.key("rules").Sealed = nil }, fault.Invalid},
		{"a foreign public key", func(d *doc) { d.key("user-ssh").Public = foreignPublic }, fault.Internal},
		{"a trusted key added without its private part", func(d *doc) {
			k := docKey{Authority: "user-ssh", Generation: 2, State: "next", Public: foreignPublic}
			d.Keys = append(d.Keys, k)
		}, fault.Invalid},
		{"a trusted key added from another cluster", func(d *doc) {
			k := *foreign.key("user-ssh")
			k.Generation, k.State = 2, "previous"
			d.Keys = append(d.Keys, k)
		}, fault.Invalid},
		{"another cluster's certificate", func(d *doc) {
			d.key("user-x509").Cert = foreign.key("user-x509").Cert
		}, fault.Internal},
		{"another cluster's root", func(d *doc) { *d.key("root") = *foreign.key("root") }, fault.Invalid},
		{"another cluster's root, kept offline", func(d *doc) {
			*d.key("root") = *foreign.key("root")
			d.key("root").Sealed = nil
		}, fault.Invalid},
		{"no certificate", func(d *doc) { d.key("service-x509").Cert = nil }, fault.Internal},
		{
			"an unreadable certificate",
			func(d *doc) { d.key("service-x509").Cert = []byte{1, 2} }, fault.Internal,
		},
		{"no public key", func(d *doc) { d.key("rules").Public = nil }, fault.Internal},
		{
			"a key of the wrong type",
			func(d *doc) { d.key("rules").Public = d.key("root").Public }, fault.Internal,
		},
		{"two active keys", func(d *doc) {
			k := *d.key("rules")
			k.Generation = 2
			d.Keys = append(d.Keys, k)
		}, fault.Internal},
		{"the same generation twice", func(d *doc) {
			k := *d.key("rules")
			k.State = "next"
			d.Keys = append(d.Keys, k)
		}, fault.Internal},
		{"an unknown state", func(d *doc) { d.key("rules").State = "retired" }, fault.Internal},
		{"a missing authority", func(d *doc) { d.Keys = d.Keys[:5] }, fault.Internal},
		{"no root", func(d *doc) { d.Keys = d.Keys[1:] }, fault.Internal},
		{"a generation below one", func(d *doc) { d.key("rules").Generation = 0 }, fault.Internal},
		{"no version", func(d *doc) { d.V = 0 }, fault.Internal},
		{"a newer version", func(d *doc) { d.V = keyring.Version + 1 }, fault.Invalid},
		{"an unknown critical field", func(d *doc) { d.Critical = []string{"future"} }, fault.Invalid},
		{"an unknown critical authority", func(d *doc) {
			k := docKey{Authority: "recording", Generation: 1, State: "active", Critical: true}
			d.Keys = append(d.Keys, k)
		}, fault.Invalid},
		{"a bad cluster name", func(d *doc) { d.Cluster = "a/b" }, fault.Internal},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, st, seal := newKeyring(t)
			rewriteDocument(t, st, tc.change)
			k, err := keyring.Open(t.Context(), st, seal)
			if k != nil {
				t.Errorf("got %v, want no keyring", k)
			}
			wantFault(t, tc.name, err, tc.kind)
		})
	}
}

func TestOpenRefusesGarbage(t *testing.T) {
	t.Parallel()
	for _, raw := range []string{"{", "[]", "null", `{"v":1}`, strings.Repeat(" ", keyring.MaxBytes+1)} {
		st := new(keyringtest.Store)
		if err := st.Save(t.Context(), nil, []byte(raw)); err != nil {
			t.Fatal(err)
		}
		_, err := keyring.Open(t.Context(), st, keyringtest.Seal(t))
		wantFault(t, fmt.Sprintf("%.20q", raw), err, fault.Internal)
	}
}

func TestRootKeptOffline(t *testing.T) {
	t.Parallel()
	k, st, seal := newKeyring(t)
	rewriteDocument(t, st, func(d *doc) { d.key("root").Sealed = nil })
	again, err := keyring.Open(t.Context(), st, seal)
	if err != nil {
		t.Fatal(err)
	}
	if _, kept := again.RootKey(); kept || again.Pin() != k.Pin() {
		t.Error("got a root key, want none and the same pin")
	}
	again.Wipe() // works without a root key
}

// Unless the cluster keeps it, the root's private key is in the hands of the caller alone.
func TestTheRootKeyIsNotInTheStore(t *testing.T) {
	t.Parallel()
	n := newCluster(new(keyringtest.Store), keyringtest.Seal(t))
	n.RootInStore = false
	keys, rootKey, err := keyring.Generate(t.Context(), n)
	if err != nil {
		t.Fatal(err)
	}
	again, err := keyring.Open(t.Context(), n.Store, n.Seal)
	if err != nil {
		t.Fatal(err)
	}
	for name, k := range map[string]*keyring.Keyring{"generated": keys, "opened": again} {
		if _, kept := k.RootKey(); kept || k.Pin() != rootKey.Pin() {
			t.Errorf("%s: got a root key, or another pin", name)
		}
	}
	rewriteDocument(t, n.Store.(*keyringtest.Store), func(d *doc) {
		if d.key("root").Sealed != nil {
			t.Errorf("got %d bytes of a sealed root key in the store, want none", len(d.key("root").Sealed))
		}
	})
	public, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if cert, err := rootKey.SignService(2, public, createdAt); err == nil {
		t.Errorf("got %v for an Ed25519 key, want it refused", cert.Subject)
	}
	cert, err := rootKey.SignService(2, keys.Public().ServiceX509[0].PublicKey, createdAt)
	if err != nil || cert.CheckSignatureFrom(keys.Root()) != nil ||
		cert.Subject.CommonName != "Threshold service-x509 2" {
		t.Errorf("got %v, %v, want the second service authority under the root", cert, err)
	}
	rootKey.Wipe()
	if _, err := rootKey.PKCS8(); err == nil {
		t.Error("got a root key after Wipe")
	}
}

// What a newer release has added is ignored and kept, unless it is critical.
func TestNewerDocumentsAreReadAndKept(t *testing.T) {
	t.Parallel()
	_, st, seal := newKeyring(t)
	rewriteDocument(t, st, func(d *doc) {
		d.Future = "x"
		d.Keys = append(d.Keys, docKey{Authority: "recording", Generation: 1, State: "resting"})
	})
	if _, err := keyring.Open(t.Context(), st, seal); err != nil {
		t.Errorf("got %v for an unknown field and authority, want them ignored", err)
	}
	other := keyringtest.Seal(t)
	if err := keyring.AddSeal(t.Context(), st, seal, other); err != nil {
		t.Fatal(err)
	}
	rewriteDocument(t, st, func(d *doc) {
		if d.Future != "x" || d.key("recording") == nil || d.key("recording").State != "resting" {
			t.Errorf("got %+v, want what a newer release wrote kept", d)
		}
	})
}

// Replicas may have different seals: each of them opens the same keys.
func TestEachSealOpensTheKeyring(t *testing.T) {
	t.Parallel()
	k, st, first := newKeyring(t)
	sealed, err := k.Secrets().Seal("x", []byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	second, third := keyringtest.Seal(t), keyringtest.Seal(t)
	wantFault(t, "a seal that opens nothing adds another", keyring.AddSeal(t.Context(), st, second, third),
		fault.Invalid)
	for range 2 { // the second time changes nothing
		if err := keyring.AddSeal(t.Context(), st, first, second); err != nil {
			t.Fatal(err)
		}
	}
	rewriteDocument(t, st, func(d *doc) {
		if got := len(d.DataKeys[0].Wraps); got != 2 {
			t.Errorf("got %d wraps, want one for each seal", got)
		}
	})
	for _, seal := range []keyring.Seal{first, second} {
		again, err := keyring.Open(t.Context(), st, seal)
		if err != nil || again.Pin() != k.Pin() {
			t.Fatalf("got %v, %v, want the same keys", again, err)
		}
		if plain, err := again.Secrets().Open("x", sealed); err != nil || string(plain) != "secret" {
			t.Errorf("got %q, %v, want the secret", plain, err)
		}
	}
	_, err = keyring.Open(t.Context(), st, third)
	wantFault(t, "a third seal", err, fault.Invalid)
}

// A secret opens only in its cluster and under its name, unaltered, and not after Wipe.
func TestSecretsAreBoundToClusterAndName(t *testing.T) {
	t.Parallel()
	secrets := keyringtest.New(t, cluster, createdAt).Secrets()
	sealed, err := secrets.Seal("a", []byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := secrets.Open("a", sealed); err != nil || string(got) != "secret" {
		t.Fatalf("got %q, %v, want the secret", got, err)
	}
	for i := range sealed {
		bad := bytes.Clone(sealed)
		bad[i] ^= 0x80
		_, err := secrets.Open("a", bad)
		wantFault(t, fmt.Sprintf("byte %d flipped", i), err, fault.Invalid)
		_, err = secrets.Open("a", sealed[:i])
		wantFault(t, fmt.Sprintf("cut to %d", i), err, fault.Invalid)
	}
	_, err = secrets.Open("b", sealed)
	wantFault(t, "another name", err, fault.Invalid)
	_, err = keyringtest.New(t, "other.example.com", createdAt).Secrets().Open("a", sealed)
	wantFault(t, "another cluster", err, fault.Invalid)
	secrets.Wipe()
	_, err = secrets.Open("a", sealed)
	wantFault(t, "after Wipe", err, fault.Invalid)
	_, err = secrets.Seal("a", nil)
	wantFault(t, "sealed after Wipe", err, fault.Internal)
}

// spySeal records the plaintext of every key that it seals.
type spySeal struct {
	inner keyring.Seal
	seen  [][]byte
}

func (s *spySeal) ID() string { return s.inner.ID() }

func (s *spySeal) URI() string { return s.inner.URI() }

func (s *spySeal) Open(name string, sealed []byte) ([]byte, error) { return s.inner.Open(name, sealed) }

func (s *spySeal) Seal(name string, plain []byte) ([]byte, error) {
	s.seen = append(s.seen, slices.Clone(plain))
	return s.inner.Seal(name, plain)
}

// Neither the store nor any way to print the values (JSON, slog, the verbs of fmt) shows a part of a private
// key, in any usual encoding.
func TestNothingShowsPrivateKeys(t *testing.T) {
	t.Parallel()
	st, spy := new(keyringtest.Store), &spySeal{inner: keyringtest.Seal(t)}
	k, rootKey, err := keyring.Generate(t.Context(), newCluster(st, spy))
	if err != nil {
		t.Fatal(err)
	}
	_, userKey := k.UserX509()
	raw, err := st.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	shown := map[string][]byte{"store": raw}
	values := map[string]any{
		"keyring":   k,
		"root":      rootKey,
		"secrets":   k.Secrets(),
		"rules":     k.RulesSigner(),
		"user-x509": userKey,
		"user-ssh":  k.UserSSH(),
		"seal":      spy.inner,
	}
	for what, v := range values {
		b, err := json.Marshal(v)
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
		var log bytes.Buffer
		slog.New(slog.NewTextHandler(&log, nil)).Info("x", "v", v)
		slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "v", v)
		in := struct{ v any }{v} // fmt prints unexported fields without calling Format or String
		shown[what] = slices.Concat(
			b,
			log.Bytes(),
			fmt.Appendf(nil, "%v %+v %#v %s %x %d", v, v, v, v, v, v),
			fmt.Appendf(nil, "%v %+v %#v %s %x %d", in, in, in, in, in, in),
		)
	}
	if len(spy.seen) != 1 {
		t.Fatalf("got %d values sealed by the seal, want the data key alone", len(spy.seen))
	}
	private := privateKeys(t, st, k)
	if len(private) != 6 {
		t.Fatalf("got %d private keys, want 6", len(private))
	}
	for _, secret := range append(private, spy.seen[0][4:28]) {
		for _, secret := range encodings(secret) {
			for what, text := range shown {
				if bytes.Contains(text, secret) || bytes.Contains(decodeAll(text), secret) {
					t.Errorf("%s shows bytes of a private key", what)
				}
			}
		}
	}
}

// privateKeys returns a part of each private key in the document, which is found whatever stands before and
// after it.
func privateKeys(t *testing.T, st *keyringtest.Store, k *keyring.Keyring) (out [][]byte) {
	t.Helper()
	rewriteDocument(t, st, func(d *doc) {
		for _, stored := range d.Keys {
			name := fmt.Sprintf("keyring/%s/%s/%d", k.Pin(), stored.Authority, stored.Generation)
			der, err := k.Secrets().Open(name, stored.Sealed)
			if err != nil {
				t.Fatal(err)
			}
			key, err := x509.ParsePKCS8PrivateKey(der)
			if err != nil {
				t.Fatal(err)
			}
			var secret []byte
			switch key := key.(type) {
			case ed25519.PrivateKey:
				secret = key.Seed()
			case interface{ Bytes() ([]byte, error) }: // *ecdsa.PrivateKey
				if secret, err = key.Bytes(); err != nil {
					t.Fatal(err)
				}
			default:
				t.Fatalf("unexpected key %T", key)
			}
			out = append(out, secret[4:28])
		}
	})
	return out
}

// encodings are the forms in which a secret could be printed: raw, in hex, in base64, and as fmt prints a
// slice of bytes.
func encodings(secret []byte) [][]byte {
	return [][]byte{
		secret,
		fmt.Appendf(nil, "%x", secret),
		[]byte(strings.Trim(fmt.Sprint(secret), "[]")),
		[]byte(base64.StdEncoding.EncodeToString(secret)),
	}
}

// decodeAll decodes every base64 string of a JSON document and joins the results.
func decodeAll(text []byte) []byte {
	var out []byte
	for _, s := range bytes.Split(text, []byte(`"`)) {
		if b, err := base64.StdEncoding.DecodeString(string(s)); err == nil {
			out = append(out, b...)
		}
	}
	return out
}

// After Wipe no key signs. The public keys and the stored document stay.
func TestWipedKeysRefuseToSign(t *testing.T) {
	t.Parallel()
	k, st, seal := newKeyring(t)
	signers := []crypto.Signer{k.RulesSigner()}
	rootKey, _ := k.RootKey()
	_, user := k.UserX509()
	_, service := k.ServiceX509()
	signers = append(signers, rootKey.Signer(), user, service)
	k.Wipe()
	for i, s := range signers {
		if sig, err := s.Sign(rand.Reader, make([]byte, 32), crypto.SHA256); err == nil {
			t.Errorf("signer %d: got %x after Wipe, want an error", i, sig)
		}
	}
	if _, err := k.UserSSH().Sign(rand.Reader, []byte("x")); err == nil {
		t.Error("user-ssh: got a signature after Wipe, want an error")
	}
	if k.Public().Root == nil || k.Pin() == (identity.Pin{}) {
		t.Error("got no public side after Wipe, want it untouched")
	}
	if _, err := keyring.Open(t.Context(), st, seal); err != nil {
		t.Errorf("got %v, want the stored keys untouched", err)
	}
}

var update = flag.Bool("update", false, "write the golden files")

// A keyring of an earlier release, with its seal, is opened by this one.
func TestGoldenKeyringIsOpened(t *testing.T) {
	t.Parallel()
	if *update {
		writeGolden(t)
	}
	raw, err := os.ReadFile("testdata/keyring.json")
	if err != nil {
		t.Fatal(err)
	}
	sealKey, err := os.ReadFile("testdata/seal.key.pem")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "seal.key")
	if err := os.WriteFile(path, sealKey, 0o600); err != nil {
		t.Fatal(err)
	}
	seal, err := keyring.OpenSeal("file://" + path)
	if err != nil {
		t.Fatal(err)
	}
	st := new(keyringtest.Store)
	if err := st.Save(t.Context(), nil, raw); err != nil {
		t.Fatal(err)
	}
	k, err := keyring.Open(t.Context(), st, seal)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := os.ReadFile("testdata/secret.bin")
	if err != nil {
		t.Fatal(err)
	}
	if plain, err := k.Secrets().Open("golden", secret); err != nil || string(plain) != "a secret" ||
		k.Cluster() != cluster {
		t.Errorf("got %q, %v of %s, want the secret", plain, err, k.Cluster())
	}
}

// writeGolden writes the golden files of a new keyring. No cluster has these keys.
func writeGolden(t *testing.T) {
	t.Helper()
	k, st, seal := newKeyring(t)
	raw, err := st.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	raw = bytes.ReplaceAll(raw, []byte(seal.URI()), []byte("file:///etc/threshold/seal.key"))
	key, err := os.ReadFile(strings.TrimPrefix(seal.URI(), "file://"))
	if err != nil {
		t.Fatal(err)
	}
	secret, err := k.Secrets().Seal("golden", []byte("a secret"))
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{"keyring.json": raw, "seal.key.pem": key, "secret.bin": secret}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join("testdata", name), content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// Whatever the store holds, Open returns a keyring or a fault with a remedy, and does not panic.
func FuzzOpen(f *testing.F) {
	st, seal := new(keyringtest.Store), keyringtest.Seal(f)
	if _, _, err := keyring.Generate(f.Context(), newCluster(st, seal)); err != nil {
		f.Fatal(err)
	}
	raw, err := st.Load(f.Context())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add([]byte(`{"v":1,"cluster":"a","keys":[{"authority":"root","generation":1,"state":"active"}]}`))
	f.Add([]byte(`{"v":99}`))
	f.Fuzz(func(t *testing.T, in []byte) {
		st := new(keyringtest.Store)
		if err := st.Save(t.Context(), nil, in); err != nil {
			t.Fatal(err)
		}
		if _, err := keyring.Open(t.Context(), st, seal); err != nil && fault.Remedy(err) == "" {
			t.Errorf("got %v, want a remedy", err)
		}
	})
}
