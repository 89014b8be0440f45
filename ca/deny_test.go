package ca_test

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"math/big"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/ca"
	"github.com/threshold-access/threshold/ca/keyring/keyringtest"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

func rsaKey(t testing.TB, bits int) *rsa.PublicKey {
	t.Helper()
	k, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return &k.PublicKey
}

func logins(l ...identity.Login) func(*ca.Request) { return func(r *ca.Request) { r.Logins = l } }
func names(n ...string) func(*ca.Request)          { return func(r *ca.Request) { r.Names = n } }
func ttl(d time.Duration) func(*ca.Request)        { return func(r *ca.Request) { r.TTL = d } }
func notAfter(at time.Time) func(*ca.Request)      { return func(r *ca.Request) { r.NotAfter = at } }

func editIdentity(f func(id *identity.Identity)) func(*ca.Request) {
	return func(r *ca.Request) { f(&r.Identity) }
}

func sourceAddresses(p ...string) func(*ca.Request) {
	return func(r *ca.Request) {
		for _, s := range p {
			r.SourceAddress = append(r.SourceAddress, netip.MustParsePrefix(s))
		}
	}
}

// certificateAsKey is a certificate in the place of a key.
func certificateAsKey(t testing.TB) ssh.PublicKey {
	return newFixture(t).issue(t, userRequest(t)).SSH
}

