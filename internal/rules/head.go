package rules

import (
	"bytes"
	"crypto"
	"encoding/json"
	"fmt"
	"time"

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/wire"
)

// Head says which revision of each document is current. Of two heads of an epoch the one with the later
// sequence is the newer one; their times do not matter for that.
type Head struct {
	V        int      `json:"v"`
	Cluster  string   `json:"cluster"`
	Epoch    uint64   `json:"epoch"` // of the authorities, and of every revision that the head names
	Sequence Sequence `json:"sequence"`
	// Time is when the head was signed, by the clock of auth. It says only how old the head is.
	Time     time.Time     `json:"time"`
	Docs     map[Kind]Ref  `json:"docs"`
	Critical wire.Critical `json:"critical,omitempty"` // names of fields that a reader must know
}

// Sequence is the number of a head. Auth never signs two different heads with the same one in an epoch: a
// term belongs to one run of one replica, which counts its heads (auth/rules).
type Sequence struct {
	Term    uint64 `json:"term"`
	Counter uint64 `json:"counter"`
}

// Before reports whether s comes before o.
func (s Sequence) Before(o Sequence) bool {
	return s.Term < o.Term || s.Term == o.Term && s.Counter < o.Counter
}

func (s Sequence) String() string { return fmt.Sprintf("%d.%d", s.Term, s.Counter) }

// Ref names one signed document by revision and by the SHA-256 of its payload.
type Ref struct {
	Revision Revision `json:"revision"`
	Digest   []byte   `json:"digest"`
	// Reader is the lowest version of the kind's format that a program must know to read the document.
	Reader int `json:"reader"`
	// Critical says that a program which does not know the kind must not use the head.
	Critical bool `json:"critical,omitempty"`
}

// names reports whether the reference is to a document with this digest.
func (r Ref) names(digest Digest) bool { return bytes.Equal(r.Digest, digest[:]) }

// RefTo returns the entry of a head for a signed document.
func RefTo(s Signed, r Revision) Ref {
	var header struct {
		V int `json:"v"`
	}
	_ = json.Unmarshal(s.Payload, &header) // SignDocument made it
	digest := s.Digest()
	return Ref{Revision: r, Digest: digest[:], Reader: header.V}
}

// SignHead signs a head with a rules key of the current authorities.
func SignHead(key crypto.Signer, h Head) (Signed, error) {
	h.V = Version
	return sign(key, headKind, h)
}

// decodeHead verifies that one of keys signed the head for the cluster, and that this program can use it. It
// does not look at any document.
func decodeHead(s Signed, cluster string, keys []crypto.PublicKey) (Head, error) {
	var head Head
	if len(s.Payload) > maxHeadBytes {
		return head, fmt.Errorf("rules: head of %d bytes is larger than %d", len(s.Payload), maxHeadBytes)
	}
	if err := s.verify(headKind, keys...); err != nil {
		return head, err
	}
	if err := json.Unmarshal(s.Payload, &head); err != nil {
		return head, fmt.Errorf("rules: head: %w", err)
	}
	err := wire.Check("the head of the rules", head.V, Version, head.Critical, wire.Fields(head)...)
	if err != nil {
		return head, err
	}
	if head.Cluster != cluster {
		return head, fmt.Errorf("rules: head is of cluster %.80q, not %q", head.Cluster, cluster)
	}
	if len(head.Docs) > maxKinds {
		return head, fmt.Errorf("rules: head names %d kinds, more than %d", len(head.Docs), maxKinds)
	}
	for kind, ref := range head.Docs {
		if err := head.checkRef(kind, ref); err != nil {
			return head, err
		}
	}
	return head, nil
}

// checkRef returns an error for an entry that no head may have, and a fault for one that this program cannot
// use: of a kind that is critical and that it does not know, or of a format that is too new.
func (h Head) checkRef(kind Kind, ref Ref) error {
	if err := kind.check(); err != nil {
		return err
	}
	if ref.Revision.Epoch != h.Epoch {
		return fmt.Errorf("rules: head of epoch %d names %s of revision %s", h.Epoch, kind, ref.Revision)
	}
	newest, known := newestVersion[kind]
	switch {
	case known && ref.Reader > newest:
		return rulesVersionUnknown.New("rules", fault.Args{
			"kind":    kind,
			"version": ref.Reader,
			"newest":  newest,
		})
	case !known && ref.Critical:
		return rulesKindUnknown.New("rules", fault.Args{"kind": kind, "version": ref.Reader})
	}
	return nil
}

// checkFollows returns an error if the head, whose payload is s, is older than prev, or has its number but is
// another head, or names an older revision of a document. A zero prev is followed by every head.
func (h Head) checkFollows(prev Head, s, prevSigned Signed) error {
	if prev.V == 0 || s.equal(prevSigned) {
		return nil
	}
	if h.Epoch == prev.Epoch {
		if h.Sequence.Before(prev.Sequence) {
			return fmt.Errorf("rules: head %s is older than head %s already held", h.Sequence, prev.Sequence)
		}
		if h.Sequence == prev.Sequence {
			return fmt.Errorf("rules: there are two different heads with the number %s", h.Sequence)
		}
	}
	for kind, old := range prev.Docs {
		if ref, ok := h.Docs[kind]; !ok || ref.Revision.Before(old.Revision) {
			return fmt.Errorf("rules: %s would go back from revision %s", kind, old.Revision)
		}
	}
	return nil
}

// SameDocuments reports whether both heads name the same documents.
func SameDocuments(a, b Head) bool {
	if len(a.Docs) != len(b.Docs) {
		return false
	}
	for kind, ref := range a.Docs {
		if !bytes.Equal(ref.Digest, b.Docs[kind].Digest) {
			return false
		}
	}
	return true
}
