package rules

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/wire"
)

// Version is the newest format of every structure of this package: documents, heads, sets and pieces.
const Version = 1

// Bounds of what a program reads, checked before memory is allocated for it.
const (
	// MaxDocumentBytes bounds the payload of a document. It has room for 10,000 locks of 512 bytes.
	MaxDocumentBytes = 6 << 20
	// MaxPieceBytes bounds the encoding of a piece, in which a payload takes a third more.
	MaxPieceBytes = MaxDocumentBytes/3*4 + 64<<10
	// MaxSetBytes bounds a whole Set on the wire and on disk.
	MaxSetBytes = 24 << 20
	// maxHeadBytes and maxAuthoritiesBytes bound the payloads of a head and of an authorities document.
	maxHeadBytes, maxAuthoritiesBytes = 64 << 10, 256 << 10
	// maxKinds is how many kinds of documents there may be.
	maxKinds = 32
)

// Kind names a document. Append only.
type Kind string

const (
	AuthoritiesKind Kind = "authorities"
	RolesKind       Kind = "roles"
	SettingsKind    Kind = "settings"
	// MachineLocksKind has the locks of machines, which everybody may read, and UserLocksKind all others,
	// which only machines get.
	MachineLocksKind Kind = "machine-locks"
	UserLocksKind    Kind = "user-locks"
	// These two are no documents: a piece may be a head, and acknowledgements are signed by machines.
	headKind            Kind = "head"
	acknowledgementKind Kind = "acknowledgement"
)

// newestVersion is, for each kind that this program reads, the newest format that it knows.
var newestVersion = map[Kind]int{
	AuthoritiesKind:  1,
	RolesKind:        1,
	SettingsKind:     1,
	MachineLocksKind: 1,
	UserLocksKind:    1,
}

// check returns an error for a name that no kind of document can have. A kind is a part of what is signed, so
// it must not contain the byte that ends it there.
func (k Kind) check() error {
	if k == headKind || k == acknowledgementKind || !wire.IsName(string(k)) {
		return fmt.Errorf("rules: %.40q is not a kind of document", k)
	}
	return nil
}

// Digest is the SHA-256 of a payload.
type Digest = [sha256.Size]byte

// Revision orders the versions of a document: first by epoch, which only the root key raises, after a restore
// or when the rules key is compromised; then by the index of the log entry that made it.
type Revision struct {
	Epoch uint64 `json:"epoch"`
	Index uint64 `json:"index"`
}

// Before reports whether r is older than o.
func (r Revision) Before(o Revision) bool {
	return r.Epoch < o.Epoch || r.Epoch == o.Epoch && r.Index < o.Index
}

func (r Revision) String() string { return fmt.Sprintf("%d.%d", r.Epoch, r.Index) }

// Document is the signed form of authorities, roles, settings and locks.
type Document struct {
	V        int       `json:"v"`
	Kind     Kind      `json:"kind"`
	Cluster  string    `json:"cluster"`
	Revision Revision  `json:"revision"`
	Time     time.Time `json:"time"` // the time of the command that made it
	// Critical names fields that a reader must know: of the document, or of its body, as "body.roles.name".
	Critical wire.Critical   `json:"critical,omitempty"`
	Body     json.RawMessage `json:"body"`
}

// Roles is the body of the roles document.
type Roles struct {
	Roles []access.Role `json:"roles"`
}

// Signed is a payload and its signature. Nothing in it may be used before verify.
type Signed struct {
	Payload []byte `json:"payload"`
	Sig     []byte `json:"sig"`
}

// Digest is the SHA-256 of the payload, by which heads and deltas name a document.
func (s Signed) Digest() Digest { return sha256.Sum256(s.Payload) }

// SignDocument encodes and signs a document. key is a rules key of the authorities that are in force before
// the document; for the first authorities document of an epoch it is the cluster root key.
//
// SignDocument sets the document's version: the lowest that can express it. In a roles document it calls
// every field critical that a role uses: a program that did not know one would allow what the role restricts
// (docs/decisions/0020).
func SignDocument(key crypto.Signer, d Document) (Signed, error) {
	d.V = 1
	if d.Kind == RolesKind {
		var body Roles
		if err := decodeStrict(d.Body, &body); err != nil {
			return Signed{}, fmt.Errorf("encode %s: %w", d.Kind, err)
		}
		d.Critical = inBody(wire.FieldsIn(body))
	}
	return sign(key, d.Kind, d)
}

