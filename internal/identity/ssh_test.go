package identity_test

import (
	"bytes"
	"crypto"
	//lint:ignore SA1019 the test shows that DSA keys are refused
	"crypto/dsa"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"math/big"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/identity"
)

const cluster = "access.example.com"

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// key returns the same Ed25519 key for the same name, so that fuzz inputs keep their meaning.
func key(name byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{name}, ed25519.SeedSize))
}

func signer(t testing.TB, k crypto.Signer) ssh.Signer {
	t.Helper()
	s, err := ssh.NewSignerFromSigner(k)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func plain(t testing.TB, pub crypto.PublicKey) ssh.PublicKey {
	t.Helper()
	k, err := ssh.NewPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func alice() identity.Identity {
	return identity.Identity{
		V:         identity.Version,
		Kind:      identity.User,
		Profile:   identity.UserProfile,
		Cluster:   cluster,
		Name:      "alice@example.com",
		Connector: "corp",
		Subject:   "00u1/a b",
		LoginID:   "login-1",
		Roles:     []string{"ops"},
		Traits:    identity.Traits{"team": {"red"}},
	}
}

func encode(t testing.TB, id identity.Identity) string {
	t.Helper()
	b, err := json.Marshal(id) // not Encode: tests need identities that Encode refuses
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// userCert is a valid user certificate, unsigned.
func userCert(t testing.TB) *ssh.Certificate {
	t.Helper()
	return &ssh.Certificate{
		Nonce: bytes.Repeat(
			[]byte{7},
			32,
		), Key: plain(t, key('u').Public()), Serial: 42, CertType: ssh.UserCert, KeyId: alice().KeyID(),
		ValidPrincipals: []string{
			"alice",
			"ubuntu",
		},
		ValidAfter:  uint64(noon.Add(-identity.Skew).Unix()),
		ValidBefore: uint64(noon.Add(8 * time.Hour).Unix()),
		Permissions: ssh.Permissions{
			Extensions: map[string]string{identity.SSHExtension: encode(t, alice()), "permit-pty": ""},
		},
	}
}

func sign(t testing.TB, c *ssh.Certificate, by ssh.Signer) *ssh.Certificate {
	t.Helper()
	if err := c.SignCert(rand.Reader, by); err != nil {
		t.Fatal(err)
	}
	return c
}

func tcp(addr string) net.Addr { return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(addr)) }

// A valid certificate gives the identity, logins, serial and expiry that are in it.
func TestVerifySSHUserReadsTheCertificate(t *testing.T) {
	t.Parallel()
	ca := signer(t, key('c'))
	cert := sign(t, userCert(t), ca)
	onWire, err := ssh.ParsePublicKey(cert.Marshal())
	if err != nil {
		t.Fatal(err)
	}
	user, err := identity.VerifySSHUser(
		onWire,
		cluster,
		[]ssh.PublicKey{plain(t, key('o').Public()), ca.PublicKey()},
		tcp("192.0.2.1:9"),
		noon,
	)
	if err != nil {
		t.Fatal(err)
	}
	if user.Name != "alice@example.com" || user.Serial != 42 ||
		!slices.Equal(user.Logins, []identity.Login{"alice", "ubuntu"}) {
		t.Errorf("got %+v, want alice with her logins and serial 42", user)
	}
	if want := noon.Add(8 * time.Hour); !user.Expires.Equal(want) {
		t.Errorf("got end %s, want the certificate's %s", user.Expires, want)
	}
	if !user.HasLogin("alice") || user.HasLogin("Alice") || user.HasLogin("") ||
		user.HasLogin("alice,ubuntu") {
		t.Error("got a login that the certificate does not name, want exact matches only")
	}
}

// with changes a valid certificate before the cluster's user authority signs it.
func with(f func(c *ssh.Certificate)) func(*testing.T) ssh.PublicKey {
	return func(t *testing.T) ssh.PublicKey {
		c := userCert(t)
		f(c)
		return sign(t, c, signer(t, key('c')))
	}
}

// withID changes the identity inside a valid certificate.
func withID(f func(id *identity.Identity)) func(*testing.T) ssh.PublicKey {
	return func(t *testing.T) ssh.PublicKey {
		id := alice()
		f(&id)
		return with(func(c *ssh.Certificate) { c.Extensions[identity.SSHExtension] = encode(t, id) })(t)
	}
}

// principals makes an otherwise valid certificate with these principals.
func principals(p ...string) func(*testing.T) ssh.PublicKey {
	return with(func(c *ssh.Certificate) { c.ValidPrincipals = p })
}

// critical makes an otherwise valid certificate with these critical options: name, value, name, value.
func critical(kv ...string) func(*testing.T) ssh.PublicKey {
	return with(func(c *ssh.Certificate) {
		c.CriticalOptions = map[string]string{}
		for i := 0; i < len(kv); i += 2 {
			c.CriticalOptions[kv[i]] = kv[i+1]
		}
	})
}

// subjectKey makes an otherwise valid certificate for another key.
func subjectKey(pub func(t *testing.T) ssh.PublicKey) func(*testing.T) ssh.PublicKey {
	return func(t *testing.T) ssh.PublicKey { return with(func(c *ssh.Certificate) { c.Key = pub(t) })(t) }
}

// Each case is a key or certificate with one thing wrong, and a part of the message.
func TestVerifySSHUserRefuses(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		key  func(t *testing.T) ssh.PublicKey
		want string // part of the message
	}{
		{"no key at all", func(t *testing.T) ssh.PublicKey { return nil }, "plain key"},
		{"a plain key", func(t *testing.T) ssh.PublicKey { return plain(t, key('u').Public()) }, "plain key"},
		{"the authority's own key", func(t *testing.T) ssh.PublicKey { return plain(t, key('c').Public()) },
			"plain key"},
		{"a host certificate", with(func(c *ssh.Certificate) { c.CertType = ssh.HostCert }), "wrong type"},
		{"a type of its own", with(func(c *ssh.Certificate) { c.CertType = 3 }), "wrong type"},
		{"a foreign authority",
			func(t *testing.T) ssh.PublicKey {
				return sign(t, userCert(t),
					signer(t, key('f')))
			}, "does not have"},
		{"a certificate signed by its own key",
			func(t *testing.T) ssh.PublicKey {
				return sign(t, userCert(t),
					signer(t, key('u')))
			}, "does not have"},
		{"no principals", principals(), "no principals"},
		{"a wildcard principal", principals("*"), "principal"},
		{"an empty principal", principals(""), "principal"},
		{"a comma in a principal", principals("alice,root"), "principal"},
		{"white space in a principal", principals("alice root"), "principal"},
		{"a trailing new line in a principal", principals("alice\n"), "principal"},
		{"NUL in a principal", principals("root\x00x"), "principal"},
		{"a look-alike in a principal", principals("r\u043eot"), "principal"},
		{"a bad principal behind a good one", principals("alice", "root,*"), "principal"},
		{"a principal that looks like an option", principals("-oProxyCommand"), "principal"},
		{"an unknown critical option", critical("force-command", "true"), "not supported"},
		{"an unknown critical option beside a known one",
			critical("source-address", "192.0.2.0/24", "verify-required", ""), "not supported"},
		{"an empty source-address", critical("source-address", ""), "no address"},
		{"a source-address that is none", critical("source-address", "192.0.2.0/24,example.com"),
			"no address"},
		{"a source-address with an empty part", critical("source-address", "192.0.2.0/24,"), "no address"},
		{"another source-address", critical("source-address", "198.51.100.0/24"), "was used from 192.0.2.1"},
		{"an identity pinned where the certificate is not", withID(func(id *identity.Identity) {
			id.SourceAddresses = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
		}), "lacks"},
		{"pins that disagree", func(t *testing.T) ssh.PublicKey {
			id := alice()
			id.SourceAddresses = []netip.Prefix{netip.MustParsePrefix("192.0.2.1/32")}
			return with(func(c *ssh.Certificate) {
				c.CriticalOptions = map[string]string{"source-address": "192.0.2.0/24"}
				c.Extensions[identity.SSHExtension] = encode(t, id)
			})(t)
		}, "disagree"},
		{"no identity", with(func(c *ssh.Certificate) { delete(c.Extensions, identity.SSHExtension) }),
			"identity"},
		{"an identity that is no JSON",
			with(func(c *ssh.Certificate) { c.Extensions[identity.SSHExtension] = "{" }), "identity"},
		{"an identity that is null",
			with(func(c *ssh.Certificate) { c.Extensions[identity.SSHExtension] = "null" }), "identity"},
		{"an identity over 4 KiB",
			withID(func(id *identity.Identity) {
				id.Traits["t"] = slices.Repeat([]string{strings.Repeat("x",
					500)}, 9)
			}), "4096"},
		{"an identity without version", withID(func(id *identity.Identity) { id.V = 0 }), "version"},
		{"an identity of a newer version",
			withID(func(id *identity.Identity) { id.V = identity.Version + 1 }), "reads 1 to 2"},
		{"an identity of the version before the first release",
			withID(func(id *identity.Identity) { id.V = 1 }), "log in again"},
		{"an unknown critical field",
			withID(func(id *identity.Identity) { id.Critical = []string{"moon_phase"} }), "moon_phase"},
		{"an unknown profile",
			withID(func(id *identity.Identity) { id.Profile = "future" }), "unknown profile"},
		{"no profile", withID(func(id *identity.Identity) { id.Profile = "" }), "unknown profile"},
		{"a proxy that is no machine id",
			withID(func(id *identity.Identity) { id.Proxy = "proxy-1" }), "machine id"},
		{"another cluster's user", withID(func(id *identity.Identity) { id.Cluster = "other.example.com" }),
			"cluster"},
		{"a node's identity", withID(func(id *identity.Identity) {
			*id = identity.Identity{V: identity.Version, Kind: identity.Node, Cluster: cluster, Name: "web-1",
				ID: "0123456789abcdef0123456789abcdef"}
		}), "not for a user"},
		{"an identity of unknown kind", withID(func(id *identity.Identity) { id.Kind = "admin" }), "kind"},
		{"an identity without subject", withID(func(id *identity.Identity) { id.Subject = "" }), "subject"},
		{"an escape sequence in a name",
			withID(func(id *identity.Identity) { id.Name = "alice\x1b]0;x\x07" }), "user name"},
		{"a name that turns the writing direction",
			withID(func(id *identity.Identity) { id.Name = "alice\u202emoc" }), "user name"},
		{"a login id that looks like another",
			withID(func(id *identity.Identity) { id.LoginID = "x@other/1" }), "login id"},
		{"a role that is not a plain name", withID(func(id *identity.Identity) { id.Roles = []string{"ops,admin"} }),
			"role"},
		{"no end", with(func(c *ssh.Certificate) { c.ValidBefore = ssh.CertTimeInfinity }), "validity"},
		{"an end beyond time", with(func(c *ssh.Certificate) { c.ValidBefore = 1 << 63 }), "validity"},
		{"an end before its start",
			with(func(c *ssh.Certificate) {
				c.ValidAfter, c.ValidBefore = c.ValidBefore,
					c.ValidAfter
			}), "validity"},
		{"a life of more than a day",
			with(func(c *ssh.Certificate) {
				c.ValidBefore = uint64(noon.Add(24*time.Hour +
					2*time.Second).Unix())
			}), "longer"},
		{"a short RSA key", subjectKey(rsaKey(2048)), "RSA"},
		{"an RSA key that only costs time (CVE-2026-39829)", subjectKey(func(t *testing.T) ssh.PublicKey {
			n := new(big.Int).Add(new(big.Int).Lsh(big.NewInt(1), 8192), big.NewInt(1)) // one bit too many
			return plain(t, &rsa.PublicKey{N: n, E: 65537})
		}), "RSA"},
		{"a P-521 key", subjectKey(func(t *testing.T) ssh.PublicKey {
			k, _ := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
			return plain(t, k.Public())
		}), "not accepted"},
		{"a DSA key", subjectKey(func(t *testing.T) ssh.PublicKey {
			// its size is all that x/crypto looks at
			p := new(big.Int).Add(new(big.Int).Lsh(big.NewInt(1), 1023), big.NewInt(1))
			return plain(t,
				&dsa.PublicKey{Parameters: dsa.Parameters{P: p, Q: new(big.Int).Lsh(big.NewInt(1), 159),
					G: big.NewInt(2)}, Y: big.NewInt(3)})
		}), "not accepted"},
		{"a certificate as its key", func(t *testing.T) ssh.PublicKey { // x/crypto panics when it marshals one: the verifier must not
			inner := sign(t, userCert(t), signer(t, key('c')))
			return tampered(func(c *ssh.Certificate) { c.Key = inner })(t)
		}, "a plain key is expected"},
		{"no subject key", func(t *testing.T) ssh.PublicKey {
			c := sign(t, userCert(t), signer(t, key('c')))
			c.Key = nil
			return c
		}, "no key"},
		{"no signature", func(t *testing.T) ssh.PublicKey {
			c := sign(t, userCert(t), signer(t, key('c')))
			c.Signature = nil
			return c
		}, "no signature"},
		{"no signer", func(t *testing.T) ssh.PublicKey {
			c := sign(t, userCert(t), signer(t, key('c')))
			c.SignatureKey = nil
			return c
		}, "signed by"},
		{"a certificate as signer", func(t *testing.T) ssh.PublicKey {
			outer := userCert(t)
			outer.SignatureKey = sign(t, userCert(t), signer(t, key('c')))
			outer.Signature = &ssh.Signature{Format: ssh.KeyAlgoED25519, Blob: make([]byte, 64)}
			return outer
		}, "signed by a certificate"},
		{"a principal added after signing",
			tampered(func(c *ssh.Certificate) {
				c.ValidPrincipals = append(c.ValidPrincipals,
					"root")
			}), "signature"},
		{"an end moved after signing", tampered(func(c *ssh.Certificate) { c.ValidBefore += 3600 }),
			"signature"},
		{"a key swapped after signing", func(t *testing.T) ssh.PublicKey {
			return tampered(func(c *ssh.Certificate) { c.Key = plain(t, key('x').Public()) })(t)
		}, "signature"},
		{"a flipped bit in the signature", tampered(func(c *ssh.Certificate) { c.Signature.Blob[3] ^= 1 }),
			"signature"},
		{"a short signature", tampered(func(c *ssh.Certificate) { c.Signature.Blob = c.Signature.Blob[:5] }),
			"signature"},
		{"another signature format",
			tampered(func(c *ssh.Certificate) { c.Signature.Format = ssh.KeyAlgoECDSA256 }), "signature"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			user, err := identity.VerifySSHUser(
				tc.key(t),
				cluster,
				[]ssh.PublicKey{plain(t, key('c').Public())},
				tcp("192.0.2.1:9"),
				noon,
			)
			if err == nil {
				t.Fatalf("got %+v, want a refusal", user)
			}
			if !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %q, want it to say %q", err, tc.want)
			}
			if len(user.Logins) != 0 || user.Name != "" {
				t.Errorf("got %+v beside the error, want nothing", user)
			}
		})
	}
}

