package ca_test

import (
	"context"
	"crypto"
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

func useSSHKey(k ssh.PublicKey) func(*ca.Request)     { return func(r *ca.Request) { r.SSHKey = k } }
func useX509Key(k crypto.PublicKey) func(*ca.Request) { return func(r *ca.Request) { r.X509Key = k } }
func extensions(e ...string) func(*ca.Request)        { return func(r *ca.Request) { r.Extensions = e } }

func useKeyForBoth(t testing.TB, k crypto.PublicKey) func(*ca.Request) {
	return func(r *ca.Request) { r.SSHKey, r.X509Key = sshOf(t, k), k }
}

// ttlAndEnd sets a lifetime and an end, which is so long after testNow.
func ttlAndEnd(ttl, end time.Duration) func(*ca.Request) {
	return func(r *ca.Request) { r.TTL, r.NotAfter = ttl, testNow.Add(end) }
}

func useIdentity(id identity.Identity) func(*ca.Request) {
	return func(r *ca.Request) { r.Identity = id }
}

func inCluster(name string) func(*ca.Request) {
	return func(r *ca.Request) { r.Identity.Cluster = name }
}

// certificateAsKey is a certificate in the place of a key.
func certificateAsKey(t testing.TB) ssh.PublicKey {
	return newFixture(t).issue(t, userRequest(t)).SSH
}

// Each case changes one thing of a good request (base). The request is refused with a fault whose message
// says what is wrong; nothing is signed or recorded.
func TestIssueRefuses(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	small := rsaKey(t, 2048)
	p521, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	asCert := certificateAsKey(t)
	p := f.keys.Public()
	for _, tc := range []struct {
		name   string
		base   func(testing.TB) ca.Request
		change func(*ca.Request)
		want   string // part of the message
	}{
		{"no profile", userRequest, func(r *ca.Request) { r.Profile = "" }, "profile"},
		{"an unknown profile", userRequest, func(r *ca.Request) { r.Profile = "session" }, "profile"},
		{"an empty request", userRequest, func(r *ca.Request) { *r = ca.Request{} }, "profile"},
		{"no identity", userRequest, useIdentity(identity.Identity{}), "cannot have"},
		{"a node as a user", userRequest, useIdentity(machine(identity.Node, "web-1")), "cannot have"},
		{"a user as a service", serviceRequest, useIdentity(alice()), "cannot have"},
		{"a user as a host", hostRequest, useIdentity(alice()), "cannot have"},
		{
			"auth as an SSH host", hostRequest,
			editIdentity(func(id *identity.Identity) { id.Kind = identity.Auth }), "cannot have",
		},
		{"another cluster", userRequest, inCluster("other.example.com"), "other.example.com"},
		{"another cluster's node", hostRequest, inCluster("other.example.com"), "other.example.com"},
		{
			"a user without subject", userRequest,
			editIdentity(func(id *identity.Identity) { id.Subject = "" }), "subject",
		},
		{
			"a user without login id", userRequest,
			editIdentity(func(id *identity.Identity) { id.LoginID = "" }), "login id",
		},
		{
			"a user with a machine's id", userRequest,
			editIdentity(func(id *identity.Identity) { id.ID = machine(identity.Node, "x").ID }), "machine's",
		},
		{
			"a name with an escape sequence", userRequest,
			editIdentity(func(id *identity.Identity) { id.Name = "a\x1b[2J" }), "user name",
		},
		{
			"a name that changes the writing direction", userRequest,
			editIdentity(func(id *identity.Identity) { id.Name = "a\u202eb" }), "user name",
		},
		{"an identity over 4 KiB", userRequest, editIdentity(func(id *identity.Identity) {
			id.Traits = identity.Traits{"t": slices.Repeat([]string{strings.Repeat("x", 500)}, 9)}
		}), "4096"},

		{"no key", userRequest, func(r *ca.Request) { r.SSHKey, r.X509Key = nil, nil }, "no key"},
		{"a certificate as SSH key", userRequest, useSSHKey(asCert), "a certificate where"},
		{"a certificate as host key", hostRequest, useSSHKey(asCert), "a certificate where"},
		{"a short RSA SSH key", userRequest, useSSHKey(sshOf(t, small)), "3072"},
		{"a short RSA X.509 key", userRequest, useX509Key(small), "3072"},
		{"an RSA key that is too long", userRequest, func(r *ca.Request) {
			r.X509Key = &rsa.PublicKey{N: oddModulus(16384), E: 65537}
		}, "8192"},
		{
			"an RSA key with exponent 3", userRequest,
			useX509Key(&rsa.PublicKey{N: oddModulus(3072), E: 3}), "exponent",
		},
		{"a P-521 SSH key", userRequest, useSSHKey(sshOf(t, &p521.PublicKey)), "not accepted"},
		{"a P-521 X.509 key", userRequest, useX509Key(&p521.PublicKey), "P-256"},
		{"a point that is not on its curve", userRequest, func(r *ca.Request) {
			//lint:ignore SA1019 no other way makes a key that is invalid
			r.X509Key = &ecdsa.PublicKey{Curve: elliptic.P256(), X: big.NewInt(1), Y: big.NewInt(1)}
		}, "not a point"},
		{"a private key in place of a public key", userRequest, useX509Key(p521), "not accepted"},
		{
			"an Ed25519 key of the wrong size", userRequest,
			useX509Key(ed25519.PublicKey("short")), "32 bytes",
		},
		{"a nil key with a type", userRequest, useX509Key((*rsa.PublicKey)(nil)), "RSA"},
		{"the user authority as SSH key", userRequest, useSSHKey(p.UserSSH[0]), "own authorities"},
		{"the rules key as SSH key", userRequest, useSSHKey(sshOf(t, p.Rules[0])), "own authorities"},
		{"the host authority as host key", hostRequest, useSSHKey(p.HostSSH[0]), "own authorities"},
		{"the cluster root as X.509 key", serviceRequest, useX509Key(p.Root.PublicKey), "own authorities"},
		{
			"the service authority as X.509 key", userRequest,
			useX509Key(p.ServiceX509[0].PublicKey), "own authorities",
		},
		{"an X.509 key for a host", hostRequest, useX509Key(p256(t)), "no X.509"},
		{"an SSH key for a service", serviceRequest, useSSHKey(sshKey(t)), "no SSH"},

		{
			"no login and no X.509 key", userRequest,
			func(r *ca.Request) { r.Logins, r.X509Key = nil, nil }, "no login",
		},
		{"a wildcard login", userRequest, logins("*"), "login"},
		{"an empty login", userRequest, logins(""), "login"},
		{"a comma in a login", userRequest, logins("alice,root"), "login"},
		{"white space in a login", userRequest, logins("alice root"), "login"},
		{"a login that ends with a newline", userRequest, logins("alice\n"), "login"},
		{"a tab in a login", userRequest, logins("a\tb"), "login"},
		{"NUL in a login", userRequest, logins("root\x00"), "login"},
		{"a look-alike in a login", userRequest, logins("r\u043eot"), "login"},
		{"a full-width login", userRequest, logins("ｒoot"), "login"},
		{"an invisible character in a login", userRequest, logins("root\u200b"), "login"},
		{"a bad login after a good one", userRequest, logins("alice", "ro*t"), "login"},
		{
			"a bad login without an SSH key", userRequest,
			func(r *ca.Request) { r.SSHKey, r.Logins = nil, []identity.Login{"*"} }, "login",
		},
		{
			"too many logins", userRequest,
			func(r *ca.Request) { r.Logins = make([]identity.Login, 257) }, "257",
		},
		{"host names for a user", userRequest, names("web-1"), "no host names"},
		{"logins for a host", hostRequest, logins("root"), "no logins"},
		{"logins for a service", serviceRequest, logins("root"), "no logins"},

		{"a host without names", hostRequest, names(), "needs a name"},
		{"a host with another host's name", hostRequest, names("web-2"), "not a name of node"},
		{
			"a host with its own and another's name", hostRequest,
			names("web-1", "web-2"), "not a name of node",
		},
		{"a node with an address as name", hostRequest, names("192.0.2.1"), "not a name of node"},
		{
			"a node named like an address", hostRequest,
			func(r *ca.Request) { r.Identity.Name, r.Names = "192.0.2.1", []string{"192.0.2.1"} },
			"host name",
		},
		{"a node's service certificate with a name that is not its own", serviceRequest, func(r *ca.Request) {
			r.Identity, r.Names = machine(identity.Node, "web-1"), []string{"proxy.example.com"}
		}, "not a name of node"},
		{"a wildcard name", serviceRequest, names("*.example.com"), "host name"},
		{"an empty name", serviceRequest, names(""), "host name"},
		{"an upper-case name", serviceRequest, names("Proxy.example.com"), "host name"},
		{"a name with a port", serviceRequest, names("proxy.example.com:443"), "host name"},
		{"a look-alike name", serviceRequest, names("pr\u043exy.example.com"), "host name"},
		{"NUL in a name", serviceRequest, names("proxy.example.com\x00.evil.com"), "host name"},
		{"a comma in a name", serviceRequest, names("a,b"), "host name"},
		{"the unspecified address", serviceRequest, names("0.0.0.0"), "one host's address"},
		{"a mapped address", serviceRequest, names("::ffff:127.0.0.1"), "one host's address"},
		{"an address with a zone", serviceRequest, names("fe80::1%eth0"), "one host's address"},
		{"a long form of an address", serviceRequest, names("0:0:0:0:0:0:0:1"), "one host's address"},
		{
			"too many names", serviceRequest,
			func(r *ca.Request) { r.Names = slices.Repeat([]string{"a"}, 65) }, "65",
		},

		{"an unknown extension", userRequest, extensions("permit-everything"), "permit-everything"},
		{"the identity as an extension", userRequest, extensions(identity.SSHExtension), "not known"},
		{"an extension that waives touch", userRequest, extensions("no-touch-required"), "not known"},
		{"extensions for a host", hostRequest, extensions("permit-pty"), "neither"},
		{"source addresses for a host", hostRequest, sourceAddresses("192.0.2.0/24"), "neither"},
		{"source addresses for a service", serviceRequest, sourceAddresses("192.0.2.0/24"), "neither"},
		{
			"a source address with host bits set", userRequest,
			sourceAddresses("192.0.2.1/24"), "not a network",
		},
		{
			"an IPv4-mapped source network", userRequest,
			sourceAddresses("::ffff:192.0.2.0/120"), "not a network",
		},
		{
			"an invalid source network", userRequest,
			func(r *ca.Request) { r.SourceAddress = make([]netip.Prefix, 1) }, "not a network",
		},
		{
			"too many source addresses", userRequest,
			func(r *ca.Request) { r.SourceAddress = make([]netip.Prefix, 65) }, "65",
		},

		{"a negative lifetime", userRequest, ttl(-time.Second), "negative"},
		{"a lifetime over the maximum", userRequest, ttl(24*time.Hour + time.Second), "24h"},
		{"a host's lifetime over the maximum", hostRequest, ttl(24*time.Hour + time.Second), "24h"},
		{"a service's lifetime over the maximum", serviceRequest, ttl(25 * time.Hour), "24h"},
		{"a lifetime that overflows", userRequest, ttl(1<<63 - 1), "24h"},
		{
			"a lifetime over the maximum with an earlier end", userRequest,
			ttlAndEnd(25*time.Hour, time.Hour), "24h",
		},
		{
			"an end over the maximum lifetime", userRequest,
			notAfter(testNow.Add(24*time.Hour + time.Second)), "24h",
		},
		{"an end in a hundred years", serviceRequest, notAfter(testNow.AddDate(100, 0, 0)), "24h"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := tc.base(t)
			tc.change(&r)
			wantRefused(t, f, r, fault.Invalid, tc.want)
		})
	}
	if len(f.records) != 0 {
		t.Errorf("got %d records of refused requests, want none", len(f.records))
	}
}

