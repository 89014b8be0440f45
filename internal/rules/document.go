// Package rules answers: what are the cluster's rules, and who signed them?
//
// Auth publishes documents (authorities and roles) and every few seconds a head that names the current
// revision of each. All are signed, so a stolen proxy, which passes them on, can neither loosen nor mix them.
// Each revision of authorities is signed by the rules key of the one before, and the first by the cluster
// root key, so a machine that knows only the pin can verify the chain. Trust is the verified set; only Open
// and Advance make one.
package rules

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/identity"
)

// Version is the format of heads, and of documents that use nothing newer.
const Version = 1

// sessionLimitsVersion is the format of a roles document that limits sessions. A program that does not know
// those options would not enforce them, so it must refuse the document. Roles without them stay readable to
// it (docs/decisions/0009).
const sessionLimitsVersion = 2

// MaxSetBytes bounds a Set on the wire and on disk.
const MaxSetBytes = 4 << 20

// Kind names a document. Append only.
type Kind string

const (
	AuthoritiesKind Kind = "authorities"
	RolesKind       Kind = "roles"
	headKind        Kind = "head"
)

// Revision orders the versions of a document: first by epoch, which only a restore or a compromised key
// raises, then by the index of the log entry that made it.
type Revision struct {
	Epoch uint64 `json:"epoch"`
	Index uint64 `json:"index"`
}

// Before reports whether r is older than o.
func (r Revision) Before(o Revision) bool {
	return r.Epoch < o.Epoch || r.Epoch == o.Epoch && r.Index < o.Index
}

func (r Revision) String() string { return fmt.Sprintf("%d.%d", r.Epoch, r.Index) }

// Document is the signed form of authorities and roles.
type Document struct {
	V        int             `json:"v"`
	Kind     Kind            `json:"kind"`
	Cluster  string          `json:"cluster"`
	Revision Revision        `json:"revision"`
	Time     time.Time       `json:"time"` // the time of the command that made it
	Body     json.RawMessage `json:"body"`
}

// Authorities is the body of the authorities document: the keys and certificates that verifiers trust. Active
// ones come first.
type Authorities struct {
	Root        []byte   `json:"root"`         // DER; its key's hash is the pin
	UserSSH     [][]byte `json:"user_ssh"`     // SSH wire format
	HostSSH     [][]byte `json:"host_ssh"`     // SSH wire format
	UserX509    [][]byte `json:"user_x509"`    // DER, self-signed
	ServiceX509 [][]byte `json:"service_x509"` // DER, signed by Root
	Rules       [][]byte `json:"rules"`        // Ed25519 public keys, 32 bytes
}

// Roles is the body of the roles document.
type Roles struct {
	Roles []access.Role `json:"roles"`
}

// Head says which revision of each document is current.
type Head struct {
	V       int          `json:"v"`
	Cluster string       `json:"cluster"`
	Epoch   uint64       `json:"epoch"`
	Time    time.Time    `json:"time"`
	Docs    map[Kind]Ref `json:"docs"`
}

// Ref names one signed document by revision and by the SHA-256 of its payload.
type Ref struct {
	Revision Revision `json:"revision"`
	Digest   []byte   `json:"digest"`
}

// Signed is a payload and its signature. Nothing in it may be used before verify.
type Signed struct {
	Payload []byte `json:"payload"`
	Sig     []byte `json:"sig"`
}

// Set is everything that a verifier needs. Nothing in it may be used before Open or Advance has verified it.
type Set struct {
	// Chain has the revisions of the authorities document, oldest first. Each is signed by a rules key of the
	// one before. It starts at the first revision. For a verifier that knows some revisions it may start
	// later.
	Chain []Signed `json:"chain"`
	Roles Signed   `json:"roles"` // the roles document
	Head  Signed   `json:"head"`
}

// Decode reads the wire form of a set: JSON of at most MaxSetBytes. It verifies nothing.
func Decode(b []byte) (Set, error) {
	var s Set
	if len(b) > MaxSetBytes {
		return s, fmt.Errorf("rules: set of %d bytes is larger than %d", len(b), MaxSetBytes)
	}
	if err := json.Unmarshal(b, &s); err != nil {
		return s, fmt.Errorf("rules: %w", err)
	}
	return s, nil
}