// tampered changes a certificate after it was signed.
func tampered(f func(c *ssh.Certificate)) func(*testing.T) ssh.PublicKey {
	return func(t *testing.T) ssh.PublicKey {
		c := sign(t, userCert(t), signer(t, key('c')))
		f(c)
		return c
	}
}

func rsaKey(bits int) func(t *testing.T) ssh.PublicKey {
	return func(t *testing.T) ssh.PublicKey {
		k, err := rsa.GenerateKey(rand.Reader, bits)
		if err != nil {
			t.Fatal(err)
		}
		return plain(t, k.Public())
	}
}

func TestVerifySSHUserTrustsNobodyWithoutAuthorities(t *testing.T) {
	t.Parallel()
	if _, err := identity.VerifySSHUser(sign(t, userCert(t), signer(t, key('c'))), cluster, nil, nil,
		noon); err == nil {
		t.Error("got a user, want a refusal")
	}
}

// A certificate with a SHA-1 signature is refused, and accepted with SHA-512 by the same authority.
func TestVerifySSHUserRefusesSHA1OfAnRSAAuthority(t *testing.T) {
	t.Parallel()
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		algorithm string
		good      bool
	}{{ssh.KeyAlgoRSA, false}, {ssh.KeyAlgoRSASHA512, true}} {
		by, err := ssh.NewSignerWithAlgorithms(signer(t, k).(ssh.AlgorithmSigner), []string{tc.algorithm})
		if err != nil {
			t.Fatal(err)
		}
		_, err = identity.VerifySSHUser(
			sign(t, userCert(t), by),
			cluster,
			[]ssh.PublicKey{by.PublicKey()},
			nil,
			noon,
		)
		if (err == nil) != tc.good {
			t.Errorf("%s: got %v, want accepted: %v", tc.algorithm, err, tc.good)
		}
	}
}

