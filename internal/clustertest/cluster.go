// Package clustertest answers: which cluster does a machine join in a test? It has a small cluster with real
// keys, certificates and signed rules, and auth's routes for machines on a loopback port. It stores nothing.
package clustertest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/rules"
	"github.com/threshold-access/threshold/internal/testnet"
)

// Name is the name of the cluster.
const Name = "test.example.com"

// certificateLifetime is the lifetime of machine certificates.
const certificateLifetime = 24 * time.Hour

// Cluster is a cluster with a double of auth. It is safe for concurrent use.
type Cluster struct {
	t              testing.TB
	clockOffset    atomic.Int64 // how far the cluster's clock is ahead
	root           authority
	service        authority
	userX509       authority
	userSSH        ssh.Signer
	hostSSH        ssh.Signer
	rulesKey       ed25519.PrivateKey
	addr           string
	memoryListener *testnet.Listener // nil for a cluster on a loopback port
	mu             sync.Mutex        // guards all below
	serial         int64
	index          uint64
	roles          []access.Role
	tokens         map[string]bool // true: unused
	events         []audit.Event
	renewals       int
	refusal        error
	corrupt        func(*authrpc.JoinResponse)
	members        map[string]identity.Identity // by service key
	hostKeys       map[string]ssh.PublicKey
	eventsSeen     chan struct{} // of capacity 1
}

// authority is a key that signs certificates, with its own certificate.
type authority struct {
	cert *x509.Certificate
	key  crypto.Signer
}

// New makes a cluster with new keys, and serves its auth on a loopback port until the test ends.
func New(t testing.TB) *Cluster {
	c := newCluster(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	c.must(err)
	c.serve(ln)
	return c
}

// NewInMemory is New without a port: only its Dialer connects to auth. It can be used with testing/synctest.
func NewInMemory(t testing.TB) *Cluster {
	c := newCluster(t)
	c.memoryListener = testnet.Listen(testnet.ListenAddr)
	c.serve(c.memoryListener)
	return c
}

func newCluster(t testing.TB) *Cluster {
	c := &Cluster{t: t, tokens: map[string]bool{}, members: map[string]identity.Identity{},
		hostKeys: map[string]ssh.PublicKey{}, eventsSeen: make(chan struct{}, 1)}
	c.root = c.newAuthority("root", nil)
	c.service = c.newAuthority("service", &c.root)
	c.userX509 = c.newAuthority("users", nil)
	c.userSSH, c.hostSSH = newSSHKey(t), newSSHKey(t)
	_, c.rulesKey, _ = ed25519.GenerateKey(rand.Reader)
	return c
}

// Now is the cluster's clock.
func (c *Cluster) Now() time.Time { return time.Now().Add(time.Duration(c.clockOffset.Load())) }

// SetClock sets the cluster's clock ahead of the machine's by off.
func (c *Cluster) SetClock(off time.Duration) { c.clockOffset.Store(int64(off)) }

// Pin is the cluster's pin.
func (c *Cluster) Pin() identity.Pin { return identity.PinOf(c.root.cert) }

// Addr is the address of auth.
func (c *Cluster) Addr() string { return c.addr }

// Token makes a join token.
func (c *Cluster) Token(kind identity.Kind) string {
	tok := authrpc.Token{Kind: kind, Pin: c.Pin()}
	_, _ = rand.Read(tok.Secret[:])
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tokens[tok.String()] = true
	return tok.String()
}

// Refuse makes every call fail with err until it is called with nil.
func (c *Cluster) Refuse(err error) { c.mu.Lock(); c.refusal = err; c.mu.Unlock() }

// Corrupt makes fn change auth's answers to joins and renewals until Corrupt is called with nil.
func (c *Cluster) Corrupt(fn func(*authrpc.JoinResponse)) { c.mu.Lock(); c.corrupt = fn; c.mu.Unlock() }

// Renewals counts renewals served.
func (c *Cluster) Renewals() int { c.mu.Lock(); defer c.mu.Unlock(); return c.renewals }

// Events lists the events that were sent.
func (c *Cluster) Events() []audit.Event {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.events)
}

