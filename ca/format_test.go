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

// fields prints everything of an SSH certificate that is not random.
func fields(c *ssh.Certificate) string {
	var b strings.Builder
	fmt.Fprintf(&b, "type %d\nkey %s\nsigner %s\n", c.CertType, c.Key.Type(), c.SignatureKey.Type())
	fmt.Fprintf(&b, "signature %s\nnonce %d bytes\nkey id %q\n", c.Signature.Format, len(c.Nonce), c.KeyId)
	fmt.Fprintf(&b, "after %s\nbefore %s\n", formatTime(c.ValidAfter), formatTime(c.ValidBefore))
	fmt.Fprintf(&b, "principals %q\n", c.ValidPrincipals)
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
	t.Parallel()
	f, r := newFixture(t), userRequest(t)
	sourceAddresses("192.0.2.0/24", "2001:db8::/32")(&r)
	golden(t, "user.ssh.txt", fields(f.issue(t, r).SSH))
	golden(t, "host.ssh.txt", fields(f.issue(t, hostRequest(t)).SSH))
}

// x509Fields prints everything of an X.509 certificate that is not random.
func x509Fields(c *x509.Certificate) string {
	var b strings.Builder
	fmt.Fprintf(&b, "key %s\nsignature %s\n", c.PublicKeyAlgorithm, c.SignatureAlgorithm)
	fmt.Fprintf(&b, "subject %q\nissuer %q\n", c.Subject, c.Issuer)
	after, before := c.NotBefore.UTC(), c.NotAfter.UTC()
	fmt.Fprintf(&b, "after %s\nbefore %s\n", after.Format(time.RFC3339), before.Format(time.RFC3339))
	fmt.Fprintf(&b, "dns %q\naddresses %s\nemails %q\nuris %s\n",
		c.DNSNames, c.IPAddresses, c.EmailAddresses, c.URIs)
	fmt.Fprintf(&b, "key usage %d\nextended key usage %d\nCA %t\n", c.KeyUsage, c.ExtKeyUsage, c.IsCA)
	for _, e := range c.Extensions {
		fmt.Fprintf(&b, "extension %s critical %t\n", e.Id, e.Critical)
		if e.Id.Equal(identity.X509Extension) {
			fmt.Fprintf(&b, "identity %q\n", e.Value)
		}
	}
	return b.String()
}

func TestGoldenX509Fields(t *testing.T) {
	t.Parallel()
	f, r := newFixture(t), userRequest(t)
	sourceAddresses("192.0.2.0/24", "2001:db8::/32")(&r)
	golden(t, "user.x509.txt", x509Fields(f.issue(t, r).X509))
	golden(t, "service.x509.txt", x509Fields(f.issue(t, serviceRequest(t)).X509))
}

// The JSON of an issuance record is as in testdata, and reads back as the same record. A malformed digest is
// refused.
func TestGoldenRecord(t *testing.T) {
	t.Parallel()
	f, r := newFixture(t), userRequest(t)
	sourceAddresses("192.0.2.0/24")(&r)
	rec := f.issue(t, r).Record
	rec.Serial, rec.SSHDigest, rec.X509Digest = 1<<63+1, ca.Digest{1}, ca.Digest{2} // were random
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
	t.Parallel()
	f := newFixture(t)
	out := f.issue(t, userRequest(t))
	if got, want := out.Record.SSHDigest, ca.Digest(sha256.Sum256(out.SSH.Marshal())); got != want {
		t.Errorf("got SSH digest %s, want %s", got, want)
	}
	if got, want := out.Record.X509Digest, ca.Digest(sha256.Sum256(out.X509.Raw)); got != want {
		t.Errorf("got X.509 digest %s, want %s", got, want)
	}
	if !reflect.DeepEqual(f.records[0], out.Record) {
		t.Errorf("got %+v recorded, want %+v", f.records[0], out.Record)
	}
	host := f.issue(t, hostRequest(t)).Record
	b, err := json.Marshal(host)
	if err != nil || bytes.Contains(b, []byte("x509_sha256")) {
		t.Errorf("got %s, %v, want no digest of a certificate that does not exist", b, err)
	}
}

// run runs an installed program, with UTC and messages in English.
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