// A certificate is valid from Skew before its issue until the second before its end. Outside that, the
// message names the clock.
func TestVerifySSHUserExplainsClockErrors(t *testing.T) {
	t.Parallel()
	ca := signer(t, key('c'))
	cert := sign(t, userCert(t), ca)
	for _, tc := range []struct {
		name string
		now  time.Time
		want []string // empty: accepted
	}{
		{"first second", noon.Add(-identity.Skew), nil},
		{"last second", noon.Add(8*time.Hour - time.Second), nil},
		{"the end itself", noon.Add(8 * time.Hour), []string{"expired", "clock says"}},
		{"ten minutes after the end", noon.Add(8*time.Hour + 10*time.Minute),
			[]string{"expired", "10m0s ago", "2026-03-01T20:10:00Z"}},
		{"a verifier whose clock is ten minutes late", noon.Add(-10 * time.Minute),
			[]string{"not valid before", "9m0s", "check this machine's clock", "2026-03-01T11:50:00Z"}},
	} {
		_, err := identity.VerifySSHUser(cert, cluster, []ssh.PublicKey{ca.PublicKey()}, nil, tc.now)
		if len(tc.want) == 0 {
			if err != nil {
				t.Errorf("%s: %v", tc.name, err)
			}
			continue
		}
		var expired *identity.ExpiredError
		if !errors.As(err, &expired) {
			t.Errorf("%s: got %v, want an ExpiredError", tc.name, err)
			continue
		}
		for _, want := range tc.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: got %q, want it to say %q", tc.name, err, want)
			}
		}
	}
}