// EventsSeen has a value when events came since it was last read.
func (c *Cluster) EventsSeen() <-chan struct{} { return c.eventsSeen }

// SetRoles replaces the roles, for the rules that are signed from now on.
func (c *Cluster) SetRoles(roles ...access.Role) {
	c.mu.Lock()
	c.roles = roles
	c.index++
	c.mu.Unlock()
}

// SignRules signs the rules as of now.
func (c *Cluster) SignRules() rules.Set { return c.SignRulesAt(c.Now()) }

// SignRulesAt returns a complete set of rules as auth would publish it: the authorities, signed by the
// cluster root; the roles that SetRoles set; and a head that names both and is signed at the time now.
func (c *Cluster) SignRulesAt(now time.Time) rules.Set {
	c.mu.Lock()
	defer c.mu.Unlock()
	authorities := rules.Authorities{
		Root:        c.root.cert.Raw,
		UserSSH:     [][]byte{c.userSSH.PublicKey().Marshal()},
		HostSSH:     [][]byte{c.hostSSH.PublicKey().Marshal()},
		UserX509:    [][]byte{c.userX509.cert.Raw},
		ServiceX509: [][]byte{c.service.cert.Raw},
		Rules:       [][]byte{c.rulesKey.Public().(ed25519.PublicKey)},
	}
	authoritiesRevision := rules.Revision{Epoch: 1, Index: 1}
	signedAuthorities := c.signDocument(c.root.key, rules.Document{
		Kind:     rules.AuthoritiesKind,
		Cluster:  Name,
		Revision: authoritiesRevision,
		Body:     marshal(c.t, authorities),
	})
	rolesRevision := rules.Revision{Epoch: 1, Index: 1 + c.index}
	signedRoles := c.signDocument(c.rulesKey, rules.Document{
		Kind:     rules.RolesKind,
		Cluster:  Name,
		Revision: rolesRevision,
		Body:     marshal(c.t, rules.Roles{Roles: c.roles}),
	})
	head, err := rules.SignHead(c.rulesKey, rules.Head{
		Cluster: Name,
		Epoch:   1,
		Time:    now,
		Docs: map[rules.Kind]rules.Ref{
			rules.AuthoritiesKind: rules.RefTo(signedAuthorities, authoritiesRevision),
			rules.RolesKind:       rules.RefTo(signedRoles, rolesRevision),
		},
	})
	c.must(err)
	return rules.Set{Chain: []rules.Signed{signedAuthorities}, Roles: signedRoles, Head: head}
}

// signDocument signs a rules document.
func (c *Cluster) signDocument(key crypto.Signer, d rules.Document) rules.Signed {
	s, err := rules.SignDocument(key, d)
	c.must(err)
	return s
}

// User is a user's identity, for tests to change.
func (c *Cluster) User(name string, roles ...string) identity.Identity {
	return identity.Identity{
		V:         identity.Version,
		Kind:      identity.User,
		Cluster:   Name,
		Name:      name,
		Connector: "corp",
		Subject:   "sub-" + name,
		LoginID:   "login-1",
		Roles:     roles,
		Factor:    "totp",
	}
}

// UserSigner makes a new key with a user certificate. change, which may be nil, gets the certificate before
// it is signed.
func (c *Cluster) UserSigner(
	who identity.Identity,
	change func(*ssh.Certificate),
	logins ...string,
) ssh.Signer {
	key := newSSHKey(c.t)
	signer, err := ssh.NewCertSigner(c.UserCert(key.PublicKey(), who, change, logins...), key)
	c.must(err)
	return signer
}