func TestIssueRefuses(t *testing.T) {
	w := newFixture(t)
	small := rsaKey(t, 2048)
	p521, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	asCert := certificateAsKey(t)
	p := w.keys.Public()
	for _, tc := range []struct {
		name   string
		base   func(testing.TB) ca.Request
		change func(r *ca.Request)
		kind   fault.Kind
		want   string // part of the message
	}{
		{"no profile", userRequest, func(r *ca.Request) { r.Profile = "" }, fault.Invalid, "profile"},
		{"an unknown profile", userRequest, func(r *ca.Request) { r.Profile = "session" }, fault.Invalid, "profile"},
		{"nothing at all", userRequest, func(r *ca.Request) { *r = ca.Request{} }, fault.Invalid, "profile"},
		{"no identity", userRequest, func(r *ca.Request) { r.Identity = identity.Identity{} }, fault.Invalid, "cannot have"},
		{"a node as a user", userRequest, func(r *ca.Request) { r.Identity = machine(identity.Node, "web-1") }, fault.Invalid, "cannot have"},
		{"a user as a service", serviceRequest, func(r *ca.Request) { r.Identity = alice() }, fault.Invalid, "cannot have"},
		{"a user as a host", hostRequest, func(r *ca.Request) { r.Identity = alice() }, fault.Invalid, "cannot have"},
		{"auth as an SSH host", hostRequest, editIdentity(func(id *identity.Identity) { id.Kind = identity.Auth }), fault.Invalid, "cannot have"},
		{"another cluster", userRequest, editIdentity(func(id *identity.Identity) { id.Cluster = "other.example.com" }), fault.Invalid, "other.example.com"},
		{"another cluster's node", hostRequest, editIdentity(func(id *identity.Identity) { id.Cluster = "other.example.com" }), fault.Invalid, "other.example.com"},
		{"a user without subject", userRequest, editIdentity(func(id *identity.Identity) { id.Subject = "" }), fault.Invalid, "subject"},
		{"a user without login id", userRequest, editIdentity(func(id *identity.Identity) { id.LoginID = "" }), fault.Invalid, "login id"},
		{"a user with a machine's id", userRequest, editIdentity(func(id *identity.Identity) { id.ID = machine(identity.Node, "x").ID }), fault.Invalid, "machine's"},
		{"a name with an escape sequence", userRequest, editIdentity(func(id *identity.Identity) { id.Name = "a\x1b[2J" }), fault.Invalid, "user name"},
		{"a name that turns the writing direction", userRequest, editIdentity(func(id *identity.Identity) { id.Name = "a\u202eb" }), fault.Invalid, "user name"},
		{"an identity over 4 KiB", userRequest, editIdentity(func(id *identity.Identity) {
			id.Traits = identity.Traits{"t": slices.Repeat([]string{strings.Repeat("x", 500)}, 9)}
		}), fault.Invalid, "4096"},

		{"no key", userRequest, func(r *ca.Request) { r.SSHKey, r.X509Key = nil, nil }, fault.Invalid, "no key"},
		{"a certificate as SSH key", userRequest, func(r *ca.Request) { r.SSHKey = asCert }, fault.Invalid, "certificate stands where"},
		{"a certificate as host key", hostRequest, func(r *ca.Request) { r.SSHKey = asCert }, fault.Invalid, "certificate stands where"},
		{"a short RSA SSH key", userRequest, func(r *ca.Request) { r.SSHKey = sshOf(t, small) }, fault.Invalid, "3072"},
		{"a short RSA X.509 key", userRequest, func(r *ca.Request) { r.X509Key = small }, fault.Invalid, "3072"},
		{"an RSA key that only costs time", userRequest, func(r *ca.Request) {
			r.X509Key = &rsa.PublicKey{N: new(big.Int).Add(new(big.Int).Lsh(big.NewInt(1), 16383), big.NewInt(1)), E: 65537}
		}, fault.Invalid, "8192"},
		{"an RSA key with exponent 3", userRequest, func(r *ca.Request) { r.X509Key = &rsa.PublicKey{N: rsaModulus, E: 3} }, fault.Invalid, "exponent"},
		{"a P-521 SSH key", userRequest, func(r *ca.Request) { r.SSHKey = sshOf(t, &p521.PublicKey) }, fault.Invalid, "not accepted"},
		{"a P-521 X.509 key", userRequest, func(r *ca.Request) { r.X509Key = &p521.PublicKey }, fault.Invalid, "P-256"},
		{"a point off its curve", userRequest, func(r *ca.Request) {
			//lint:ignore SA1019 no other way makes a key that is invalid
			r.X509Key = &ecdsa.PublicKey{Curve: elliptic.P256(), X: big.NewInt(1), Y: big.NewInt(1)}
		}, fault.Invalid, "no point"},
		{"a private key as key", userRequest, func(r *ca.Request) { r.X509Key = p521 }, fault.Invalid, "not accepted"},
		{"an Ed25519 key of the wrong size", userRequest, func(r *ca.Request) { r.X509Key = ed25519.PublicKey("short") }, fault.Invalid, "not accepted"},
		{"a nil key with a type", userRequest, func(r *ca.Request) { r.X509Key = (*rsa.PublicKey)(nil) }, fault.Invalid, "RSA"},
		{"the user authority as SSH key", userRequest, func(r *ca.Request) { r.SSHKey = p.UserSSH[0] }, fault.Invalid, "own authorities"},
		{"the rules key as SSH key", userRequest, func(r *ca.Request) { r.SSHKey = sshOf(t, p.Rules[0]) }, fault.Invalid, "own authorities"},
		{"the host authority as host key", hostRequest, func(r *ca.Request) { r.SSHKey = p.HostSSH[0] }, fault.Invalid, "own authorities"},
		{"the cluster root as X.509 key", serviceRequest, func(r *ca.Request) { r.X509Key = p.Root.PublicKey }, fault.Invalid, "own authorities"},
		{"the service authority as X.509 key", userRequest, func(r *ca.Request) { r.X509Key = p.ServiceX509[0].PublicKey }, fault.Invalid, "own authorities"},
		{"an X.509 key for a host", hostRequest, func(r *ca.Request) { r.X509Key = p256(t) }, fault.Invalid, "no X.509"},
		{"an SSH key for a service", serviceRequest, func(r *ca.Request) { r.SSHKey = sshKey(t) }, fault.Invalid, "no SSH"},

		{"no login and no X.509 key", userRequest, func(r *ca.Request) { r.Logins, r.X509Key = nil, nil }, fault.Invalid, "no login"},
		{"a wildcard login", userRequest, logins("*"), fault.Invalid, "login"},
		{"an empty login", userRequest, logins(""), fault.Invalid, "login"},
		{"a comma in a login", userRequest, logins("alice,root"), fault.Invalid, "login"},
		{"white space in a login", userRequest, logins("alice root"), fault.Invalid, "login"},
		{"a new line behind a login", userRequest, logins("alice\n"), fault.Invalid, "login"},
		{"a tab in a login", userRequest, logins("a\tb"), fault.Invalid, "login"},
		{"NUL in a login", userRequest, logins("root\x00"), fault.Invalid, "login"},
		{"a look-alike in a login", userRequest, logins("r\u043eot"), fault.Invalid, "login"},
		{"a full-width login", userRequest, logins("ｒoot"), fault.Invalid, "login"},
		{"an invisible character in a login", userRequest, logins("root\u200b"), fault.Invalid, "login"},
		{"a bad login behind a good one", userRequest, logins("alice", "ro*t"), fault.Invalid, "login"},
		{"a bad login with X.509 alone", userRequest, func(r *ca.Request) { r.SSHKey, r.Logins = nil, []identity.Login{"*"} }, fault.Invalid, "login"},
		{"too many logins", userRequest, func(r *ca.Request) { r.Logins = make([]identity.Login, 257) }, fault.Invalid, "257"},
		{"host names for a user", userRequest, names("web-1"), fault.Invalid, "no host names"},
		{"logins for a host", hostRequest, logins("root"), fault.Invalid, "no logins"},
		{"logins for a service", serviceRequest, logins("root"), fault.Invalid, "no logins"},

		{"a host without names", hostRequest, names(), fault.Invalid, "at least one name"},
		{"a host under another's name", hostRequest, names("web-2"), fault.Invalid, "not a name of node"},
		{"a host with its own and another's name", hostRequest, names("web-1", "web-2"), fault.Invalid, "not a name of node"},
		{"a node under an address", hostRequest, names("192.0.2.1"), fault.Invalid, "not a name of node"},
		{"a node named like an address", hostRequest, func(r *ca.Request) { r.Identity.Name, r.Names = "192.0.2.1", []string{"192.0.2.1"} }, fault.Invalid, "host name"},
		{"a service under another node's name", serviceRequest, func(r *ca.Request) {
			r.Identity, r.Names = machine(identity.Node, "web-1"), []string{"proxy.example.com"}
		}, fault.Invalid, "not a name of node"},
		{"a wildcard name", serviceRequest, names("*.example.com"), fault.Invalid, "host name"},
		{"an empty name", serviceRequest, names(""), fault.Invalid, "host name"},
		{"an upper-case name", serviceRequest, names("Proxy.example.com"), fault.Invalid, "host name"},
		{"a name with a port", serviceRequest, names("proxy.example.com:443"), fault.Invalid, "host name"},
		{"a look-alike name", serviceRequest, names("pr\u043exy.example.com"), fault.Invalid, "host name"},
		{"NUL in a name", serviceRequest, names("proxy.example.com\x00.evil.com"), fault.Invalid, "host name"},
		{"a comma in a name", serviceRequest, names("a,b"), fault.Invalid, "host name"},
		{"every address", serviceRequest, names("0.0.0.0"), fault.Invalid, "one host's address"},
		{"a mapped address", serviceRequest, names("::ffff:127.0.0.1"), fault.Invalid, "one host's address"},
		{"an address with a zone", serviceRequest, names("fe80::1%eth0"), fault.Invalid, "one host's address"},
		{"a long form of an address", serviceRequest, names("0:0:0:0:0:0:0:1"), fault.Invalid, "one host's address"},
		{"too many names", serviceRequest, func(r *ca.Request) { r.Names = slices.Repeat([]string{"a"}, 65) }, fault.Invalid, "65"},

		{"an unknown extension", userRequest, func(r *ca.Request) { r.Extensions = []string{"permit-everything"} }, fault.Invalid, "permit-everything"},
		{"the identity as an extension", userRequest, func(r *ca.Request) { r.Extensions = []string{identity.SSHExtension} }, fault.Invalid, "not known"},
		{"an extension that waives touch", userRequest, func(r *ca.Request) { r.Extensions = []string{"no-touch-required"} }, fault.Invalid, "not known"},
		{"extensions for a host", hostRequest, func(r *ca.Request) { r.Extensions = []string{"permit-pty"} }, fault.Invalid, "neither"},
		{"pins for a host", hostRequest, sourceAddresses("192.0.2.0/24"), fault.Invalid, "neither"},
		{"pins for a service", serviceRequest, sourceAddresses("192.0.2.0/24"), fault.Invalid, "neither"},
		{"a pin that is no network", userRequest, sourceAddresses("192.0.2.1/24"), fault.Invalid, "not a network"},
		{"a pin to a mapped network", userRequest, sourceAddresses("::ffff:192.0.2.0/120"), fault.Invalid, "not a network"},
		{"a pin to nothing", userRequest, func(r *ca.Request) { r.SourceAddress = make([]netip.Prefix, 1) }, fault.Invalid, "not a network"},
		{"too many pins", userRequest, func(r *ca.Request) { r.SourceAddress = make([]netip.Prefix, 65) }, fault.Invalid, "65"},

		{"a life of nothing less", userRequest, ttl(-time.Second), fault.Invalid, "negative"},
		{"a life over the cap", userRequest, ttl(24*time.Hour + time.Second), fault.Invalid, "24h"},
		{"a host's life over the cap", hostRequest, ttl(24*time.Hour + time.Second), fault.Invalid, "24h"},
		{"a service's life over the cap", serviceRequest, ttl(25 * time.Hour), fault.Invalid, "24h"},
		{"a life that overflows", userRequest, ttl(1<<63 - 1), fault.Invalid, "24h"},
		{"a life over the cap behind an earlier end", userRequest, func(r *ca.Request) { r.TTL, r.NotAfter = 25*time.Hour, testNow.Add(time.Hour) }, fault.Invalid, "24h"},
		{"an end over the cap", userRequest, notAfter(testNow.Add(24*time.Hour + time.Second)), fault.Invalid, "24h"},
		{"an end in a hundred years", serviceRequest, notAfter(testNow.AddDate(100, 0, 0)), fault.Invalid, "24h"},
		{"an end that has passed", userRequest, notAfter(testNow.Add(-time.Second)), fault.Expired, "ended already"},
		{"an end now", userRequest, notAfter(testNow), fault.Expired, "ended already"},
		{"a life of less than a second", userRequest, ttl(time.Millisecond), fault.Expired, "ended already"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := tc.base(t)
			tc.change(&r)
			out, err := w.ca.Issue(t.Context(), r)
			if !fault.Is(err, tc.kind) || fault.Remedy(err) == "" ||
				!strings.Contains(fmt.Sprint(err), tc.want) {
				t.Errorf(
					"got %v (remedy %q), want a fault of kind %s that says %q",
					err,
					fault.Remedy(err),
					tc.kind,
					tc.want,
				)
			}
			if out.SSH != nil || out.X509 != nil || out.Chain != nil {
				t.Error("got a certificate beside the refusal, want none")
			}
		})
	}
	if len(w.records) != 0 {
		t.Errorf("got %d records of refused requests, want none", len(w.records))
	}
}

