package identity

import (
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"
)

// X509Extension is the object identifier of the extension that contains the identity's JSON. It is under
// 2.25, the arc that needs no registration (ITU-T X.667); docs/decisions says why the number is short.
var X509Extension = asn1.ObjectIdentifier{2, 25, 1947282563, 1}

// ALPN names. Every program that uses TLS needs them, together with the verifier.
const (
	ALPNAuth   = "threshold-auth"   // the auth API: TLS end to end, which proxies pass through unopened
	ALPNDial   = "threshold-dial"   // a user's connection to a node
	ALPNTunnel = "threshold-tunnel" // a node's tunnel to a proxy
	ALPNRaft   = "threshold-raft"   // between auth replicas
)

// Pin is the SHA-256 of the cluster root key's SubjectPublicKeyInfo. Its text form is "sha256:" and 64 hex
// digits.
type Pin [sha256.Size]byte

// PinOf returns the pin of a root certificate.
func PinOf(root *x509.Certificate) Pin { return sha256.Sum256(root.RawSubjectPublicKeyInfo) }

func (p Pin) String() string { return "sha256:" + hex.EncodeToString(p[:]) }

// MarshalText and UnmarshalText give a Pin its text form in JSON and YAML.
func (p Pin) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

func (p *Pin) UnmarshalText(b []byte) error {
	got, err := ParsePin(string(b))
	if err == nil {
		*p = got
	}
	return err
}

// ParsePin parses the text form of a pin: 64 hex digits or the same bytes in base64, with "sha256:" or
// "sha256//" in front or nothing.
func ParsePin(s string) (Pin, error) {
	var pin Pin
	digest, ok := strings.CutPrefix(s, "sha256:")
	if !ok {
		digest = strings.TrimPrefix(s, "sha256//") // the form of curl's --pinnedpubkey
	}
	b, err := hex.DecodeString(digest)
	if err != nil && len(digest) == base64.StdEncoding.EncodedLen(len(pin)) {
		b, err = base64.StdEncoding.Strict().DecodeString(digest)
	}
	if err != nil || len(b) != len(pin) {
		return pin, fmt.Errorf("pin %.80q is not sha256: and 64 hex digits", s)
	}
	copy(pin[:], b)
	return pin, nil
}

// RootByPin returns the certificate with the pin among those that a server presented, after checking that it
// is a self-signed authority. It does not verify the others: the caller verifies the chain under the root. If
// no certificate has the pin, the error is a *PinError.
func RootByPin(presented []*x509.Certificate, pin Pin) (*x509.Certificate, error) {
	for _, cert := range presented {
		got := PinOf(cert)
		if subtle.ConstantTimeCompare(got[:], pin[:]) != 1 {
			continue
		}
		if err := cert.CheckSignatureFrom(cert); err != nil {
			return nil, fmt.Errorf("pinned certificate is no self-signed authority: %w", err)
		}
		return cert, nil
	}
	return nil, &PinError{Want: pin}
}

// PinError says that a server is not of the cluster with the pin.
type PinError struct{ Want Pin }

func (e *PinError) Error() string {
	return "the server does not show the cluster root with pin " + e.Want.String()
}

// Peer is what a verified X.509 certificate says. Only the verifiers make one.
type Peer struct {
	Identity
	Cert *x509.Certificate
}

// AnyCluster is passed for the cluster's name at a first contact, where only the pin is known.
const AnyCluster = "*"

