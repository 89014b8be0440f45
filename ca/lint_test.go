package ca

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/ca/keyring/keyringtest"
	"github.com/threshold-access/threshold/internal/identity"
)

var lintNow = time.Date(2026, 3, 1, 13, 0, 0, 0, time.UTC)

func lintCA(t *testing.T) *CA {
	t.Helper()
	c, err := New(Config{
		Cluster: "access.example.com",
		Keys:    keyringtest.New(t, "access.example.com", lintNow.Add(-time.Hour)),
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// lintDraft is a good draft of the profile, for a test to change.
func lintDraft(t *testing.T, c *CA, p Profile) *draft {
	t.Helper()
	pub, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.NewPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	r := Request{
		Profile: p,
		Identity: identity.Identity{
			Kind:    identity.Proxy,
			Cluster: "access.example.com",
			Name:    "proxy-1",
			ID:      "0123456789abcdef0123456789abcdef",
		},
		Names: []string{"proxy-1.example.com"},
	}
	switch p {
	case User:
		r.Identity = identity.Identity{
			Kind:      identity.User,
			Profile:   identity.UserProfile,
			Cluster:   "access.example.com",
			Name:      "alice",
			Connector: "corp",
			Subject:   "1",
			LoginID:   "l",
		}
		r.SSHKey, r.X509Key, r.Logins, r.Names = key, pub, []identity.Login{"alice"}, nil
		r.SourceAddress = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
	case Host:
		r.SSHKey = key
	case Service:
		r.X509Key = pub
	}
	d, err := c.draft(r, lintNow)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// TestLintRefusesBadDrafts changes good drafts, as a defect elsewhere in the package could.
func TestLintRefusesBadDrafts(t *testing.T) {
	t.Parallel()
	c := lintCA(t)
	for _, p := range []Profile{User, Host, Service} {
		if err := c.lint(lintDraft(t, c, p), lintNow); err != nil {
			t.Fatalf("%s: %v", p, err)
		}
	}
	otherURI, err := url.Parse("threshold://other.example.com/user/corp/1")
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name    string
		profile Profile
		change  func(*draft)
		want    string // part of the error
	}{
		{"nothing to sign", User, func(d *draft) { d.ssh, d.x509 = nil, nil }, "nothing"},
		{"no encoded identity", User, func(d *draft) { d.encoded = nil }, "0 bytes"},
		{
			"an oversize identity", User,
			func(d *draft) { d.encoded = make([]byte, identity.MaxBytes+1) }, "4097",
		},
		{
			"an SSH certificate as key", User,
			func(d *draft) { d.ssh.Key = &ssh.Certificate{} }, "a certificate where",
		},
		{"no SSH serial", User, func(d *draft) { d.ssh.Serial = 0 }, "serial"},
		{"no key id", User, func(d *draft) { d.ssh.KeyId = "" }, "key id"},
		{"reserved bytes", Host, func(d *draft) { d.ssh.Reserved = []byte{1} }, "reserved"},
		{
			"an SSH end other than the draft's", User,
			func(d *draft) { d.ssh.ValidBefore++ }, "not what was decided",
		},
		{
			"an SSH certificate without end", Host,
			func(d *draft) { d.ssh.ValidBefore = ssh.CertTimeInfinity }, "not what was decided",
		},
		{
			"an X.509 end other than the draft's", User,
			func(d *draft) { d.x509.NotAfter = d.x509.NotAfter.Add(time.Second) }, "not what was decided",
		},
		{
			"back-dating", Service,
			func(d *draft) { d.from = d.from.Add(-2 * time.Second); d.x509.NotBefore = d.from }, "valid from",
		},
		{
			"post-dating", Service,
			func(d *draft) { d.from = lintNow.Add(time.Second); d.x509.NotBefore = d.from }, "valid from",
		},
		{
			"a lifetime over the maximum", Service,
			func(d *draft) { d.until = lintNow.Add(24*time.Hour + 1); d.x509.NotAfter = d.until },
			"valid until",
		},
		{
			"a lifetime that has ended", Service,
			func(d *draft) { d.until = lintNow; d.x509.NotAfter = d.until }, "valid until",
		},
		{"no principals", User, func(d *draft) { d.ssh.ValidPrincipals = nil }, "0 principals"},
		{"a host without principals", Host, func(d *draft) { d.ssh.ValidPrincipals = nil }, "0 principals"},
		{
			"a wildcard principal", User,
			func(d *draft) { d.ssh.ValidPrincipals = []string{"alice", "*"} }, "login",
		},
		{"a wildcard host", Host, func(d *draft) { d.ssh.ValidPrincipals = []string{"*"} }, "host name"},
		{"a host certificate for a user", User, func(d *draft) { d.ssh.CertType = ssh.HostCert }, "type"},
		{"a user certificate for a host", Host, func(d *draft) { d.ssh.CertType = ssh.UserCert }, "type"},
		{
			"an option of a host", Host,
			func(d *draft) { d.ssh.CriticalOptions = map[string]string{"source-address": "0.0.0.0/0"} },
			"options",
		},
		{
			"an extension of a host", Host,
			func(d *draft) { d.ssh.Extensions = map[string]string{"permit-pty": ""} }, "extensions",
		},
		{"no source addresses", User, func(d *draft) { d.ssh.CriticalOptions = nil }, "source addresses"},
		{
			"wider source addresses", User,
			func(d *draft) { d.ssh.CriticalOptions["source-address"] = "0.0.0.0/0" }, "source addresses",
		},
		{
			"a second option", User,
			func(d *draft) { d.ssh.CriticalOptions["force-command"] = "true" }, "source addresses",
		},
		{"an unknown extension", User, func(d *draft) { d.ssh.Extensions["x"] = "" }, `extension "x"`},
		{
			"an extension with a value", User,
			func(d *draft) { d.ssh.Extensions["permit-pty"] = "x" }, "permit-pty",
		},
		{
			"another identity in SSH", User,
			func(d *draft) { d.ssh.Extensions[identity.SSHExtension] = "{}" }, "identity",
		},
		{
			"no identity in SSH", User,
			func(d *draft) { delete(d.ssh.Extensions, identity.SSHExtension) }, "identity",
		},
		{
			"an X.509 key of an unknown type", User,
			func(d *draft) { d.x509.PublicKey = "x" }, "not accepted",
		},
		{"no X.509 serial", User, func(d *draft) { d.x509.SerialNumber.SetInt64(0) }, "serial"},
		{"an authority", User, func(d *draft) { d.x509.IsCA = true }, "basic constraints"},
		{
			"no basic constraints", User,
			func(d *draft) { d.x509.BasicConstraintsValid = false }, "basic constraints",
		},
		{
			"a key that may sign certificates", Service,
			func(d *draft) { d.x509.KeyUsage |= x509.KeyUsageCertSign }, "key usages",
		},
		{"a user as server", User, func(d *draft) { d.x509.ExtKeyUsage = usages(Service) }, "key usages"},
		{
			"any key usage", Service,
			func(d *draft) { d.x509.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageAny} }, "key usages",
		},
		{
			"an additional key usage", Service,
			func(d *draft) { d.x509.UnknownExtKeyUsage = []asn1.ObjectIdentifier{identity.X509Extension} },
			"key usages",
		},
		{"another URI", User, func(d *draft) { d.x509.URIs[0] = otherURI }, "URI"},
		{"two URIs", User, func(d *draft) { d.x509.URIs = append(d.x509.URIs, otherURI) }, "URI"},
		{"no URI", Service, func(d *draft) { d.x509.URIs = nil }, "URI"},
		{
			"two identities", Service,
			func(d *draft) { d.x509.ExtraExtensions = slices.Repeat(d.x509.ExtraExtensions, 2) },
			"private extension",
		},
		{"another extension", Service, func(d *draft) {
			d.x509.ExtraExtensions = []pkix.Extension{{Id: []int{2, 5, 29, 19}, Value: d.encoded}}
		}, "private extension"},
		{"a mailbox", User, func(d *draft) { d.x509.EmailAddresses = []string{"a@example.com"} }, "names"},
		{"a host name for a user", User, func(d *draft) { d.x509.DNSNames = []string{"web-1"} }, "names"},
		{
			"an address for a user", User,
			func(d *draft) { d.x509.IPAddresses = []net.IP{net.IPv6loopback} }, "names",
		},
		{
			"a wildcard for a service", Service,
			func(d *draft) { d.x509.DNSNames = []string{"*.example.com"} }, "host name",
		},
	} {
		d := lintDraft(t, c, tc.profile)
		tc.change(d)
		if err := c.lint(d, lintNow); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: got %v, want a refusal that says %q", tc.name, err, tc.want)
		}
	}
}

// smallstep's name policy refuses foreign names even in a draft that lint did not see.
func TestNamePolicyChecksUserNamesIndependently(t *testing.T) {
	t.Parallel()
	c := lintCA(t)
	for name, change := range map[string]func(*draft){
		"another cluster's URI": func(d *draft) { d.x509.URIs[0].Host = "other.example.com" },
		"a host name":           func(d *draft) { d.x509.DNSNames = []string{"web-1"} },
		"an address":            func(d *draft) { d.x509.IPAddresses = []net.IP{net.IPv6loopback} },
		"a mailbox":             func(d *draft) { d.x509.EmailAddresses = []string{"a@example.com"} },
		"a mailbox in SSH":      func(d *draft) { d.ssh.ValidPrincipals = []string{"alice@example.com"} },
	} {
		d := lintDraft(t, c, User)
		if err := c.namePolicy.check(d); err != nil {
			t.Fatal(err)
		}
		change(d)
		if err := c.namePolicy.check(d); err == nil {
			t.Errorf("%s: got it allowed, want the policy to refuse it", name)
		}
	}
}

// Names of clusters that look unusual to the name policy must not keep their users from certificates.
func TestNamePolicyAcceptsClustersWithOneLabel(t *testing.T) {
	t.Parallel()
	for _, cluster := range []string{"demo", "access.example.com", "xn--bcher-kva.example"} {
		c, err := New(Config{
			Cluster: cluster,
			Keys:    keyringtest.New(t, cluster, lintNow),
			Now:     func() time.Time { return lintNow },
		})
		if err != nil {
			t.Errorf("%s: %v", cluster, err)
			continue
		}
		pub, _, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		id := identity.Identity{
			Kind:      identity.User,
			Profile:   identity.UserProfile,
			Cluster:   cluster,
			Name:      "alice",
			Connector: "corp",
			Subject:   "1",
			LoginID:   "l",
		}
		if _, err := c.Prepare(Request{Profile: User, Identity: id, X509Key: pub}); err != nil {
			t.Errorf("%s: %v", cluster, err)
		}
	}
}