// Each row says whether a certificate limited to pin may be used from the address. An address that is not
// known is refused.
func TestVerifySSHUserEnforcesSourceAddress(t *testing.T) {
	t.Parallel()
	ca := signer(t, key('c'))
	for _, tc := range []struct {
		pin  string
		from net.Addr
		good bool
	}{
		{"192.0.2.0/24", tcp("192.0.2.200:1"), true},
		{"192.0.2.0/24", tcp("192.0.3.1:1"), false},
		{"192.0.2.7", tcp("192.0.2.7:1"), true},
		{"192.0.2.7", tcp("192.0.2.8:1"), false},
		{"198.51.100.0/24,192.0.2.0/24", tcp("192.0.2.1:1"), true},
		{"192.0.2.0/24", tcp("[::ffff:192.0.2.1]:1"), true},
		{"192.0.2.0/24", tcp("[::ffff:192.0.3.1]:1"), false},
		// an IPv4-mapped network matches no address
		{"::ffff:192.0.2.0/120", tcp("192.0.2.1:1"), false},
		{"2001:db8::/32", tcp("[2001:db8::1]:1"), true},
		{"2001:db8::/32", tcp("[2001:db9::1]:1"), false},
		{"0.0.0.0/0", tcp("[2001:db8::1]:1"), false},
		{"::/0", tcp("192.0.2.1:1"), false},
		{"fe80::/10", tcp("[fe80::1%eth0]:1"), false}, // a zone names an interface: never a match
		{"192.0.2.0/24", nil, false},
		{"192.0.2.0/24", &net.UnixAddr{Name: "@", Net: "unix"}, false},
		{"192.0.2.0/24", &net.IPAddr{IP: net.IPv4(192, 0, 2, 1)}, false}, // no TCP address: not known
	} {
		c := userCert(t)
		c.CriticalOptions = map[string]string{identity.SSHSourceAddress: tc.pin}
		user, err := identity.VerifySSHUser(
			sign(t, c, ca),
			cluster,
			[]ssh.PublicKey{ca.PublicKey()},
			tc.from,
			noon,
		)
		if (err == nil) != tc.good {
			t.Errorf("pin %s from %v: got %v, want accepted: %v", tc.pin, tc.from, err, tc.good)
		}
		if err == nil &&
			(user.CheckSourceAddress(tc.from) != nil ||
				user.CheckSourceAddress(tcp("203.0.113.1:1")) == nil) {
			t.Errorf("pin %s: CheckSourceAddress does not hold it afterwards", tc.pin)
		}
	}
}

