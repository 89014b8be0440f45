package rules

import (
	"encoding/json"
	"fmt"

	"github.com/threshold-access/threshold/internal/wire"
)

// Piece is what of the rules travels alone: the head, or one document, whole or as a delta. A revision of the
// authorities is a document of that kind; it is always whole.
type Piece struct {
	V        int           `json:"v"`
	Kind     Kind          `json:"kind"`
	Document *Signed       `json:"document,omitempty"` // also the head
	Delta    *Delta        `json:"delta,omitempty"`
	Critical wire.Critical `json:"critical,omitempty"` // names of fields that a reader must know
}

// decodePiece reads the wire form of a piece: JSON of at most MaxPieceBytes. It verifies nothing.
func decodePiece(b []byte) (Piece, error) {
	var p Piece
	if len(b) > MaxPieceBytes {
		return p, fmt.Errorf("rules: piece of %d bytes is larger than %d", len(b), MaxPieceBytes)
	}
	if err := json.Unmarshal(b, &p); err != nil {
		return p, fmt.Errorf("rules: piece: %w", err)
	}
	if err := wire.Check("the piece of the rules", p.V, Version, p.Critical, wire.Fields(p)...); err != nil {
		return p, err
	}
	if p.Kind != headKind {
		if err := p.Kind.check(); err != nil {
			return p, err
		}
	}
	mayBeDelta := p.Kind != headKind && p.Kind != AuthoritiesKind
	if (p.Document == nil) == (p.Delta == nil) || p.Delta != nil && !mayBeDelta {
		return p, fmt.Errorf("rules: piece of kind %s has not one document", p.Kind)
	}
	return p, nil
}

// encodeDocument returns the wire form of a piece that is a whole document or the head.
func encodeDocument(kind Kind, s Signed) ([]byte, error) {
	return json.Marshal(Piece{V: Version, Kind: kind, Document: &s})
}

// encodeDelta returns the wire form of a piece that is the delta from prev to next.
func encodeDelta(kind Kind, prev, next Signed) ([]byte, error) {
	from, to := prev.Digest(), next.Digest()
	splices := diff(prev.Payload, next.Payload)
	delta := &Delta{From: from[:], To: to[:], Splices: splices, Sig: next.Sig}
	return json.Marshal(Piece{V: Version, Kind: kind, Delta: delta})
}