// wantRefused checks that the request gets a fault of the kind with a remedy, and no certificate.
func wantRefused(t *testing.T, f *fixture, r ca.Request, kind fault.Kind, want string) {
	t.Helper()
	out, err := f.tryIssue(t.Context(), r)
	if !fault.Is(err, kind) || fault.Remedy(err) == "" || !strings.Contains(fmt.Sprint(err), want) {
		t.Errorf("got %v (remedy %q), want a fault %s that says %q", err, fault.Remedy(err), kind, want)
	}
	if out.SSH != nil || out.X509 != nil || out.Chain != nil {
		t.Error("got a certificate beside the refusal, want none")
	}
}

func TestIssueRefusesCertificatesThatHaveExpired(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for name, change := range map[string]func(*ca.Request){
		"an end that has passed":           notAfter(testNow.Add(-time.Second)),
		"an end now":                       notAfter(testNow),
		"a lifetime of less than a second": ttl(time.Millisecond),
	} {
		t.Run(name, func(t *testing.T) {
			r := userRequest(t)
			change(&r)
			wantRefused(t, f, r, fault.Expired, "expired already")
		})
	}
	if len(f.records) != 0 {
		t.Errorf("got %d records of refused requests, want none", len(f.records))
	}
}

// oddModulus is an odd number with so many bits. Nobody can sign with it.
func oddModulus(bits uint) *big.Int {
	return new(big.Int).SetBit(big.NewInt(1), int(bits-1), 1)
}