// A host certificate is accepted for each of its principals and for no other name, and not if anything else
// is wrong with it.
func TestVerifySSHHost(t *testing.T) {
	t.Parallel()
	ca := signer(t, key('h'))
	host := func(f func(c *ssh.Certificate)) ssh.PublicKey {
		c := userCert(t)
		c.CertType, c.ValidPrincipals, c.Permissions = ssh.HostCert, []string{
			"web-1",
			"127.0.0.1",
		}, ssh.Permissions{}
		f(c)
		return sign(t, c, ca)
	}
	same := func(*ssh.Certificate) {}
	for _, tc := range []struct {
		name string
		key  ssh.PublicKey
		host string
		good bool
	}{
		{"its name", host(same), "web-1", true},
		{"its address", host(same), "127.0.0.1", true},
		{"another name", host(same), "web-2", false},
		{"a part of its name", host(same), "web", false},
		{"no name", host(same), "", false},
		{"no principals", host(func(c *ssh.Certificate) { c.ValidPrincipals = nil }), "web-1", false},
		{"an empty principal for an empty name",
			host(func(c *ssh.Certificate) { c.ValidPrincipals = []string{""} }), "", false},
		{"a wildcard", host(func(c *ssh.Certificate) { c.ValidPrincipals = []string{"*"} }), "*", false},
		{"a wildcard beside its name",
			host(func(c *ssh.Certificate) { c.ValidPrincipals = []string{"web-1", "*"} }), "web-1", false},
		{"a user certificate", host(func(c *ssh.Certificate) { c.CertType = ssh.UserCert }), "web-1", false},
		{"a critical option",
			host(func(c *ssh.Certificate) {
				c.CriticalOptions = map[string]string{"source-address": "0.0.0.0/0"}
			}), "web-1", false},
		{"expired", host(func(c *ssh.Certificate) { c.ValidBefore = uint64(noon.Unix()) }), "web-1", false},
		{"a plain key", plain(t, key('u').Public()), "web-1", false},
		{"the user authority", sign(t, userCert(t), signer(t, key('c'))), "web-1", false},
	} {
		if err := identity.VerifySSHHost(tc.key, tc.host, []ssh.PublicKey{ca.PublicKey()},
			noon); (err == nil) != tc.good {
			t.Errorf("%s: got %v, want accepted: %v", tc.name, err, tc.good)
		}
	}
}