// rsaModulus is odd and of 3072 bits; nobody needs to sign with it.
var rsaModulus = new(big.Int).Add(new(big.Int).Lsh(big.NewInt(1), 3071), big.NewInt(1))

func TestIssueAcceptsTheLimits(t *testing.T) {
	w := newFixture(t)
	many := make([]identity.Login, 256)
	for i := range many {
		many[i] = identity.Login(fmt.Sprintf("u%d", i))
	}
	for _, tc := range []struct {
		name   string
		base   func(testing.TB) ca.Request
		change func(r *ca.Request)
		until  time.Time
	}{
		{"a day", userRequest, ttl(24 * time.Hour), testNow.Add(24 * time.Hour)},
		{"a second", userRequest, ttl(time.Second), testNow.Add(time.Second)},
		{"an end in a day", userRequest, notAfter(testNow.Add(24 * time.Hour)), testNow.Add(24 * time.Hour)},
		{"the earlier of life and end", userRequest, func(r *ca.Request) { r.TTL, r.NotAfter = 2*time.Hour, testNow.Add(time.Hour) }, testNow.Add(time.Hour)},
		{"the earlier of end and life", userRequest, func(r *ca.Request) { r.TTL, r.NotAfter = time.Hour, testNow.Add(2*time.Hour) }, testNow.Add(time.Hour)},
		{"an end with a fraction is cut, not rounded up", userRequest, notAfter(testNow.Add(time.Hour + 900*time.Millisecond)), testNow.Add(time.Hour)},
		{"256 logins", userRequest, logins(many...), testNow.Add(8 * time.Hour)},
		{"a login twice", userRequest, logins("alice", "alice"), testNow.Add(8 * time.Hour)},
		{"RSA of 3072 bits", userRequest, func(r *ca.Request) { k := rsaKey(t, 3072); r.SSHKey, r.X509Key = sshOf(t, k), k }, testNow.Add(8 * time.Hour)},
		{"SSH alone", userRequest, func(r *ca.Request) { r.X509Key = nil }, testNow.Add(8 * time.Hour)},
		{"X.509 alone", userRequest, func(r *ca.Request) { r.SSHKey = nil }, testNow.Add(8 * time.Hour)},
		{"every known extension", userRequest, func(r *ca.Request) {
			r.Extensions = []string{"permit-pty", "permit-port-forwarding", "permit-agent-forwarding", "permit-X11-forwarding", "permit-user-rc", "permit-pty"}
		}, testNow.Add(8 * time.Hour)},
		{"a proxy as SSH host under its addresses", hostRequest, func(r *ca.Request) {
			r.Identity, r.Names = machine(identity.Proxy, "proxy-1"), []string{"proxy.example.com", "127.0.0.1", "::1"}
		}, testNow.Add(24 * time.Hour)},
		{"a host under its id", hostRequest, names("0123456789abcdef0123456789abcdef", "0123456789abcdef0123456789abcdef."+cluster), testNow.Add(24 * time.Hour)},
		{"a service without names", serviceRequest, names(), testNow.Add(24 * time.Hour)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := tc.base(t)
			tc.change(&r)
			out := w.issue(t, r)
			if out.SSH != nil && out.SSH.ValidBefore != uint64(tc.until.Unix()) {
				t.Errorf("got an SSH end at %d, want %d", out.SSH.ValidBefore, tc.until.Unix())
			}
			if out.X509 != nil && !out.X509.NotAfter.Equal(tc.until) {
				t.Errorf("got an X.509 end at %s, want %s", out.X509.NotAfter, tc.until)
			}
			if from := testNow.Add(-identity.Skew); !out.Record.NotBefore.Equal(from) ||
				!out.Record.Identity.Expires.Equal(tc.until) {
				t.Errorf(
					"got a record from %s until %s, want %s and %s",
					out.Record.NotBefore,
					out.Record.Identity.Expires,
					from,
					tc.until,
				)
			}
		})
	}
}

