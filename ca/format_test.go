package ca_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"flag"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/zmap/zlint/v3"
	"github.com/zmap/zlint/v3/lint"

	zx509 "github.com/zmap/zcrypto/x509"
	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/ca"
	"github.com/threshold-access/threshold/ca/keyring/keyringtest"
	"github.com/threshold-access/threshold/internal/identity"
)

var update = flag.Bool("update", false, "rewrite testdata")

// golden compares got with testdata/name.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s: got\n%s\nwant\n%s", name, got, want)
	}
}

// fields writes down all of an SSH certificate that is not random.
func fields(c *ssh.Certificate) string {
	var b strings.Builder
	fmt.Fprintf(
		&b,
		"type %d\nkey %s\nsigner %s\nsignature %s\nnonce %d bytes\n",
		c.CertType,
		c.Key.Type(),
		c.SignatureKey.Type(),
		c.Signature.Format,
		len(c.Nonce),
	)
	fmt.Fprintf(
		&b,
		"key id %q\nafter %s\nbefore %s\nprincipals %q\n",
		c.KeyId,
		formatTime(c.ValidAfter),
		formatTime(c.ValidBefore),
		c.ValidPrincipals,
	)
	for _, m := range []struct {
		what string
		kv   map[string]string
	}{{"critical", c.CriticalOptions}, {"extension", c.Extensions}} {
		for _, k := range slices.Sorted(maps.Keys(m.kv)) {
			fmt.Fprintf(&b, "%s %s %q\n", m.what, k, m.kv[k])
		}
	}
	return b.String()
}

func formatTime(sec uint64) string { return time.Unix(int64(sec), 0).UTC().Format(time.RFC3339) }

func TestGoldenSSHFields(t *testing.T) {
	w, r := newFixture(t), userRequest(t)
	sourceAddresses("192.0.2.0/24", "2001:db8::/32")(&r)
	golden(t, "user.ssh.txt", fields(w.issue(t, r).SSH))
	golden(t, "host.ssh.txt", fields(w.issue(t, hostRequest(t)).SSH))
}

func TestGoldenRecord(t *testing.T) {
	w, r := newFixture(t), userRequest(t)
	sourceAddresses("192.0.2.0/24")(&r)
	rec := w.issue(t, r).Record
	rec.Serial, rec.SSHDigest, rec.X509Digest = 1<<63+1, ca.Digest{1}, ca.Digest{2} // the random ones
	b, err := json.MarshalIndent(rec, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "record.json", string(b)+"\n")
	var again ca.Record
	if err := json.Unmarshal(b, &again); err != nil || !reflect.DeepEqual(again, rec) {
		t.Errorf("got %+v, %v, want %+v", again, err, rec)
	}
	var d ca.Digest
	for _, bad := range []string{"", "00", strings.Repeat("z", 64), strings.Repeat("0", 66)} {
		if err := d.UnmarshalText([]byte(bad)); err == nil {
			t.Errorf("digest %q: got it accepted, want a refusal", bad)
		}
	}
}

func TestRecordDigestsAreOfWhatWasReleased(t *testing.T) {
	w := newFixture(t)
	out := w.issue(t, userRequest(t))
	if got, want := out.Record.SSHDigest, ca.Digest(sha256.Sum256(out.SSH.Marshal())); got != want {
		t.Errorf("got SSH digest %s, want %s", got, want)
	}
	if got, want := out.Record.X509Digest, ca.Digest(sha256.Sum256(out.X509.Raw)); got != want {
		t.Errorf("got X.509 digest %s, want %s", got, want)
	}
	if !reflect.DeepEqual(w.records[0], out.Record) {
		t.Errorf("got %+v recorded, want %+v", w.records[0], out.Record)
	}
	host := w.issue(t, hostRequest(t)).Record
	b, err := json.Marshal(host)
	if err != nil || bytes.Contains(b, []byte("x509_sha256")) {
		t.Errorf("got %s, %v, want no digest of a certificate that is not there", b, err)
	}
}

// run runs a program of the machine with UTC and plain text.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Env = append(os.Environ(), "TZ=UTC", "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// wantContains checks that every part is in text.
func wantContains(t *testing.T, what, text string, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if !strings.Contains(text, p) {
			t.Errorf("%s: got\n%s\nwant it to contain %q", what, text, p)
		}
	}
}

