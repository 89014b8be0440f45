package keyring

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/threshold-access/threshold/internal/identity"
)

// RootKey is the private key of a cluster's root. It is made once, with the cluster, and then kept outside
// the store (package rootkey): no running replica has it. It signs what lets verifiers follow the cluster
// when another key has been lost or stolen.
type RootKey struct {
	cluster string
	cert    *x509.Certificate
	key     *secret
}

// NewRootKey returns the root key of a cluster from its parts. It is an error if the certificate is not the
// self-signed one of an authority, or is of another key.
func NewRootKey(cluster string, cert *x509.Certificate, key crypto.Signer) (*RootKey, error) {
	if err := identity.CheckCluster(cluster); err != nil {
		return nil, err
	}
	if err := cert.CheckSignatureFrom(cert); err != nil || !cert.IsCA {
		return nil, errors.New("the certificate is not that of a root")
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil || !bytes.Equal(public, cert.RawSubjectPublicKeyInfo) || !root.fits(key.Public()) {
		return nil, errors.New("the certificate is of another key")
	}
	return &RootKey{cluster: cluster, cert: cert, key: newSecret(key)}, nil
}

// Cluster is the name of the cluster.
func (r *RootKey) Cluster() string { return r.cluster }

// Certificate is the root's certificate.
func (r *RootKey) Certificate() *x509.Certificate { return r.cert }

// Pin is the SHA-256 of the root's public key.
func (r *RootKey) Pin() identity.Pin { return identity.PinOf(r.cert) }

// Signer signs with the key.
func (r *RootKey) Signer() crypto.Signer { return r.key }

// PKCS8 returns the private key in DER. The caller clears it after use.
func (r *RootKey) PKCS8() ([]byte, error) {
	key, ok := r.key.reveal().(*ecdsa.PrivateKey)
	if !ok {
		return nil, errors.New("the root key was wiped")
	}
	return x509.MarshalPKCS8PrivateKey(key)
}

// SignService signs the certificate of a service-x509 authority with a new key.
func (r *RootKey) SignService(
	generation int, public crypto.PublicKey, now time.Time,
) (*x509.Certificate, error) {
	if !serviceX509.fits(public) {
		return nil, fmt.Errorf("a key of type %T cannot be that of %s", public, serviceX509)
	}
	subject := authorityName{serviceX509, generation}
	return signAuthority(subject, r.cluster, now, public, r.cert, r.key)
}

// Wipe overwrites the key.
func (r *RootKey) Wipe() { r.key.wipe() }

// String returns the cluster and its pin, and nothing of the key.
func (r *RootKey) String() string { return "root key of " + r.cluster + " " + r.Pin().String() }

// MarshalJSON returns nothing of the key.
func (r *RootKey) MarshalJSON() ([]byte, error) { return []byte(`"[private]"`), nil }