// FuzzParsedSSHUser gives the verifier anything that parses as a key: nothing but the one valid certificate
// may pass, and nothing may panic.
func FuzzParsedSSHUser(f *testing.F) {
	ca := signer(f, key('c'))
	cert := userCert(f)
	zeros := bytes.NewReader(make([]byte, 64)) // so that the certificate is the same in every fuzzing process
	if err := cert.SignCert(zeros, ca); err != nil {
		f.Fatal(err)
	}
	good := cert.Marshal()
	f.Add(good)
	f.Add(sign(f, userCert(f), signer(f, key('f'))).Marshal())
	f.Add(plain(f, key('u').Public()).Marshal())
	f.Add(good[:len(good)-1])
	f.Fuzz(func(t *testing.T, in []byte) {
		k, err := ssh.ParsePublicKey(in)
		if err != nil {
			return
		}
		from := tcp("192.0.2.1:9")
		user, err := identity.VerifySSHUser(k, cluster, []ssh.PublicKey{ca.PublicKey()}, from, noon)
		if err == nil && !bytes.Equal(k.Marshal(), good) {
			t.Errorf("got %+v of a certificate that was never signed", user)
		}
	})
}

// FuzzSignedSSHUser signs odd contents, as a broken or newer issuer would. What passes must hold every
// promise of SSHUser.
func FuzzSignedSSHUser(f *testing.F) {
	ca := signer(f, key('c'))
	f.Add("alice", encode(f, alice()), "", "192.0.2.1:9", uint64(noon.Unix()), uint64(noon.Unix())+60)
	f.Add("*", `{"v":1,"kind":"user"}`, "192.0.2.0/24,::1", "[::ffff:192.0.2.1]:9", uint64(0), uint64(1)<<63)
	f.Add("a,b", "null", ",", "", uint64(5), uint64(4))
	f.Add(
		"alice",
		strings.Replace(encode(f, alice()), `"v":1`, `"v":1,"V":9,"from":["10.0.0.0/8"]`, 1),
		"10.0.0.0/8",
		"10.1.1.1:1",
		uint64(noon.Unix()),
		uint64(noon.Unix())+60,
	)
	f.Fuzz(func(t *testing.T, principal, id, pin, from string, after, before uint64) {
		c := userCert(t)
		c.ValidPrincipals, c.Extensions, c.ValidAfter, c.ValidBefore = []string{
			principal,
		}, map[string]string{
			identity.SSHExtension: id,
		}, after, before
		if pin != "" {
			c.CriticalOptions = map[string]string{identity.SSHSourceAddress: pin}
		}
		var addr net.Addr
		if ap, err := netip.ParseAddrPort(from); err == nil {
			addr = net.TCPAddrFromAddrPort(ap)
		}
		user, err := identity.VerifySSHUser(
			sign(t, c, ca),
			cluster,
			[]ssh.PublicKey{ca.PublicKey()},
			addr,
			noon,
		)
		if err != nil {
			return
		}
		if user.Kind != identity.User || user.Cluster != cluster || user.Check() != nil ||
			identity.CheckLogin(user.Logins[0]) != nil ||
			len(id) > identity.MaxBytes {
			t.Errorf("got %+v, want a user of the cluster with plain logins", user)
		}
		if !user.Expires.After(noon) || user.Expires.After(noon.Add(identity.MaxLifetime+identity.Skew)) {
			t.Errorf("got an end at %s, want one within a day", user.Expires)
		}
		if pin != "" && addr == nil {
			t.Errorf("got a pinned user %q from nowhere", pin)
		}
	})
}