// VerifyX509 verifies the chain that a peer presented, leaf first, and returns who the peer is. It accepts a
// chain only if it leads to one of roots and is valid now, and if the leaf is no authority, has the extended
// key usage use, and contains exactly one identity: of the cluster (AnyCluster accepts all), of one of kinds,
// and the same as its URI SAN. For a leaf that is not valid now the error is an *ExpiredError.
//
// It does not show that the peer holds the private key: the TLS handshake does.
func VerifyX509(
	chain []*x509.Certificate,
	cluster string,
	roots *x509.CertPool,
	use x509.ExtKeyUsage,
	now time.Time,
	kinds ...Kind,
) (Peer, error) {
	if len(chain) == 0 {
		return Peer{}, fmt.Errorf("no certificate was presented")
	}
	if len(chain) > maxChain {
		return Peer{}, fmt.Errorf("%d certificates were presented, more than %d", len(chain), maxChain)
	}
	leaf := chain[0]
	if err := checkValidity(leaf.NotBefore, leaf.NotAfter, now); err != nil {
		return Peer{}, err
	}
	if roots == nil { // x509 would take nil for the system's roots
		return Peer{}, fmt.Errorf("no roots to verify a certificate under")
	}
	intermediates := x509.NewCertPool()
	for _, cert := range chain[1:] {
		intermediates.AddCert(cert)
	}
	if _, err := leaf.Verify(x509.VerifyOptions{
		Roots:         roots,
		Intermediates: intermediates,
		CurrentTime:   now,
		KeyUsages:     []x509.ExtKeyUsage{use},
	}); err != nil {
		return Peer{}, fmt.Errorf("certificate: %w", err)
	}
	// Verify accepts a leaf without extended key usages, or with "any", for every use. Our certificates
	// always name theirs.
	if !slices.Contains(leaf.ExtKeyUsage, use) {
		return Peer{}, fmt.Errorf("certificate is not for this use")
	}
	return verifyLeaf(leaf, cluster, kinds)
}

// X509Value returns the extension's value for an encoded identity: a DER UTF8String, as RFC 5280 section 4.2
// wants DER.
func X509Value(encoded []byte) ([]byte, error) {
	return asn1.MarshalWithParams(string(encoded), "utf8")
}

// decodeX509 decodes the identity in the value of an X509Extension. It verifies nothing: see decode.
func decodeX509(value []byte) (Identity, error) {
	if len(value) > MaxBytes+8 {
		return Identity{}, fmt.Errorf("identity extension is %d bytes, more than %d", len(value), MaxBytes)
	}
	var text string
	rest, err := asn1.UnmarshalWithParams(value, &text, "utf8")
	if err != nil || len(rest) != 0 {
		return Identity{}, fmt.Errorf("identity extension is not one DER text")
	}
	return decode([]byte(text))
}

// maxChain bounds how many certificates a peer may send: the leaf, some authorities during a rotation, and
// the root.
const maxChain = 8

// verifyLeaf reads the identity in a leaf whose chain has been verified. It returns an error if the
// certificate is not one that ca would have issued, or if the identity is not of the cluster and one of
// kinds.
func verifyLeaf(leaf *x509.Certificate, cluster string, kinds []Kind) (Peer, error) {
	if leaf.IsCA || leaf.KeyUsage&x509.KeyUsageCertSign != 0 {
		return Peer{}, fmt.Errorf("certificate is an authority's own")
	}
	if leaf.NotAfter.Sub(leaf.NotBefore) > MaxLifetime+Skew+time.Second {
		return Peer{}, errLifetimeTooLong
	}
	if err := CheckKey(leaf.PublicKey); err != nil {
		return Peer{}, fmt.Errorf("certificate's key: %w", err)
	}
	var extension []byte
	for _, e := range leaf.Extensions {
		if e.Id.Equal(X509Extension) {
			if extension != nil { // two readers could take different ones
				return Peer{}, fmt.Errorf("certificate has two identities")
			}
			extension = e.Value
		}
	}
	if extension == nil {
		return Peer{}, fmt.Errorf("certificate has no identity")
	}
	id, err := decodeX509(extension)
	if err != nil {
		return Peer{}, err
	}
	isOfCluster := cluster == AnyCluster || id.Cluster == cluster
	if !isOfCluster || !slices.Contains(kinds, id.Kind) {
		return Peer{}, fmt.Errorf(
			"certificate is of a %s of cluster %q, which may not do this",
			id.Kind, id.Cluster,
		)
	}
	if len(leaf.URIs) != 1 || leaf.URIs[0].String() != id.URI() {
		return Peer{}, fmt.Errorf("certificate's URI and identity disagree")
	}
	id.Expires = leaf.NotAfter
	return Peer{Identity: id, Cert: leaf}, nil
}
