package clustertest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"net/url"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/identity"
)

// UserCertificate makes an X.509 user certificate for a new key, signed by the user authority. change, which
// may be nil, may alter the certificate before it is signed, to make one that must be refused.
func (c *Cluster) UserCertificate(who identity.Identity, change func(*x509.Certificate)) *tls.Certificate {
	return c.newCertificate(who, c.userX509, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, change)
}

// MachineCertificate makes a service certificate for a new key, with its chain and the root at the end.
// change may be nil.
func (c *Cluster) MachineCertificate(id identity.Identity, change func(*x509.Certificate)) *tls.Certificate {
	cert := c.newCertificate(
		id,
		c.service,
		[]x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		change,
	)
	cert.Certificate = append(cert.Certificate, c.service.cert.Raw, c.root.cert.Raw)
	return cert
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

// HostSigner makes a new key with a host certificate for the names.
func (c *Cluster) HostSigner(names ...string) ssh.Signer {
	plain, now := newSSHKey(c.t), c.Now()
	cert := &ssh.Certificate{
		Key:             plain.PublicKey(),
		CertType:        ssh.HostCert,
		ValidPrincipals: names,
		Serial:          c.nextSerial().Uint64(),
		ValidAfter:      uint64(now.Add(-identity.Skew).Unix()),
		ValidBefore:     uint64(now.Add(certificateLifetime).Unix()),
	}
	c.SignAsHostAuthority(cert)
	s, err := ssh.NewCertSigner(cert, plain)
	c.must(err)
	return s
}

// newCertificate makes a new key and an X.509 certificate of identity id for it, signed by signer and valid
// for an hour. change is as for UserCertificate. The returned chain has the leaf alone.
func (c *Cluster) newCertificate(
	id identity.Identity,
	signer authority,
	usages []x509.ExtKeyUsage,
	change func(*x509.Certificate),
) *tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	c.must(err)
	now := c.Now()
	id.Expires = now.Add(time.Hour).Truncate(time.Second).UTC()
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
		ExtKeyUsage:           usages,
		BasicConstraintsValid: true,
		URIs:                  []*url.URL{uri},
		ExtraExtensions:       []pkix.Extension{{Id: identity.X509Extension, Value: extension}},
	}
	if change != nil {
		change(template)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, signer.cert, key.Public(), signer.key)
	c.must(err)
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}