// Each case is the largest or smallest that is allowed. It gets certificates that end when they should.
func TestIssueAcceptsTheLimits(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	const id = "0123456789abcdef0123456789abcdef"
	many := make([]identity.Login, 256)
	for i := range many {
		many[i] = identity.Login(fmt.Sprintf("u%d", i))
	}
	for _, tc := range []struct {
		name   string
		base   func(testing.TB) ca.Request
		change func(*ca.Request)
		want   time.Duration // lifetime from testNow on
	}{
		{"a day", userRequest, ttl(24 * time.Hour), 24 * time.Hour},
		{"a second", userRequest, ttl(time.Second), time.Second},
		{"an end in a day", userRequest, notAfter(testNow.Add(24 * time.Hour)), 24 * time.Hour},
		{
			"the end, which is before the lifetime", userRequest,
			ttlAndEnd(2*time.Hour, time.Hour), time.Hour,
		},
		{
			"the lifetime, which is before the end", userRequest,
			ttlAndEnd(time.Hour, 2*time.Hour), time.Hour,
		},
		{
			"an end with a fraction of a second is rounded down", userRequest,
			notAfter(testNow.Add(time.Hour + 900*time.Millisecond)), time.Hour,
		},
		{"256 logins", userRequest, logins(many...), 8 * time.Hour},
		{"a login given twice", userRequest, logins("alice", "alice"), 8 * time.Hour},
		{"RSA of 3072 bits", userRequest, useKeyForBoth(t, rsaKey(t, 3072)), 8 * time.Hour},
		{"SSH alone", userRequest, useX509Key(nil), 8 * time.Hour},
		{"X.509 alone", userRequest, useSSHKey(nil), 8 * time.Hour},
		{"every known extension, one twice", userRequest, extensions(
			"permit-pty",
			"permit-port-forwarding",
			"permit-agent-forwarding",
			"permit-X11-forwarding",
			"permit-user-rc",
			"permit-pty",
		), 8 * time.Hour},
		{"a proxy as SSH host with its addresses", hostRequest, func(r *ca.Request) {
			r.Identity = machine(identity.Proxy, "proxy-1")
			r.Names = []string{"proxy.example.com", "127.0.0.1", "::1"}
		}, 24 * time.Hour},
		{"a host with its id as name", hostRequest, names(id, id+"."+cluster), 24 * time.Hour},
		{"a service without names", serviceRequest, names(), 24 * time.Hour},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := tc.base(t)
			tc.change(&r)
			out, until := f.issue(t, r), testNow.Add(tc.want)
			if out.SSH != nil && out.SSH.ValidBefore != uint64(until.Unix()) {
				t.Errorf("got an SSH end at %d, want %d", out.SSH.ValidBefore, until.Unix())
			}
			if out.X509 != nil && !out.X509.NotAfter.Equal(until) {
				t.Errorf("got an X.509 end at %s, want %s", out.X509.NotAfter, until)
			}
			from, rec := testNow.Add(-identity.Skew), out.Record
			if !rec.NotBefore.Equal(from) || !rec.Identity.Expires.Equal(until) {
				const format = "got a record from %s until %s, want %s and %s"
				t.Errorf(format, rec.NotBefore, rec.Identity.Expires, from, until)
			}
		})
	}
}