// DecodeHead reads the wire form of a head: JSON of at most MaxSetBytes. It verifies nothing.
func DecodeHead(b []byte) (Signed, error) {
	var s Signed
	if len(b) > MaxSetBytes {
		return s, fmt.Errorf("rules: a head of %d bytes is larger than %d", len(b), MaxSetBytes)
	}
	if err := json.Unmarshal(b, &s); err != nil {
		return Signed{}, fmt.Errorf("rules: head: %w", err)
	}
	return s, nil
}

// EncodeHead returns the wire form of the set's head alone.
func (s Set) EncodeHead() ([]byte, error) { return json.Marshal(s.Head) }

// Fingerprint is equal for two heads that name the same documents.
func (h Head) Fingerprint() ([sha256.Size]byte, error) {
	b, err := json.Marshal(h.Docs) // sorts the keys
	return sha256.Sum256(b), err
}

// Encode returns the set's wire form.
func (s Set) Encode() ([]byte, error) { return json.Marshal(s) }

// SignDocument encodes and signs a document. key is a rules key of the authorities that are in force before
// the document; for the very first authorities document it is the cluster root key.
//
// SignDocument sets the document's version: the lowest one whose readers enforce everything in the document,
// so that older programs can read as many documents as possible, and refuse those that they would not
// enforce.
func SignDocument(key crypto.Signer, d Document) (Signed, error) {
	d.V = Version
	if d.Kind == RolesKind {
		var body Roles
		if err := decodeStrict(d.Body, &body); err != nil {
			return Signed{}, fmt.Errorf("encode %s: %w", d.Kind, err)
		}
		limitsSessions := func(r access.Role) bool { return r.Options.LimitsSessions() }
		if slices.ContainsFunc(body.Roles, limitsSessions) {
			d.V = sessionLimitsVersion
		}
	}
	return sign(key, d.Kind, d)
}

// SignHead signs a head with a rules key of the current authorities.
func SignHead(key crypto.Signer, h Head) (Signed, error) {
	h.V = Version
	return sign(key, headKind, h)
}

// RefTo returns the entry of a head for a signed document.
func RefTo(s Signed, r Revision) Ref {
	sum := sha256.Sum256(s.Payload)
	return Ref{Revision: r, Digest: sum[:]}
}

// signedMessage is what is signed. It contains the kind, so that a signature over one kind is never valid for
// another.
func signedMessage(kind Kind, payload []byte) []byte {
	return append([]byte("threshold rules v1 "+string(kind)+"\x00"), payload...)
}

// sign encodes content as JSON and signs it as a document of the kind. key is an Ed25519 key, which signs the
// message itself, or an ECDSA key, which signs its SHA-256.
func sign(key crypto.Signer, kind Kind, content any) (Signed, error) {
	payload, err := json.Marshal(content)
	if err != nil {
		return Signed{}, fmt.Errorf("encode %s: %w", kind, err)
	}
	toSign, hash := signedMessage(kind, payload), crypto.Hash(0)
	if _, isECDSA := key.Public().(*ecdsa.PublicKey); isECDSA {
		sum := sha256.Sum256(toSign)
		toSign, hash = sum[:], crypto.SHA256
	}
	sig, err := key.Sign(rand.Reader, toSign, hash)
	if err != nil {
		return Signed{}, fmt.Errorf("sign %s: %w", kind, err)
	}
	return Signed{Payload: payload, Sig: sig}, nil
}

// verify returns the payload if one of keys signed it as a document of the kind, and an error otherwise. It
// does not look into the payload.
func (s Signed) verify(kind Kind, keys []crypto.PublicKey) ([]byte, error) {
	msg := signedMessage(kind, s.Payload)
	sum := sha256.Sum256(msg)
	for _, k := range keys {
		switch k := k.(type) {
		case ed25519.PublicKey:
			if ed25519.Verify(k, msg, s.Sig) {
				return s.Payload, nil
			}
		case *ecdsa.PublicKey:
			if ecdsa.VerifyASN1(k, sum[:], s.Sig) {
				return s.Payload, nil
			}
		}
	}
	return nil, fmt.Errorf("%s is not signed by a key this cluster trusts", kind)
}