func TestIssueBindsCertificatesToSourceAddresses(t *testing.T) {
	w, r := newFixture(t), userRequest(t)
	sourceAddresses("192.0.2.0/24", "2001:db8::/32")(&r)
	out := w.issue(t, r)
	authorities := w.keys.Public().UserSSH
	if _, err := identity.VerifySSHUser(out.SSH, cluster, authorities, loopback, testNow); err == nil {
		t.Error("SSH: got it accepted from elsewhere, want a refusal")
	}
	there := netip.MustParseAddrPort("192.0.2.77:1")
	if _, err := identity.VerifySSHUser(out.SSH, cluster, authorities, addr{there}, testNow); err != nil {
		t.Errorf("SSH: %v", err)
	}
	p, err := identity.VerifyX509(
		out.Chain,
		cluster,
		pool(w.keys.Public().UserX509...),
		clientAuth,
		testNow,
		identity.User,
	)
	if err != nil {
		t.Fatal(err)
	}
	if p.CheckSourceAddress(loopback) == nil || p.CheckSourceAddress(addr{there}) != nil {
		t.Errorf("X.509: got pins %v, want those of the SSH certificate", p.SourceAddresses)
	}
}

// addr is a TCP address of the tests.
type addr struct{ netip.AddrPort }

func (addr) Network() string { return "tcp" }

