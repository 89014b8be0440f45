package clustertest

import (
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"net/url"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/identity"
)

// Lifetimes of certificates.
const (
	machineLifetime = 24 * time.Hour
	userLifetime    = time.Hour
)

// User is a user's identity, for tests to change.
func (c *Cluster) User(name string, roles ...string) identity.Identity {
	return identity.Identity{
		V:         identity.Version,
		Kind:      identity.User,
		Profile:   identity.UserProfile,
		Cluster:   Name,
		Name:      name,
		Connector: "corp",
		Subject:   "sub-" + name,
		LoginID:   "login-1",
		Roles:     roles,
		Factor:    "totp",
	}
}

// Machine is a machine's identity, for tests to change.
func (c *Cluster) Machine(kind identity.Kind, name string, labels identity.Labels) identity.Identity {
	return identity.Identity{
		V:       identity.Version,
		Kind:    kind,
		Cluster: Name,
		Name:    name,
		ID:      newMachineID(),
		Labels:  labels,
	}
}

func newMachineID() identity.MachineID {
	var b [16]byte
	_, _ = rand.Read(b[:])
	return identity.MachineID(hex.EncodeToString(b[:]))
}

// UserSigner makes a new key with an SSH user certificate. change, which may be nil, may alter the
// certificate before it is signed, to make one that must be refused.
func (c *Cluster) UserSigner(
	who identity.Identity,
	change func(*ssh.Certificate),
	logins ...string,
) ssh.Signer {
	key := c.newSSHKey()
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
	who.Expires = now.Add(userLifetime)
	cert := &ssh.Certificate{
		Key:             key,
		CertType:        ssh.UserCert,
		KeyId:           who.KeyID(),
		Serial:          c.nextSerial().Uint64(),
		ValidPrincipals: logins,
		ValidAfter:      uint64(now.Add(-identity.Skew).Unix()),
		ValidBefore:     uint64(who.Expires.Unix()),
		Permissions: ssh.Permissions{Extensions: map[string]string{
			identity.SSHExtension:     string(c.marshal(who)),
			"permit-pty":              "",
			"permit-port-forwarding":  "",
			"permit-agent-forwarding": "",
		}},
	}
	if change != nil {
		change(cert)
	}
	c.must(cert.SignCert(rand.Reader, c.userSSH))
	return cert
}

// UserChain makes an X.509 user certificate for a key, without its authority, as auth issues them.
func (c *Cluster) UserChain(key crypto.PublicKey, who identity.Identity) [][]byte {
	return [][]byte{c.signX509(c.users, key, who, nil)}
}

// UserCertificate makes a new key with an X.509 user certificate. change is as for UserSigner.
func (c *Cluster) UserCertificate(who identity.Identity, change func(*x509.Certificate)) *tls.Certificate {
	key := c.newX509Key()
	der := c.signX509(c.users, key.Public(), who, change)
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// ServiceCertificate makes a new key with the service certificate of a new machine.
func (c *Cluster) ServiceCertificate(kind identity.Kind, name string) *tls.Certificate {
	return c.MachineCertificate(c.Machine(kind, name, nil), nil)
}

// MachineCertificate makes a new key with a machine's service certificate and its chain, the root at the
// end. change is as for UserSigner.
func (c *Cluster) MachineCertificate(id identity.Identity, change func(*x509.Certificate)) *tls.Certificate {
	key := c.newX509Key()
	return &tls.Certificate{Certificate: c.serviceChain(key.Public(), id, change), PrivateKey: key}
}

// serviceChain makes the chain of a service certificate of identity id for a key: the leaf, the service
// authority and the cluster root.
func (c *Cluster) serviceChain(
	key crypto.PublicKey,
	id identity.Identity,
	change func(*x509.Certificate),
) [][]byte {
	return [][]byte{c.signX509(c.services, key, id, change), c.services.cert.Raw, c.root.cert.Raw}
}

// signX509 makes an X.509 certificate of identity id for a key, signed by signer. change is as for
// UserSigner.
func (c *Cluster) signX509(
	signer authority,
	key crypto.PublicKey,
	id identity.Identity,
	change func(*x509.Certificate),
) []byte {
	now := c.Now()
	id.Expires = now.Add(signer.lifetime).Truncate(time.Second).UTC()
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
		ExtKeyUsage:           signer.uses,
		BasicConstraintsValid: true,
		URIs:                  []*url.URL{uri},
		ExtraExtensions:       []pkix.Extension{{Id: identity.X509Extension, Value: extension}},
	}
	if change != nil {
		change(template)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, signer.cert, key, signer.key)
	c.must(err)
	return der
}

// HostSigner makes a new key with a host certificate for the names.
func (c *Cluster) HostSigner(names ...string) ssh.Signer {
	key := c.newSSHKey()
	signer, err := ssh.NewCertSigner(c.hostCert(key.PublicKey(), names...), key)
	c.must(err)
	return signer
}

func (c *Cluster) hostCert(key ssh.PublicKey, names ...string) *ssh.Certificate {
	now := c.Now()
	cert := &ssh.Certificate{
		Key:             key,
		CertType:        ssh.HostCert,
		ValidPrincipals: names,
		Serial:          c.nextSerial().Uint64(),
		ValidAfter:      uint64(now.Add(-identity.Skew).Unix()),
		ValidBefore:     uint64(now.Add(machineLifetime).Unix()),
	}
	c.must(cert.SignCert(rand.Reader, c.hostSSH))
	return cert
}