// Source addresses are in both certificates: the SSH one as a critical option, the X.509 one in the identity.
func TestIssueBindsCertificatesToSourceAddresses(t *testing.T) {
	t.Parallel()
	f, r := newFixture(t), userRequest(t)
	sourceAddresses("192.0.2.0/24", "2001:db8::/32")(&r)
	out := f.issue(t, r)
	authorities := f.keys.Public().UserSSH
	if _, err := identity.VerifySSHUser(out.SSH, cluster, authorities, loopback, testNow); err == nil {
		t.Error("SSH: got it accepted from another address, want a refusal")
	}
	allowed := addr{netip.MustParseAddrPort("192.0.2.77:1")}
	if _, err := identity.VerifySSHUser(out.SSH, cluster, authorities, allowed, testNow); err != nil {
		t.Errorf("SSH: %v", err)
	}
	roots := pool(f.keys.Public().UserX509...)
	p, err := identity.VerifyX509(out.Chain, cluster, roots, clientAuth, testNow, identity.User)
	if err != nil {
		t.Fatal(err)
	}
	if p.CheckSourceAddress(loopback) == nil || p.CheckSourceAddress(allowed) != nil {
		t.Errorf("X.509: got source addresses %v, want those of the SSH certificate", p.SourceAddresses)
	}
}