// UserCert makes an SSH user certificate for key, signed by the user authority and valid for an hour. logins
// are its principals. change is as for UserSigner.
func (c *Cluster) UserCert(
	key ssh.PublicKey,
	who identity.Identity,
	change func(*ssh.Certificate),
	logins ...string,
) *ssh.Certificate {
	now := c.Now()
	who.Expires = now.Add(time.Hour)
	cert := &ssh.Certificate{
		Key:             key,
		CertType:        ssh.UserCert,
		KeyId:           who.KeyID(),
		Serial:          c.nextSerial().Uint64(),
		ValidPrincipals: logins,
		ValidAfter:      uint64(now.Add(-identity.Skew).Unix()),
		ValidBefore:     uint64(who.Expires.Unix()),
		Permissions: ssh.Permissions{
			Extensions: map[string]string{identity.SSHExtension: string(marshal(c.t, who)), "permit-pty": "",
				"permit-port-forwarding": "", "permit-agent-forwarding": ""},
		},
	}
	if change != nil {
		change(cert)
	}
	c.must(cert.SignCert(rand.Reader, c.userSSH))
	return cert
}

// SignAsHostAuthority signs any certificate with the host authority, for tests of what must be refused.
func (c *Cluster) SignAsHostAuthority(cert *ssh.Certificate) {
	c.must(cert.SignCert(rand.Reader, c.hostSSH))
}

// HostAuthority is the key that signs host certificates.
func (c *Cluster) HostAuthority() ssh.PublicKey { return c.hostSSH.PublicKey() }

// ServiceCertificate makes a service certificate for a new key.
func (c *Cluster) ServiceCertificate(kind identity.Kind, name string) *tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	c.must(err)
	ders := c.serviceCert(
		identity.Identity{Kind: kind, Cluster: Name, Name: name, ID: newMachineID()},
		key.Public(),
	)
	return &tls.Certificate{Certificate: ders, PrivateKey: key}
}

// serviceCert makes the chain of a service certificate of identity id for the key pub: the leaf, the service
// authority and the cluster root.
func (c *Cluster) serviceCert(id identity.Identity, pub crypto.PublicKey) [][]byte {
	now := c.Now()
	id.Expires = now.Add(certificateLifetime).Truncate(time.Second).UTC()
	encoded, err := id.Encode()
	c.must(err)
	extension, err := identity.X509Value(encoded)
	c.must(err)
	uri, err := url.Parse(id.URI())
	c.must(err)
	template := &x509.Certificate{
		SerialNumber:          c.nextSerial(),
		Subject:               pkix.Name{CommonName: id.Name},
		NotBefore:             now.Add(-identity.Skew),
		NotAfter:              id.Expires,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
		URIs:                  []*url.URL{uri},
		ExtraExtensions:       []pkix.Extension{{Id: identity.X509Extension, Value: extension}},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, c.service.cert, pub, c.service.key)
	c.must(err)
	return [][]byte{der, c.service.cert.Raw, c.root.cert.Raw}
}

// newAuthority makes an X.509 authority with a new key. parent signs its certificate; if parent is nil, it
// signs itself.
func (c *Cluster) newAuthority(name string, parent *authority) authority {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	c.must(err)
	now := c.Now()
	template := &x509.Certificate{
		SerialNumber:          c.nextSerial(),
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             now.Add(-240 * time.Hour),
		NotAfter:              now.Add(240 * time.Hour),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign,
	}
	signer := authority{template, key}
	if parent != nil {
		signer = *parent
	}
	der, err := x509.CreateCertificate(rand.Reader, template, signer.cert, key.Public(), signer.key)
	c.must(err)
	cert, err := x509.ParseCertificate(der)
	c.must(err)
	return authority{cert, key}
}

func (c *Cluster) nextSerial() *big.Int {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.serial++
	return big.NewInt(c.serial)
}

// must ends the test on an error. It may be called only on the test's own goroutine.
func (c *Cluster) must(err error) {
	if err != nil {
		c.t.Helper()
		c.t.Fatal(err)
	}
}

func newSSHKey(t testing.TB) ssh.Signer {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

var errTokenUsed = fault.New(
	fault.Expired,
	"auth.Join",
	"this join token was used already",
	"ask an administrator for a new one: tsh apply -f token.yaml",
)