// ssh-keygen -L prints what we put into the certificates. "UNKNOWN OPTION" is our own extension.
func TestOpenSSHReadsOurCertificates(t *testing.T) {
	t.Parallel()
	f, r := newFixture(t), userRequest(t)
	sourceAddresses("192.0.2.0/24")(&r)
	read := func(c *ssh.Certificate) string {
		path := filepath.Join(t.TempDir(), "id-cert.pub")
		if err := os.WriteFile(path, ssh.MarshalAuthorizedKey(c), 0o600); err != nil {
			t.Fatal(err)
		}
		return run(t, "ssh-keygen", "-L", "-f", path)
	}
	user := f.issue(t, r).SSH
	wantContains(
		t,
		"user",
		read(user),
		"ssh-ed25519-cert-v01@openssh.com user certificate",
		"Signing CA: ED25519 "+ssh.FingerprintSHA256(f.keys.UserSSH().PublicKey()),
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
		read(f.issue(t, hostRequest(t)).SSH),
		"host certificate",
		ssh.FingerprintSHA256(f.keys.HostSSH().PublicKey()),
		`Key ID: "node web-1@access.example.com"`,
		"web-1\n",
		"web-1.access.example.com\n",
		"Critical Options: (none)",
		"Extensions: (none)",
	)
}