// addr is a TCP address.
type addr struct{ netip.AddrPort }

func (addr) Network() string { return "tcp" }

func TestRequestCannotSetExpiryOrSourceAddressesOfTheIdentity(t *testing.T) {
	t.Parallel()
	f, r := newFixture(t), userRequest(t)
	r.Identity.Expires = testNow.AddDate(10, 0, 0)
	r.Identity.SourceAddresses = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	r.Identity.V = 77
	out := f.issue(t, r)
	if id := out.Record.Identity; !id.Expires.Equal(testNow.Add(8*time.Hour)) || id.SourceAddresses != nil ||
		id.V != identity.Version {
		t.Errorf("got %+v, want expiry, source addresses and version set by the CA", id)
	}
}

func TestUnrecordedCertificatesAreNotReleased(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.fail = errors.New("the log is full")
	for _, r := range []ca.Request{userRequest(t), hostRequest(t), serviceRequest(t)} {
		prepared, err := f.ca.Prepare(r)
		if err != nil {
			t.Fatal(err)
		}
		if out, err := prepared.Release(t.Context(), f.commit); !errors.Is(err, f.fail) || out != nil {
			t.Errorf("%s: got %+v and %v, want nothing but the error of the commit", r.Profile, out, err)
		}
		again := func(context.Context, []ca.Record) error { return nil }
		if out, err := prepared.Release(t.Context(), again); !fault.Is(err, fault.Internal) || out != nil {
			t.Errorf("%s: got %+v and %v for a second release, want it refused", r.Profile, out, err)
		}
	}
}

