// Package rules answers: what are the cluster's rules, and who says so?
//
// Auth publishes documents — authorities and roles, later locks — and every few seconds a head that names the
// current revision of each. All are signed, so proxies carry them as opaque bytes and a stolen proxy can
// neither loosen nor mix them. Each revision of authorities is signed by its predecessor's rules key, and the
// first by the cluster root key, so a machine that knows only the pin can walk the chain. Trust is the
// verified set; there is no other way to make one than Open and Advance.
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

// Version is the format of heads, and of documents that say nothing newer programs added.
const Version = 1

// sessionLimitsVersion is that of roles which bound sessions. A program that does not know those options
// would let sessions go on that they end, so it must refuse the document; roles without them stay readable to
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

// Revision orders the versions of a document: by epoch, which only a restore or a key compromise raises, then
// by the index of the log entry that made it.
type Revision struct {
	Epoch uint64 `json:"epoch"`
	Index uint64 `json:"index"`
}

// Before reports whether r is older than o.
func (r Revision) Before(o Revision) bool {
	return r.Epoch < o.Epoch || r.Epoch == o.Epoch && r.Index < o.Index
}

func (r Revision) String() string { return fmt.Sprintf("%d.%d", r.Epoch, r.Index) }

// Document is what gets signed for authorities and roles.
type Document struct {
	V        int             `json:"v"`
	Kind     Kind            `json:"kind"`
	Cluster  string          `json:"cluster"`
	Revision Revision        `json:"revision"`
	Time     time.Time       `json:"time"` // of the committed command
	Body     json.RawMessage `json:"body"`
}

// Authorities is the body of the authorities document: the sets verifiers trust. Active keys come first.
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

// Signed is a payload and the signature over it. Nothing in it can be trusted before verify.
type Signed struct {
	Payload []byte `json:"payload"`
	Sig     []byte `json:"sig"`
}

// Set is everything a verifier needs: the chain of authorities (oldest first; it may start later for one who
// has the beginning), the roles and the head.
type Set struct {
	Chain []Signed `json:"chain"`
	Roles Signed   `json:"roles"`
	Head  Signed   `json:"head"`
}

// Decode reads a set's wire form, JSON of at most MaxSetBytes.
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

// DecodeHead reads a head's wire form, JSON of at most MaxSetBytes.
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

// EncodeHead is the wire form of the set's head alone.
func (s Set) EncodeHead() ([]byte, error) { return json.Marshal(s.Head) }

// Fingerprint is the same for two heads if they name the same documents.
func (h Head) Fingerprint() ([sha256.Size]byte, error) {
	b, err := json.Marshal(h.Docs) // which sorts the keys
	return sha256.Sum256(b), err
}

// Encode gives the set's wire form.
func (s Set) Encode() ([]byte, error) { return json.Marshal(s) }