// inBody returns the names of fields of a body as they are named in Document.Critical.
func inBody(fields []string) []string {
	out := make([]string, len(fields))
	for i, name := range fields {
		out[i] = "body." + name
	}
	return out
}

// signedMessage is what is signed. It contains the kind, so that a signature over one kind is never valid for
// another. Of the payload it has the digest, by which heads name the document anyway: a document of locks has
// megabytes, and Ed25519 would hash all of it once more.
func signedMessage(kind Kind, payload Digest) []byte {
	return append([]byte("threshold rules v1 "+string(kind)+"\x00"), payload[:]...)
}

// sign encodes content as JSON and signs it as a document of the kind. key is an Ed25519 key, which signs the
// message itself, or an ECDSA key, which signs its SHA-256.
func sign(key crypto.Signer, kind Kind, content any) (Signed, error) {
	payload, err := json.Marshal(content)
	if err != nil {
		return Signed{}, fmt.Errorf("encode %s: %w", kind, err)
	}
	if len(payload) > MaxDocumentBytes {
		const format = "encode %s: %d bytes are more than %d"
		return Signed{}, fmt.Errorf(format, kind, len(payload), MaxDocumentBytes)
	}
	toSign, hash := signedMessage(kind, sha256.Sum256(payload)), crypto.Hash(0)
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

// verify returns nil if one of keys signed the payload as one of the kind, and an error otherwise. It
// does not look into the payload.
func (s Signed) verify(kind Kind, keys ...crypto.PublicKey) error {
	return s.verifyDigest(kind, s.Digest(), keys...)
}

// verifyDigest is verify for a caller who has the digest of the payload.
func (s Signed) verifyDigest(kind Kind, digest Digest, keys ...crypto.PublicKey) error {
	if len(s.Payload) > MaxDocumentBytes {
		return fmt.Errorf("rules: %s of %d bytes is larger than %d", kind, len(s.Payload), MaxDocumentBytes)
	}
	msg := signedMessage(kind, digest)
	for _, k := range keys {
		switch k := k.(type) {
		case ed25519.PublicKey:
			if ed25519.Verify(k, msg, s.Sig) {
				return nil
			}
		case *ecdsa.PublicKey:
			sum := sha256.Sum256(msg)
			if ecdsa.VerifyASN1(k, sum[:], s.Sig) {
				return nil
			}
		}
	}
	return fmt.Errorf("rules: %s is not signed by a key this cluster trusts", kind)
}

// equal reports whether both have the same payload. The signatures may differ: ECDSA signs differently each
// time.
func (s Signed) equal(other Signed) bool { return bytes.Equal(s.Payload, other.Payload) }

// decodeDocument decodes the payload of a document, which has been verified, and returns it. It decodes the
// document's body into the value that body points to. It returns an error for a document of another kind or
// cluster, and a fault for one that this program cannot use.
func decodeDocument(payload []byte, kind Kind, body any) (Document, error) {
	var doc Document
	if err := json.Unmarshal(payload, &doc); err != nil {
		return doc, fmt.Errorf("rules: %s: %w", kind, err)
	}
	if doc.Kind != kind {
		return doc, fmt.Errorf("rules: got a document of kind %.40q, want %s", doc.Kind, kind)
	}
	known := slices.Concat(wire.Fields(doc), inBody(wire.Fields(body)))
	what := "the document " + string(kind)
	if err := wire.Check(what, doc.V, newestVersion[kind], doc.Critical, known...); err != nil {
		return doc, err
	}
	if err := identity.CheckCluster(doc.Cluster); err != nil {
		return doc, err
	}
	if err := json.Unmarshal(doc.Body, body); err != nil {
		return doc, fmt.Errorf("rules: %s: %w", kind, err)
	}
	return doc, nil
}

// decodeStrict is json.Unmarshal that returns an error for an unknown field.
func decodeStrict(b []byte, into any) error {
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	return dec.Decode(into)
}