// The certificates of several requests are committed together. If one of them must not be signed, none is
// prepared.
func TestSeveralRequestsAreOneCommit(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	prepared, err := f.ca.Prepare(hostRequest(t), serviceRequest(t))
	if err != nil {
		t.Fatal(err)
	}
	commits := 0
	out, err := prepared.Release(t.Context(), func(_ context.Context, records []ca.Record) error {
		commits++
		if len(records) != 2 || records[0].Profile != ca.Host || records[1].Profile != ca.Service {
			t.Errorf("got records %+v, want one of each", records)
		}
		return nil
	})
	if err != nil || commits != 1 || len(out) != 2 || out[0].SSH == nil || out[1].X509 == nil {
		t.Errorf("got %+v, %d commits and %v, want both certificates by one", out, commits, err)
	}
	bad := serviceRequest(t)
	bad.TTL = 48 * time.Hour
	if prepared, err := f.ca.Prepare(hostRequest(t), bad); !fault.Is(err, fault.Invalid) || prepared != nil {
		t.Errorf("got %v and %v, want nothing prepared", prepared, err)
	}
}

// After an issuance the clock is set back and forth. The CA refuses to issue while the clock is more than
// identity.Skew before the last issuance.
func TestClockGoneBackwardsStopsIssuing(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.issue(t, userRequest(t))
	for _, tc := range []struct {
		name string
		now  time.Time
		good bool
	}{
		{"less than the skew", testNow.Add(-identity.Skew), true},
		{"more than the skew", testNow.Add(-identity.Skew - time.Second), false},
		{"before the cluster was created", createdAt.Add(-time.Hour), false},
		{"to the epoch", time.Unix(0, 0), false},
		{"a correct clock again", testNow.Add(time.Second), true},
	} {
		f.setClock(tc.now)
		_, err := f.tryIssue(t.Context(), userRequest(t))
		if (err == nil) != tc.good {
			t.Errorf("%s: got %v, want issued: %v", tc.name, err, tc.good)
		}
		if err != nil &&
			(!fault.Is(err, fault.Unavailable) || !strings.Contains(fault.Message(err), "clock")) {
			t.Errorf("%s: got %v, want a fault that mentions the clock", tc.name, err)
		}
	}
}

func TestCertificateNeverOutlivesItsAuthority(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.setClock(createdAt.AddDate(10, 0, 0).Add(-time.Hour))
	for _, r := range []ca.Request{userRequest(t), serviceRequest(t)} {
		if _, err := f.tryIssue(t.Context(), r); err == nil || !strings.Contains(err.Error(), "outlive") {
			t.Errorf("%s: got %v, want a refusal to outlive the authority", r.Profile, err)
		}
	}
}

// Of many concurrent issuances each has a serial and a record of its own.
func TestConcurrentIssuesAreDistinctAndRecorded(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	const n = 32
	requests := make([]ca.Request, n)
	for i := range requests {
		requests[i] = []func(testing.TB) ca.Request{userRequest, hostRequest, serviceRequest}[i%3](t)
	}
	var wg sync.WaitGroup
	for _, r := range requests {
		wg.Go(func() {
			if _, err := f.tryIssue(t.Context(), r); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	seen := map[identity.Serial]bool{}
	for _, r := range f.records {
		if r.Serial == 0 || seen[r.Serial] {
			t.Errorf("got serial %d twice or zero, want distinct ones", r.Serial)
		}
		seen[r.Serial] = true
	}
	if len(seen) != n {
		t.Errorf("got %d records, want %d", len(seen), n)
	}
}

func TestNewRefusesAnIncompleteOrForeignConfig(t *testing.T) {
	t.Parallel()
	keys := keyringtest.New(t, cluster, createdAt)
	for name, cfg := range map[string]ca.Config{
		"nothing":         {},
		"no keys":         {Cluster: cluster},
		"another cluster": {Cluster: "other.example.com", Keys: keys},
	} {
		if c, err := ca.New(cfg); err == nil || fault.Remedy(err) == "" {
			t.Errorf("%s: got %v, %v, want a fault with a remedy", name, c, err)
		}
	}
}
