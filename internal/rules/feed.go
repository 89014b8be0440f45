package rules

import (
	"bytes"
	"maps"
	"slices"
)

// Bounds of the deltas that a feed keeps of one document. A receiver that lacks more versions than maxDeltas,
// or for which the deltas would be longer than a part of the document, gets it whole.
const (
	maxDeltas     = 32
	deltaFraction = 2
)

// Feed is one version of the rules, encoded once for all receivers. It is immutable: Follow makes the next
// version. It knows by which deltas a receiver of the last versions gets this one.
type Feed struct {
	set   Set
	head  []byte         // the head, as a piece
	links []encodedPiece // the chain of authorities, oldest first
	docs  []encodedPiece // the other documents, sorted by kind
	// digests are those of docs and of the last of links.
	digests map[string]Digest
}

// encodedPiece is one document as a piece, and the last deltas that led to it.
type encodedPiece struct {
	kind   Kind
	digest Digest
	whole  []byte
	deltas []encodedDelta // oldest first; each begins where the one before ends, and the last ends at digest
}

// encodedDelta is a delta as a piece.
type encodedDelta struct {
	from  Digest
	piece []byte
}

// NewFeed encodes a set. Nobody can get it by deltas.
func NewFeed(s Set) (*Feed, error) { return (&Feed{}).Follow(s) }

// Follow encodes the set that follows the one in f.
func (f *Feed) Follow(s Set) (*Feed, error) {
	next := &Feed{set: s, digests: map[string]Digest{}}
	var err error
	if next.head, err = encodeDocument(headKind, s.Head); err != nil {
		return nil, err
	}
	for i, link := range s.Chain {
		if i < len(f.links) && f.links[i].digest == link.Digest() {
			next.links = append(next.links, f.links[i])
			continue
		}
		whole, err := encodeDocument(AuthoritiesKind, link)
		if err != nil {
			return nil, err
		}
		next.links = append(next.links,
			encodedPiece{kind: AuthoritiesKind, digest: link.Digest(), whole: whole})
	}
	for _, link := range next.links {
		next.digests[string(AuthoritiesKind)] = link.digest // of the last one
	}
	for _, kind := range slices.Sorted(maps.Keys(s.Docs)) {
		piece, err := f.follow(kind, s.Docs[kind])
		if err != nil {
			return nil, err
		}
		next.docs = append(next.docs, piece)
		next.digests[string(kind)] = piece.digest
	}
	return next, nil
}

// follow encodes one document, with the deltas by which a receiver of earlier versions gets it.
func (f *Feed) follow(kind Kind, doc Signed) (encodedPiece, error) {
	prevDoc, had := f.set.Docs[kind]
	var prev encodedPiece
	if had {
		i := slices.IndexFunc(f.docs, func(p encodedPiece) bool { return p.kind == kind })
		if prev = f.docs[i]; prevDoc.equal(doc) && bytes.Equal(prevDoc.Sig, doc.Sig) {
			return prev, nil
		}
	}
	out := encodedPiece{kind: kind, digest: doc.Digest()}
	var err error
	if out.whole, err = encodeDocument(kind, doc); err != nil || !had || prevDoc.equal(doc) {
		return out, err
	}
	delta, err := encodeDelta(kind, prevDoc, doc)
	if err != nil {
		return out, err
	}
	deltas := append(slices.Clone(prev.deltas), encodedDelta{from: prev.digest, piece: delta})
	size := 0
	first := len(deltas) // of those that are worth to keep
	for first > 0 && len(deltas)-first < maxDeltas {
		if size += len(deltas[first-1].piece); size > len(out.whole)/deltaFraction {
			break
		}
		first--
	}
	out.deltas = deltas[first:]
	return out, nil
}

// Next returns the pieces that a receiver needs, in the order in which it needs them, and the head, which it
// needs after them. carried says which version of each kind the receiver was sent last. Afterwards that is
// Digests.
func (f *Feed) Next(carried map[string]Digest) (pieces [][]byte, head []byte) {
	last := carried[string(AuthoritiesKind)]
	known := slices.IndexFunc(f.links, func(p encodedPiece) bool { return p.digest == last })
	for _, link := range f.links[known+1:] { // all of them if known is -1
		pieces = append(pieces, link.whole)
	}
	for _, doc := range f.docs {
		pieces = append(pieces, doc.since(carried[string(doc.kind)])...)
	}
	return pieces, f.head
}

// Digests has the digest of each document by kind; of the authorities that of the newest. It is shared by all
// receivers and must not be changed.
func (f *Feed) Digests() map[string]Digest { return f.digests }

// since returns the pieces by which a receiver that has the version with the digest gets the document: none
// if it has the document, deltas if they are kept, and otherwise the whole document.
func (p encodedPiece) since(digest Digest) [][]byte {
	if digest == p.digest {
		return nil
	}
	for i, delta := range p.deltas {
		if delta.from == digest {
			var pieces [][]byte
			for _, d := range p.deltas[i:] {
				pieces = append(pieces, d.piece)
			}
			return pieces
		}
	}
	return [][]byte{p.whole}
}