func TestRequestCannotSetExpiryOrSourceAddressesOfTheIdentity(t *testing.T) {
	w, r := newFixture(t), userRequest(t)
	r.Identity.Expires = testNow.AddDate(10, 0, 0)
	r.Identity.SourceAddresses = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	r.Identity.V = 77
	out := w.issue(t, r)
	if id := out.Record.Identity; !id.Expires.Equal(testNow.Add(8*time.Hour)) || id.SourceAddresses != nil ||
		id.V != identity.Version {
		t.Errorf("got %+v, want end, pins and version set by the CA", id)
	}
}

func TestUnrecordedCertificatesAreNotReleased(t *testing.T) {
	w := newFixture(t)
	w.fail = errors.New("the log is full")
	for _, r := range []ca.Request{userRequest(t), hostRequest(t), serviceRequest(t)} {
		out, err := w.ca.Issue(t.Context(), r)
		if !fault.Is(err, fault.Unavailable) || !errors.Is(err, w.fail) || fault.Remedy(err) == "" {
			t.Errorf("%s: got %v, want a fault Unavailable with the recorder's error inside", r.Profile, err)
		}
		if out.SSH != nil || out.X509 != nil || out.Chain != nil || out.Record.Serial != 0 {
			t.Errorf("%s: got %+v, want nothing released", r.Profile, out)
		}
	}
}