func TestOpenSSHReadsOurCertificates(t *testing.T) {
	w, r := newFixture(t), userRequest(t)
	sourceAddresses("192.0.2.0/24")(&r)
	read := func(c *ssh.Certificate) string {
		path := filepath.Join(t.TempDir(), "id-cert.pub")
		if err := os.WriteFile(path, ssh.MarshalAuthorizedKey(c), 0o600); err != nil {
			t.Fatal(err)
		}
		return run(t, "ssh-keygen", "-L", "-f", path)
	}
	user := w.issue(t, r).SSH
	wantContains(
		t,
		"user",
		read(user),
		"ssh-ed25519-cert-v01@openssh.com user certificate",
		"Signing CA: ED25519 "+ssh.FingerprintSHA256(w.keys.UserSSH().PublicKey()),
		`Key ID: "alice@example.com@access.example.com/login-1"`,
		fmt.Sprintf("Serial: %d", user.Serial),
		"from 2026-03-01T12:59:00 to 2026-03-01T21:00:00",
		"alice\n",
		"ubuntu\n",
		"source-address 192.0.2.0/24",
		"permit-pty",
		"identity@threshold UNKNOWN OPTION",
	)
	wantContains(
		t,
		"host",
		read(w.issue(t, hostRequest(t)).SSH),
		"host certificate",
		ssh.FingerprintSHA256(w.keys.HostSSH().PublicKey()),
		`Key ID: "node web-1@access.example.com"`,
		"web-1\n",
		"web-1.access.example.com\n",
		"Critical Options: (none)",
		"Extensions: (none)",
	)
}

