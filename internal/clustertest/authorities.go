package clustertest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/rules"
)

// authority is a key that signs X.509 certificates for one purpose, with its own certificate.
type authority struct {
	cert     *x509.Certificate
	key      crypto.Signer
	uses     []x509.ExtKeyUsage // of its certificates
	lifetime time.Duration      // of its certificates
}

// makeAuthorities makes the cluster's keys. As in ca/keyring, the root signs only the service authority; the
// user authority is its own root.
func (c *Cluster) makeAuthorities() {
	c.root = c.newAuthority("root", nil)
	c.services = c.newAuthority("service", &c.root)
	c.services.uses = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	c.services.lifetime = machineLifetime
	c.users = c.newAuthority("users", nil)
	c.users.uses = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	c.users.lifetime = userLifetime
	c.userSSH, c.hostSSH = c.newSSHKey(), c.newSSHKey()
	var err error
	_, c.rulesKey, err = ed25519.GenerateKey(rand.Reader)
	c.must(err)
}

// newAuthority makes an X.509 authority with a new key. parent signs its certificate; if parent is nil, it
// signs itself.
func (c *Cluster) newAuthority(name string, parent *authority) authority {
	key, now := c.newX509Key(), c.Now()
	template := &x509.Certificate{
		SerialNumber:          c.nextSerial(),
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             now.Add(-240 * time.Hour),
		NotAfter:              now.Add(240 * time.Hour),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign,
	}
	signer := authority{cert: template, key: key}
	if parent != nil {
		signer = *parent
	}
	der, err := x509.CreateCertificate(rand.Reader, template, signer.cert, key.Public(), signer.key)
	c.must(err)
	cert, err := x509.ParseCertificate(der)
	c.must(err)
	return authority{cert: cert, key: key}
}

func (c *Cluster) newX509Key() crypto.Signer {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	c.must(err)
	return key
}

func (c *Cluster) newSSHKey() ssh.Signer {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	c.must(err)
	signer, err := ssh.NewSignerFromKey(key)
	c.must(err)
	return signer
}

// Root is the certificate of the cluster's root.
func (c *Cluster) Root() *x509.Certificate { return c.root.cert }

// Pin is the cluster's pin.
func (c *Cluster) Pin() identity.Pin { return identity.PinOf(c.root.cert) }

// RootKey is the key of the root, which signs the authorities document.
func (c *Cluster) RootKey() crypto.Signer { return c.root.key }

// RulesKey is the key that signs roles and heads.
func (c *Cluster) RulesKey() crypto.Signer { return c.rulesKey }

// UserAuthority is the key that signs users' SSH certificates.
func (c *Cluster) UserAuthority() ssh.PublicKey { return c.userSSH.PublicKey() }

// HostAuthority is the key that signs host certificates.
func (c *Cluster) HostAuthority() ssh.PublicKey { return c.hostSSH.PublicKey() }

// VerifyPeer returns whom a peer's X.509 certificates identify: a user or machine of this cluster of one of
// the kinds. It judges them as of their beginning, so that it also accepts expired ones.
func (c *Cluster) VerifyPeer(certs []*x509.Certificate, kinds ...identity.Kind) (identity.Peer, error) {
	roots := identity.Roots{Users: x509.NewCertPool(), Services: x509.NewCertPool()}
	roots.Users.AddCert(c.users.cert)
	roots.Services.AddCert(c.services.cert)
	var issued time.Time
	if len(certs) > 0 {
		issued = certs[0].NotBefore
	}
	return roots.VerifyX509(certs, Name, x509.ExtKeyUsageClientAuth, issued, kinds...)
}

// authoritiesRevision is the revision of the authorities document, which never changes.
var authoritiesRevision = rules.Revision{Epoch: 1, Index: 1}

// Authorities is the body of the authorities document.
func (c *Cluster) Authorities() rules.Authorities {
	return rules.Authorities{Root: c.root.cert.Raw, Keys: []rules.AuthorityKey{
		rules.SSHKey(rules.UserSSH, 1, rules.Active, c.userSSH.PublicKey()),
		rules.SSHKey(rules.HostSSH, 1, rules.Active, c.hostSSH.PublicKey()),
		rules.X509Key(rules.UserX509, 1, rules.Active, c.users.cert),
		rules.X509Key(rules.ServiceX509, 1, rules.Active, c.services.cert),
		rules.SigningKey(1, rules.Active, c.rulesKey.Public().(ed25519.PublicKey)),
	}}
}

// SignAuthorities signs the authorities document with the root.
func (c *Cluster) SignAuthorities() rules.Signed {
	return c.sign(c.root.key, rules.AuthoritiesKind, authoritiesRevision, c.Authorities())
}

// BeginTerm makes the heads that are signed from now on be of a new term, as after a restart of auth.
func (c *Cluster) BeginTerm() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.term++
}

// SignRules signs the rules as of now.
func (c *Cluster) SignRules() rules.Set { return c.SignRulesAt(c.Now()) }

// SignRulesAt returns a complete set of rules as auth would publish it: the authorities, signed by the
// cluster root; the roles, settings and locks of machines that SetRoles, SetSettings and SetMachineLocks set;
// and a head that names all, with the time now. Each call makes a head that is newer than those before,
// whatever its time.
func (c *Cluster) SignRulesAt(now time.Time) rules.Set {
	c.mu.Lock()
	c.heads++
	number := rules.Sequence{Term: 1 + c.term, Counter: c.heads}
	bodies := map[rules.Kind]any{
		rules.RolesKind:        rules.Roles{Roles: c.roles},
		rules.SettingsKind:     c.settings,
		rules.MachineLocksKind: rules.Locks{Locks: append([]access.Lock{}, c.locks...)}, // a list, not null
	}
	changed := map[rules.Kind]uint64{
		rules.RolesKind:        c.rolesIndex,
		rules.SettingsKind:     c.settingsIndex,
		rules.MachineLocksKind: c.locksIndex,
	}
	c.mu.Unlock()
	authorities := c.SignAuthorities()
	head := rules.Head{Cluster: Name, Epoch: 1, Sequence: number, Time: now, Docs: map[rules.Kind]rules.Ref{
		rules.AuthoritiesKind: rules.RefTo(authorities, authoritiesRevision),
	}}
	docs := map[rules.Kind]rules.Signed{}
	set := rules.Set{V: rules.Version, Chain: []rules.Signed{authorities}, Docs: docs}
	for kind, body := range bodies {
		revision := rules.Revision{Epoch: 1, Index: 1 + changed[kind]}
		doc := c.sign(c.rulesKey, kind, revision, body)
		docs[kind], head.Docs[kind] = doc, rules.RefTo(doc, revision)
	}
	var err error
	set.Head, err = rules.SignHead(c.rulesKey, head)
	c.must(err)
	return set
}

func (c *Cluster) sign(key crypto.Signer, kind rules.Kind, rev rules.Revision, body any) rules.Signed {
	s, err := rules.SignDocument(key, rules.Document{
		Kind:     kind,
		Cluster:  Name,
		Revision: rev,
		Body:     c.marshal(body),
	})
	c.must(err)
	return s
}
