package keyring

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"time"

	"go.step.sm/crypto/x509util"

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

// Lifetimes of the authorities' own certificates. In practice a rotation ends them earlier.
const (
	rootYears      = 30
	authorityYears = 10
)

// maxCN is the upper bound of a commonName or organizationName (RFC 5280 appendix A.1, ub-common-name).
const maxCN = 64

// Generate creates the keys of a new cluster, of its root and its five authorities, saves them sealed, and
// returns them opened. When the store holds a keyring already, it returns fault Conflict and saves nothing.
// An unusable cluster name is fault Invalid.
func Generate(ctx context.Context, cluster string, store Store, seal Seal, now time.Time) (*Keyring, error) {
	const op = "keyring.Generate"
	if err := identity.CheckCluster(cluster); err != nil {
		const remedy = "choose a lower-case domain name such as access.example.com"
		return nil, fault.Wrap(err, fault.Invalid, op, "the cluster name is not usable", remedy)
	}
	existsFault := func(err error) error {
		return fault.Wrap(err, fault.Conflict, op, "this cluster exists already", "start without --bootstrap")
	}
	switch _, err := store.Load(ctx); {
	case err == nil:
		return nil, existsFault(errors.New("the store holds a keyring"))
	case !fault.Is(err, fault.NotFound):
		return nil, fmt.Errorf("look for an older keyring: %w", err)
	}
	doc, err := newDocument(cluster, seal, now.UTC().Truncate(time.Second))
	if err != nil {
		return nil, fmt.Errorf("make the cluster's keys: %w", err)
	}
	raw, err := json.Marshal(doc)
	if err != nil {
		return nil, fmt.Errorf("encode the keyring: %w", err)
	}
	var noOld []byte // Save creates the document, and does not replace one that came since Load
	if err := store.Save(ctx, noOld, raw); fault.Is(err, fault.Conflict) {
		return nil, existsFault(err)
	} else if err != nil {
		return nil, fmt.Errorf("save the keyring: %w", err)
	}
	return doc.open(seal) // so the new keys pass the same checks as after a restart
}

// newDocument creates the keys and certificates of the root and of all authorities, and returns the document
// with the private keys sealed. It saves nothing.
func newDocument(cluster string, seal Seal, now time.Time) (*document, error) {
	doc := &document{V: Version, Cluster: cluster, Seal: seal.URI(), Created: now}
	rootKey, err := newKey(root)
	if err != nil {
		return nil, err
	}
	rootCert, err := signAuthority(root, cluster, now, rootKey.Public(), nil /* self-signed */, rootKey)
	if err != nil {
		return nil, err
	}
	if err := doc.addKey(root, rootKey, rootCert, seal, now); err != nil {
		return nil, err
	}
	for _, a := range authorities {
		if err := doc.addAuthority(a, rootCert, rootKey, seal, now); err != nil {
			return nil, fmt.Errorf("%s: %w", a, err)
		}
	}
	return doc, nil
}

// addAuthority creates the first key of an authority and adds it to the document, with the private key sealed
// (encrypted by seal). An X.509 authority also gets a certificate: that of service-x509 is signed by the
// root, that of user-x509 by itself. The SSH and rules authorities have a key alone.
func (d *document) addAuthority(
	authority Authority,
	rootCert *x509.Certificate,
	rootKey crypto.Signer,
	seal Seal,
	now time.Time,
) error {
	key, err := newKey(authority)
	if err != nil {
		return err
	}
	var cert *x509.Certificate // nil for an authority without a certificate
	switch authority {
	case userX509:
		cert, err = signAuthority(authority, d.Cluster, now, key.Public(), nil /* self-signed */, key)
	case serviceX509:
		cert, err = signAuthority(authority, d.Cluster, now, key.Public(), rootCert, rootKey)
	}
	if err != nil {
		return err
	}
	return d.addKey(authority, key, cert, seal, now)
}

// addKey adds the first key of an authority to the document: the public key and the certificate as they are,
// the private key sealed under sealName. cert is nil for an authority without a certificate.
func (d *document) addKey(
	authority Authority,
	key crypto.Signer,
	cert *x509.Certificate,
	seal Seal,
	now time.Time,
) error {
	const generation = 1
	plain, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("encode key: %w", err)
	}
	defer clear(plain)
	stored := storedKey{Authority: authority, Generation: generation, State: Active, Created: now}
	if stored.Sealed, err = seal.Seal(sealName(d.Cluster, authority, generation), plain); err != nil {
		return fmt.Errorf("seal key: %w", err)
	}
	if stored.Public, err = x509.MarshalPKIXPublicKey(key.Public()); err != nil {
		return fmt.Errorf("encode public key: %w", err)
	}
	if cert != nil {
		stored.Cert = cert.Raw
	}
	d.Keys = append(d.Keys, stored)
	return nil
}

// newKey creates a key of the authority's type (see Authority.fits).
func newKey(a Authority) (crypto.Signer, error) {
	if a.hasCert() {
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	return key, err
}

// signAuthority makes and signs the certificate of an X.509 authority with the public key pub. The issuer is
// parent, and key is the issuer's private key. A nil parent means self-signed: the certificate is its own
// issuer, and key is its own private key.
func signAuthority(
	authority Authority,
	cluster string,
	now time.Time,
	pub crypto.PublicKey,
	parent *x509.Certificate,
	key crypto.Signer,
) (*x509.Certificate, error) {
	bound := new(big.Int).Lsh(big.NewInt(1), 127) // 127 random bits are positive in 16 octets
	serial, err := rand.Int(rand.Reader, bound)
	if err != nil {
		return nil, fmt.Errorf("draw a serial: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber:          serial.Add(serial, big.NewInt(1)), // never zero
		Subject:               subject(authority, cluster),
		NotBefore:             now.Add(-identity.Skew),
		NotAfter:              now.AddDate(authorityYears, 0, 0),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true, // it signs leaves only
	}
	// The extended key usages of an authority limit those of its certificates: no certificate under user-x509
	// is valid for a server.
	switch authority {
	case root: // it signs one level of authorities
		template.NotAfter = now.AddDate(rootYears, 0, 0)
		template.MaxPathLen, template.MaxPathLenZero = 1, false
	case userX509:
		template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	case serviceX509:
		template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	}
	if selfSigned := parent == nil; selfSigned {
		parent = template
	}
	return x509util.CreateCertificate(template, parent, pub, key)
}

// subject is the name in an authority's certificate. A cluster name that is too long is left out.
func subject(a Authority, cluster string) pkix.Name {
	n := pkix.Name{CommonName: "Threshold " + string(a) + " 1"}
	if len(cluster) <= maxCN {
		n.Organization = []string{cluster}
	}
	return n
}