// SignDocument signs a document with the rules key of the authorities before it; the very first with the
// cluster root key. Its version is the lowest whose readers heed all that it says.
func SignDocument(key crypto.Signer, d Document) (Signed, error) {
	d.V = Version
	if d.Kind == RolesKind {
		var body Roles
		if err := decodeStrict(d.Body, &body); err != nil {
			return Signed{}, fmt.Errorf("encode %s: %w", d.Kind, err)
		}
		if slices.ContainsFunc(body.Roles, func(r access.Role) bool { return r.Options.LimitsSessions() }) {
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

// RefTo names a signed document in a head.
func RefTo(s Signed, r Revision) Ref {
	sum := sha256.Sum256(s.Payload)
	return Ref{Revision: r, Digest: sum[:]}
}

// signedMessage separates kinds, so that a signature over one can never pass for another.
func signedMessage(kind Kind, payload []byte) []byte {
	return append([]byte("threshold rules v1 "+string(kind)+"\x00"), payload...)
}

func sign(key crypto.Signer, kind Kind, v any) (Signed, error) {
	payload, err := json.Marshal(v)
	if err != nil {
		return Signed{}, fmt.Errorf("encode %s: %w", kind, err)
	}
	msg, opts := signedMessage(kind, payload), crypto.SignerOpts(crypto.Hash(0))
	if _, ok := key.Public().(*ecdsa.PublicKey); ok {
		sum := sha256.Sum256(msg)
		msg, opts = sum[:], crypto.SHA256
	}
	sig, err := key.Sign(rand.Reader, msg, opts)
	if err != nil {
		return Signed{}, fmt.Errorf("sign %s: %w", kind, err)
	}
	return Signed{Payload: payload, Sig: sig}, nil
}

// verify returns the payload if one of keys signed it as kind.
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

func (s Signed) equal(o Signed) bool { return bytes.Equal(s.Payload, o.Payload) }

// ParsedAuthorities is Authorities in the form that verifiers use.
type ParsedAuthorities struct {
	Root         *x509.Certificate
	UserSSH      []ssh.PublicKey
	HostSSH      []ssh.PublicKey
	UserRoots    *x509.CertPool // anchors of user X.509
	ServiceRoots *x509.CertPool // anchors of service X.509: the service authorities themselves
	Service      []*x509.Certificate
	rules        []crypto.PublicKey
}

func (a Authorities) parse() (p ParsedAuthorities, err error) {
	if p.Root, err = x509.ParseCertificate(a.Root); err != nil {
		return p, fmt.Errorf("authorities: root: %w", err)
	}
	if p.UserSSH, err = parseSSH(a.UserSSH); err != nil {
		return p, fmt.Errorf("authorities: user_ssh: %w", err)
	}
	if p.HostSSH, err = parseSSH(a.HostSSH); err != nil {
		return p, fmt.Errorf("authorities: host_ssh: %w", err)
	}
	if p.UserRoots, _, err = parseCertificates(a.UserX509, nil); err != nil {
		return p, fmt.Errorf("authorities: user_x509: %w", err)
	}
	if p.ServiceRoots, p.Service, err = parseCertificates(a.ServiceX509, p.Root); err != nil {
		return p, fmt.Errorf("authorities: service_x509: %w", err)
	}
	for _, k := range a.Rules {
		if len(k) != ed25519.PublicKeySize {
			return p, fmt.Errorf("authorities: rules: key of %d bytes", len(k))
		}
		p.rules = append(p.rules, ed25519.PublicKey(k))
	}
	if len(p.UserSSH) == 0 || len(p.HostSSH) == 0 || len(p.rules) == 0 {
		return p, fmt.Errorf("authorities: an authority has no key")
	}
	return p, nil
}

func parseSSH(list [][]byte) ([]ssh.PublicKey, error) {
	var out []ssh.PublicKey
	for _, b := range list {
		k, err := ssh.ParsePublicKey(b)
		if err != nil {
			return nil, err
		}
		if _, nested := k.(*ssh.Certificate); nested {
			return nil, fmt.Errorf("a certificate stands where a plain key belongs")
		}
		out = append(out, k)
	}
	return out, nil
}

// parseCertificates parses authorities; where parent is given, each must be signed by it.
func parseCertificates(list [][]byte, parent *x509.Certificate) (*x509.CertPool, []*x509.Certificate, error) {
	p := x509.NewCertPool()
	var certs []*x509.Certificate
	for _, der := range list {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, nil, err
		}
		signer := c
		if parent != nil {
			signer = parent
		}
		if err := c.CheckSignatureFrom(signer); err != nil {
			return nil, nil, err
		}
		p.AddCert(c)
		certs = append(certs, c)
	}
	if len(certs) == 0 {
		return nil, nil, fmt.Errorf("there is none")
	}
	return p, certs, nil
}

// checkPin refuses a root whose key is not the pinned one.
func (p ParsedAuthorities) checkPin(pin identity.Pin) error {
	_, err := identity.RootByPin([]*x509.Certificate{p.Root}, pin)
	return err
}
