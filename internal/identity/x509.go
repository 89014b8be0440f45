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

// X509Extension is the object identifier of the extension that carries the identity's JSON. It is under 2.25,
// the arc that needs no registration (ITU-T X.667); docs/decisions says why the number is short.
var X509Extension = asn1.ObjectIdentifier{2, 25, 1947282563, 1}

// ALPN names. Every program that speaks TLS needs them beside the verifier.
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

// ParsePin reads the text form of a pin, with or without the "sha256:" in front, in hex or in base64.
func ParsePin(s string) (Pin, error) {
	var p Pin
	body, ok := strings.CutPrefix(s, "sha256:")
	if !ok {
		body = strings.TrimPrefix(s, "sha256//") // the form of curl's --pinnedpubkey
	}
	b, err := hex.DecodeString(body)
	if err != nil && len(body) == base64.StdEncoding.EncodedLen(len(p)) {
		b, err = base64.StdEncoding.Strict().DecodeString(body)
	}
	if err != nil || len(b) != len(p) {
		return p, fmt.Errorf("pin %.80q is not sha256: and 64 hex digits", s)
	}
	copy(p[:], b)
	return p, nil
}

// RootByPin finds the cluster root with the pin among the certificates that a server sent, and checks that it
// is a self-signed authority. The caller then verifies the chain under it. Without such a root it returns a
// *PinError.
func RootByPin(presented []*x509.Certificate, pin Pin) (*x509.Certificate, error) {
	for _, c := range presented {
		got := PinOf(c)
		if subtle.ConstantTimeCompare(got[:], pin[:]) != 1 {
			continue
		}
		if err := c.CheckSignatureFrom(c); err != nil {
			return nil, fmt.Errorf("pinned certificate is no self-signed authority: %w", err)
		}
		return c, nil
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

// VerifyX509 accepts a chain (leaf first) only if it leads to one of roots and is valid now, and if its leaf
// is no CA, has the extended key usage use, and carries exactly one identity: of the cluster, of one of the
// kinds, and equal to its URI SAN.
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
	if roots == nil {
		return Peer{}, fmt.Errorf(
			"no roots to verify a certificate under",
		) // nil would mean the system's roots
	}
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	if _, err := leaf.Verify(x509.VerifyOptions{
		Roots:         roots,
		Intermediates: between,
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

// decodeX509 reads the identity from the extension's value.
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

// verifyLeaf checks a leaf whose chain is verified, and reads its identity.
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
	var raw []byte
	for _, e := range leaf.Extensions {
		if e.Id.Equal(X509Extension) {
			if raw != nil {
				return Peer{}, fmt.Errorf("certificate carries two identities")
			}
			raw = e.Value
		}
	}
	if raw == nil {
		return Peer{}, fmt.Errorf("certificate carries no identity")
	}
	id, err := decodeX509(raw)
	if err != nil {
		return Peer{}, err
	}
	if cluster != AnyCluster && id.Cluster != cluster || !slices.Contains(kinds, id.Kind) {
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