func TestClockGoneBackwardsStopsIssuing(t *testing.T) {
	w := newFixture(t)
	w.issue(t, userRequest(t))
	for _, tc := range []struct {
		name string
		now  time.Time
		good bool
	}{
		{"a little, as clocks do", testNow.Add(-identity.Skew), true},
		{"more than the skew", testNow.Add(-identity.Skew - time.Second), false},
		{"before the cluster was born", createdAt.Add(-time.Hour), false},
		{"to the epoch", time.Unix(0, 0), false},
		{"right again", testNow.Add(time.Second), true},
	} {
		w.setClock(tc.now)
		_, err := w.ca.Issue(t.Context(), userRequest(t))
		if (err == nil) != tc.good {
			t.Errorf("%s: got %v, want issued: %v", tc.name, err, tc.good)
		}
		if err != nil &&
			(!fault.Is(err, fault.Unavailable) || !strings.Contains(fault.Message(err), "clock")) {
			t.Errorf("%s: got %v, want a fault that speaks of the clock", tc.name, err)
		}
	}
}

func TestCertificateNeverOutlivesItsAuthority(t *testing.T) {
	w := newFixture(t)
	w.setClock(createdAt.AddDate(10, 0, 0).Add(-time.Hour))
	for _, r := range []ca.Request{userRequest(t), serviceRequest(t)} {
		if _, err := w.ca.Issue(t.Context(), r); err == nil || !strings.Contains(err.Error(), "outlive") {
			t.Errorf("%s: got %v, want a refusal to outlive the authority", r.Profile, err)
		}
	}
}

func TestConcurrentIssuesAreDistinctAndRecorded(t *testing.T) {
	w := newFixture(t)
	const n = 32
	requests := make([]ca.Request, n)
	for i := range requests {
		requests[i] = []func(testing.TB) ca.Request{userRequest, hostRequest, serviceRequest}[i%3](t)
	}
	var wg sync.WaitGroup
	for _, r := range requests {
		wg.Go(func() {
			if _, err := w.ca.Issue(t.Context(), r); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	seen := map[identity.Serial]bool{}
	for _, r := range w.records {
		if r.Serial == 0 || seen[r.Serial] {
			t.Errorf("got serial %d twice or zero, want each its own", r.Serial)
		}
		seen[r.Serial] = true
	}
	if len(seen) != n {
		t.Errorf("got %d records, want %d", len(seen), n)
	}
}

func TestNewRefusesAnIncompleteOrForeignConfig(t *testing.T) {
	keys := keyringtest.New(t, cluster, createdAt)
	for name, cfg := range map[string]ca.Config{
		"nothing":         {},
		"no recorder":     {Cluster: cluster, Keys: keys},
		"no keys":         {Cluster: cluster, Recorder: &fixture{}},
		"another cluster": {Cluster: "other.example.com", Keys: keys, Recorder: &fixture{}},
	} {
		if c, err := ca.New(cfg); err == nil || fault.Remedy(err) == "" {
			t.Errorf("%s: got %v, %v, want a fault with a remedy", name, c, err)
		}
	}
}