func TestOpenSSLReadsOurCertificates(t *testing.T) {
	w, dir := newFixture(t), t.TempDir()
	write := func(name string, certs ...*x509.Certificate) string {
		var b []byte
		for _, c := range certs {
			b = append(b, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
		}
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	at := fmt.Sprint(testNow.Unix())
	user, service := w.issue(t, userRequest(t)), w.issue(t, serviceRequest(t))
	leaf, root := write("user.pem", user.X509), write("users.pem", w.keys.Public().UserX509...)
	wantContains(
		t,
		"user",
		run(
			t,
			"openssl",
			"verify",
			"-x509_strict",
			"-attime",
			at,
			"-purpose",
			"sslclient",
			"-CAfile",
			root,
			leaf,
		),
		"OK",
	)
	wantContains(
		t,
		"user",
		run(t, "openssl", "x509", "-noout", "-text", "-in", leaf),
		"alice@example.com",
		"TLS Web Client Authentication",
		"CA:FALSE",
		"Digital Signature",
		"URI:threshold://access.example.com/user/corp/00u1%2Fa%20b",
		"Not Before: Mar  1 12:59:00 2026 GMT",
		"Not After : Mar  1 21:00:00 2026 GMT",
		"2.25.1947282563.1",
	)

	leaf, root = write("service.pem", service.X509), write("root.pem", w.keys.Root())
	between := write("between.pem", service.Chain[1])
	for _, purpose := range []string{"sslserver", "sslclient"} {
		wantContains(
			t,
			purpose,
			run(
				t,
				"openssl",
				"verify",
				"-x509_strict",
				"-attime",
				at,
				"-purpose",
				purpose,
				"-CAfile",
				root,
				"-untrusted",
				between,
				leaf,
			),
			"OK",
		)
	}
	wantContains(
		t,
		"service",
		run(t, "openssl", "x509", "-noout", "-text", "-in", leaf),
		"DNS:proxy.example.com",
		"IP Address:127.0.0.1",
		"IP Address:0:0:0:0:0:0:0:1",
		"URI:threshold://access.example.com/proxy/0123456789abcdef0123456789abcdef",
	)
}

// Why a lint of the web PKI (CA/Browser Forum, certificate transparency, public suffixes) does not speak to
// us.
const (
	noPolicies   = "certificate policies name a public CA's practice statement; there is one policy here: the code"
	noFetching   = "verifiers hold the authorities already and never fetch one, a CRL or an OCSP answer: locks revoke"
	noBrowser    = "no browser sees this tree; the public web certificate is another"
	privateNames = "operators use private names and addresses, and verifiers read the identity, not the name"
	caMarks      = "a public CA's self-description; ours is the cluster's name and the pin"
	commonName   = "the common name is for people's eyes and no verifier reads it"
)

// ignored are the lints that our certificates rightly fail, each with the reason. No RFC lint is among them.
var ignored = map[string]string{
	"e_sub_cert_certificate_policies_missing": noPolicies, "e_sub_cert_cert_policy_empty": noPolicies,
	"e_sub_ca_certificate_policies_missing": noPolicies, "e_invalid_ca_certificate_policies": noPolicies,
	"e_sub_cert_aia_missing": noFetching, "w_sub_cert_aia_does_not_contain_issuing_ca_url": noFetching, "w_sub_ca_aia_missing": noFetching,
	"e_sub_ca_crl_distribution_points_missing": noFetching, "n_ca_digital_signature_not_set": noFetching,
	"w_ct_sct_policy_count_unsatisfied": noBrowser, "w_ext_subject_key_identifier_not_recommended_subscriber": noBrowser,
	"e_ext_san_uniform_resource_identifier_present": "the URI names the identity",
	"e_dnsname_not_valid_tld":                       privateNames, "n_san_iana_pub_suffix_empty": privateNames, "e_ext_san_contains_reserved_ip": privateNames,
	"e_ca_country_name_missing": caMarks, "e_ca_organization_name_missing": caMarks,
	"w_root_ca_basic_constraints_path_len_constraint_field_present": "a tree of known depth says so",
	"e_cabf_ecc_allowed_key_usages":                                 "reads a subscriber's rule onto authorities, which sign certificates and nothing else",
	"w_subject_common_name_included":                                commonName, "e_subject_common_name_not_exactly_from_san": commonName,
}

func TestZlintOverEveryProfile(t *testing.T) {
	reg, met := lint.GlobalRegistry(), map[string]bool{}
	for name, cert := range boundaryCases(t) {
		parsed, err := zx509.ParseCertificate(cert.Raw)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for id, res := range zlint.LintCertificateEx(parsed, reg).Results {
			if res.Status < lint.Notice {
				continue
			}
			if met[id] = true; ignored[id] == "" {
				t.Errorf("%s: %s: %s %s", name, id, res.Status, res.Details)
			}
		}
	}
	for id := range ignored {
		if src := reg.ByName(id); !met[id] || (src != nil && strings.HasPrefix(string(src.Source), "RFC")) {
			t.Errorf("%s: is ignored though nothing fails it, or it is an RFC's: take it off the list", id)
		}
	}
}

// boundaryCases are the smallest and largest certificates of every profile, every key type, and the
// authorities' own.
func boundaryCases(t *testing.T) map[string]*x509.Certificate {
	t.Helper()
	w := newFixture(t)
	p := w.keys.Public()
	long := strings.Repeat(strings.Repeat("a", 49)+".", 5) + "com" // 253 bytes
	lw := &fixture{keys: keyringtest.New(t, long, createdAt), now: testNow}
	var err error
	if lw.ca, err = ca.New(ca.Config{Cluster: long, Keys: lw.keys, Recorder: lw, Now: lw.clock}); err != nil {
		t.Fatal(err)
	}
	out := map[string]*x509.Certificate{
		"root":                          p.Root,
		"user authority":                p.UserX509[0],
		"service authority":             p.ServiceX509[0],
		"root of a long name":           lw.keys.Root(),
		"user authority of a long name": lw.keys.Public().UserX509[0],
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	edwards, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		w      *fixture
		base   func(testing.TB) ca.Request
		change func(r *ca.Request)
	}{
		"user":                     {w, userRequest, func(*ca.Request) {}},
		"user for a second":        {w, userRequest, ttl(time.Second)},
		"user for a day":           {w, userRequest, ttl(24 * time.Hour)},
		"user with P-384":          {w, userRequest, func(r *ca.Request) { r.X509Key = p384.Public() }},
		"user with Ed25519":        {w, userRequest, func(r *ca.Request) { r.X509Key = edwards }},
		"user with RSA":            {w, userRequest, func(r *ca.Request) { r.X509Key = rsaKey(t, 3072) }},
		"user with a name of 64":   {w, userRequest, editIdentity(func(id *identity.Identity) { id.Name = strings.Repeat("n", 64) })},
		"user with a name of 65":   {w, userRequest, editIdentity(func(id *identity.Identity) { id.Name = strings.Repeat("n", 65) })},
		"user with a Korean name":  {w, userRequest, editIdentity(func(id *identity.Identity) { id.Name = "김철수" })},
		"user with an odd subject": {w, userRequest, editIdentity(func(id *identity.Identity) { id.Subject = "a/../b?c#d%e|김 " })},
		"user with 4 KiB of traits": {w, userRequest, editIdentity(func(id *identity.Identity) {
			id.Traits = identity.Traits{"t": slices.Repeat([]string{strings.Repeat("x", 446)}, 8)}
		})},
		"user pinned":            {w, userRequest, func(r *ca.Request) { r.SourceAddress = []netip.Prefix{netip.MustParsePrefix("::/0")} }},
		"user of a long cluster": {lw, userRequest, editIdentity(func(id *identity.Identity) { id.Cluster = long })},
		"service without names":  {w, serviceRequest, names()},
		"service with 64 names": {w, serviceRequest, func(r *ca.Request) {
			r.Names = nil
			for i := range 64 {
				r.Names = append(r.Names, fmt.Sprintf("p%d.example.com", i))
			}
		}},
		"service with addresses": {w, serviceRequest, names("127.0.0.1", "2001:db8::1")},
		"node": {w, serviceRequest, func(r *ca.Request) {
			r.Identity, r.Names = machine(identity.Node, "web-1"), []string{"web-1"}
		}},
		"auth": {w, serviceRequest, func(r *ca.Request) {
			r.Identity, r.Names = machine(identity.Auth, "auth-1"), []string{"auth-1." + cluster}
		}},
	} {
		r := tc.base(t)
		tc.change(&r)
		out[name] = tc.w.issue(t, r).X509
	}
	return out
}