// equal reports whether both have the same payload. The signatures may differ: signing is not deterministic.
func (s Signed) equal(other Signed) bool { return bytes.Equal(s.Payload, other.Payload) }

// ParsedAuthorities has the content of Authorities in the form that verifiers use.
type ParsedAuthorities struct {
	Root         *x509.Certificate
	UserSSH      []ssh.PublicKey
	HostSSH      []ssh.PublicKey
	UserRoots    *x509.CertPool      // the user X.509 authorities
	ServiceRoots *x509.CertPool      // the service X.509 authorities, without the cluster root
	Service      []*x509.Certificate // those in ServiceRoots
	rules        []crypto.PublicKey  // the keys that may sign documents and heads
}

// parse parses the keys and certificates. It returns an error if an authority has no key, if a user X.509
// authority is not signed by itself, or if a service X.509 authority is not signed by the root.
func (a Authorities) parse() (parsed ParsedAuthorities, err error) {
	if parsed.Root, err = x509.ParseCertificate(a.Root); err != nil {
		return parsed, fmt.Errorf("authorities: root: %w", err)
	}
	if parsed.UserSSH, err = parseSSH(a.UserSSH); err != nil {
		return parsed, fmt.Errorf("authorities: user_ssh: %w", err)
	}
	if parsed.HostSSH, err = parseSSH(a.HostSSH); err != nil {
		return parsed, fmt.Errorf("authorities: host_ssh: %w", err)
	}
	if parsed.UserRoots, _, err = parseCertificates(a.UserX509, nil /* signed by themselves */); err != nil {
		return parsed, fmt.Errorf("authorities: user_x509: %w", err)
	}
	if parsed.ServiceRoots, parsed.Service, err = parseCertificates(a.ServiceX509, parsed.Root); err != nil {
		return parsed, fmt.Errorf("authorities: service_x509: %w", err)
	}
	for _, key := range a.Rules {
		if len(key) != ed25519.PublicKeySize {
			return parsed, fmt.Errorf("authorities: rules: key of %d bytes", len(key))
		}
		parsed.rules = append(parsed.rules, ed25519.PublicKey(key))
	}
	if len(parsed.UserSSH) == 0 || len(parsed.HostSSH) == 0 || len(parsed.rules) == 0 {
		return parsed, fmt.Errorf("authorities: an authority has no key")
	}
	return parsed, nil
}

// parseSSH parses public keys in SSH wire format. It returns an error for a certificate in place of a key.
func parseSSH(list [][]byte) ([]ssh.PublicKey, error) {
	var out []ssh.PublicKey
	for _, b := range list {
		k, err := ssh.ParsePublicKey(b)
		if err != nil {
			return nil, err
		}
		if _, nested := k.(*ssh.Certificate); nested {
			return nil, fmt.Errorf("there is a certificate where a plain key is expected")
		}
		out = append(out, k)
	}
	return out, nil
}

// parseCertificates parses the certificates of authorities (DER) and returns them, also as a pool. Each must
// be signed by parent; if parent is nil, by itself. An empty list is an error.
func parseCertificates(list [][]byte, parent *x509.Certificate) (*x509.CertPool, []*x509.Certificate, error) {
	pool := x509.NewCertPool()
	var certs []*x509.Certificate
	for _, der := range list {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, nil, err
		}
		signer := cert
		if parent != nil {
			signer = parent
		}
		if err := cert.CheckSignatureFrom(signer); err != nil {
			return nil, nil, err
		}
		pool.AddCert(cert)
		certs = append(certs, cert)
	}
	if len(certs) == 0 {
		return nil, nil, fmt.Errorf("there is no certificate")
	}
	return pool, certs, nil
}

// checkPin returns an error unless the root's key has the pin.
func (p ParsedAuthorities) checkPin(pin identity.Pin) error {
	_, err := identity.RootByPin([]*x509.Certificate{p.Root}, pin)
	return err
}
