package rules

import (
	"encoding/json"
	"fmt"

	"github.com/threshold-access/threshold/internal/wire"
)

// Set is everything that a verifier needs. Nothing in it may be used before Open or Advance has verified it.
type Set struct {
	V int `json:"v"`
	// Chain has revisions of the authorities document, oldest first. The first is signed by the root, each
	// further one by a rules key of the one before, or by the root with a higher epoch. For a verifier that
	// knows some revisions it may start later.
	Chain []Signed `json:"chain"`
	// Docs has the other documents, also of kinds that this program does not know.
	Docs     map[Kind]Signed `json:"docs"`
	Head     Signed          `json:"head"`
	Critical wire.Critical   `json:"critical,omitempty"` // names of fields that a reader must know
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

// Encode returns the set's wire form.
func (s Set) Encode() ([]byte, error) { return json.Marshal(s) }

// Size returns about how many bytes the set's wire form has, and never less.
func (s Set) Size() int {
	const perDocument = 256 // names, punctuation and the signature
	size := perDocument
	count := func(doc Signed) { size += (len(doc.Payload)+2)/3*4 + perDocument }
	count(s.Head)
	for _, link := range s.Chain {
		count(link)
	}
	for _, doc := range s.Docs {
		count(doc)
	}
	return size
}

// check returns an error for a set that this program cannot use, and for one that is too large.
func (s Set) check() error {
	if err := wire.Check("the set of rules", s.V, Version, s.Critical, wire.Fields(s)...); err != nil {
		return err
	}
	if len(s.Docs) > maxKinds {
		return fmt.Errorf("rules: set of %d kinds, more than %d", len(s.Docs), maxKinds)
	}
	return nil
}