// openssl verifies the certificates strictly, for the purposes of their profiles, and prints
// what we put into them.
func TestOpenSSLReadsOurCertificates(t *testing.T) {
	t.Parallel()
	f, dir := newFixture(t), t.TempDir()
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
	user, service := f.issue(t, userRequest(t)), f.issue(t, serviceRequest(t))
	leaf, root := write("user.pem", user.X509), write("users.pem", f.keys.Public().UserX509...)
	verify := func(purpose string, args ...string) {
		t.Helper()
		args = append([]string{"verify", "-x509_strict", "-attime", at, "-purpose", purpose}, args...)
		wantContains(t, purpose, run(t, "openssl", args...), "OK")
	}
	verify("sslclient", "-CAfile", root, leaf)
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
		"2.25.1947282563.1", // identity.X509Extension
	)

	leaf, root = write("service.pem", service.X509), write("root.pem", f.keys.Root()) // now the service's
	intermediate := write("intermediate.pem", service.Chain[1])
	for _, purpose := range []string{"sslserver", "sslclient"} {
		verify(purpose, "-CAfile", root, "-untrusted", intermediate, leaf)
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

// Reasons why a lint for the web PKI (CA/Browser Forum, certificate transparency, public suffixes) does not
// apply to our certificates.
const (
	noPolicies   = "certificate policies name a public CA's practice statement; we have none"
	noFetching   = "verifiers have the authorities already and fetch no certificate, CRL or OCSP answer"
	noBrowser    = "no browser sees these certificates; the public web certificate is another"
	privateNames = "operators use private names and addresses, and verifiers read the identity, not the name"
	caMarks      = "a public CA's self-description; we have the cluster's name and the pin"
	commonName   = "the common name is only displayed; no verifier reads it"
	namesUser    = "the URI names the identity"
	knownDepth   = "the depth of the tree is known, so the root may state it"
	signsOnly    = "a rule for subscribers, applied to authorities, which only sign certificates"
)

// ignored are the lints that our certificates fail for a good reason. No lint of an RFC is among them.
var ignored = map[string]string{
	"e_sub_cert_certificate_policies_missing":                       noPolicies,
	"e_sub_cert_cert_policy_empty":                                  noPolicies,
	"e_sub_ca_certificate_policies_missing":                         noPolicies,
	"e_invalid_ca_certificate_policies":                             noPolicies,
	"e_sub_cert_aia_missing":                                        noFetching,
	"w_sub_cert_aia_does_not_contain_issuing_ca_url":                noFetching,
	"w_sub_ca_aia_missing":                                          noFetching,
	"e_sub_ca_crl_distribution_points_missing":                      noFetching,
	"n_ca_digital_signature_not_set":                                noFetching,
	"w_ct_sct_policy_count_unsatisfied":                             noBrowser,
	"w_ext_subject_key_identifier_not_recommended_subscriber":       noBrowser,
	"e_ext_san_uniform_resource_identifier_present":                 namesUser,
	"e_dnsname_not_valid_tld":                                       privateNames,
	"n_san_iana_pub_suffix_empty":                                   privateNames,
	"e_ext_san_contains_reserved_ip":                                privateNames,
	"e_ca_country_name_missing":                                     caMarks,
	"e_ca_organization_name_missing":                                caMarks,
	"w_root_ca_basic_constraints_path_len_constraint_field_present": knownDepth,
	"e_cabf_ecc_allowed_key_usages":                                 signsOnly,
	"w_subject_common_name_included":                                commonName,
	"e_subject_common_name_not_exactly_from_san":                    commonName,
}

// zlint, a linter for the public web, finds nothing but what is in ignored with a reason, and each entry
// there is still needed.
func TestZlintOverEveryProfile(t *testing.T) {
	t.Parallel()
	registry, seen := lint.GlobalRegistry(), map[string]bool{}
	for name, cert := range boundaryCases(t) {
		parsed, err := zx509.ParseCertificate(cert.Raw)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for id, res := range zlint.LintCertificateEx(parsed, registry).Results {
			if res.Status < lint.Notice {
				continue
			}
			if seen[id] = true; ignored[id] == "" {
				t.Errorf("%s: %s: %s %s", name, id, res.Status, res.Details)
			}
		}
	}
	for id := range ignored {
		l := registry.ByName(id)
		if !seen[id] || (l != nil && strings.HasPrefix(string(l.Source), "RFC")) {
			t.Errorf("%s: no certificate fails it, or it is a lint of an RFC: remove it from ignored", id)
		}
	}
}

// boundaryCases returns the smallest and largest certificates of every profile, one with every type of key,
// and the certificates of the authorities, by description.
func boundaryCases(t *testing.T) map[string]*x509.Certificate {
	t.Helper()
	f := newFixture(t)
	p := f.keys.Public()
	long := strings.Repeat(strings.Repeat("a", 49)+".", 5) + "com" // 253 bytes
	longNamed := &fixture{keys: keyringtest.New(t, long, createdAt), now: testNow}
	var err error
	cfg := ca.Config{Cluster: long, Keys: longNamed.keys, Now: longNamed.clock}
	if longNamed.ca, err = ca.New(cfg); err != nil {
		t.Fatal(err)
	}
	out := map[string]*x509.Certificate{
		"root":                          p.Root,
		"user authority":                p.UserX509[0],
		"service authority":             p.ServiceX509[0],
		"root of a long name":           longNamed.keys.Root(),
		"user authority of a long name": longNamed.keys.Public().UserX509[0],
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ed25519Key, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	named := func(name string) func(*ca.Request) { return func(r *ca.Request) { r.Identity.Name = name } }
	for name, tc := range map[string]struct {
		f      *fixture
		base   func(testing.TB) ca.Request
		change func(*ca.Request)
	}{
		"user":                    {f, userRequest, func(*ca.Request) {}},
		"user for a second":       {f, userRequest, ttl(time.Second)},
		"user for a day":          {f, userRequest, ttl(24 * time.Hour)},
		"user with P-384":         {f, userRequest, useX509Key(p384.Public())},
		"user with Ed25519":       {f, userRequest, useX509Key(ed25519Key)},
		"user with RSA":           {f, userRequest, useX509Key(rsaKey(t, 3072))},
		"user with a name of 64":  {f, userRequest, named(strings.Repeat("n", 64))},
		"user with a name of 65":  {f, userRequest, named(strings.Repeat("n", 65))},
		"user with a Korean name": {f, userRequest, named("김철수")},
		"user with a subject that needs escapes": {f, userRequest, func(r *ca.Request) {
			r.Identity.Subject = "a/../b?c#d%e|김 "
		}},
		"user with 4 KiB of traits": {f, userRequest, func(r *ca.Request) {
			r.Identity.Traits = identity.Traits{"t": slices.Repeat([]string{strings.Repeat("x", 446)}, 8)}
		}},
		"user with source addresses": {f, userRequest, sourceAddresses("::/0")},
		"user of a long cluster":     {longNamed, userRequest, inCluster(long)},
		"service without names":      {f, serviceRequest, names()},
		"service with 64 names": {f, serviceRequest, func(r *ca.Request) {
			r.Names = nil
			for i := range 64 {
				r.Names = append(r.Names, fmt.Sprintf("p%d.example.com", i))
			}
		}},
		"service with addresses": {f, serviceRequest, names("127.0.0.1", "2001:db8::1")},
		"node": {f, serviceRequest, func(r *ca.Request) {
			r.Identity, r.Names = machine(identity.Node, "web-1"), []string{"web-1"}
		}},
		"auth": {f, serviceRequest, func(r *ca.Request) {
			r.Identity, r.Names = machine(identity.Auth, "auth-1"), []string{"auth-1." + cluster}
		}},
	} {
		r := tc.base(t)
		tc.change(&r)
		out[name] = tc.f.issue(t, r).X509
	}
	return out
}
