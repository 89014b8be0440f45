package rules

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
	"time"
)

// pendingFor is how long a Receiver keeps a document that no head has named. A sender sends the head right
// after the documents.
const pendingFor = 2 * time.Minute

// Receiver holds the rules in force, and takes newer ones piece by piece, in any order, from any number of
// senders, none of whom it trusts. Documents and authorities get in force together, as a head names them. It
// is safe for concurrent use.
type Receiver struct {
	current atomic.Pointer[Trust] // never nil; written with mu held

	mu sync.Mutex // guards the fields below
	// base is the rules in force, with the revisions of the authorities that came after them. Heads and
	// documents are verified by base: a key that base does not have signs nothing any more.
	base    *Trust
	pending map[Kind]pendingDocument // what came and is not in force; nobody has verified it
	waiting *Signed                  // the newest head whose documents have not all come
	number  Sequence                 // of waiting
	since   time.Time                // when waiting, or a link in base, was first shown; zero: there is none
	changed chan struct{}            // closed when other documents get in force, and then replaced
}

// pendingDocument is a document that no head in force names.
type pendingDocument struct {
	Signed
	digest Digest
	came   time.Time
}

// Received says what pieces led to.
type Received struct {
	// InForce is the rules that got in force by the pieces; nil if none did.
	InForce *Trust
	// Lacking are the kinds of which a new head names a document that has not come. The sender that sent the
	// head should send them again, whole.
	Lacking []Kind
}

// NewReceiver returns a receiver that has verified rules in force. now is the clock of this machine.
func NewReceiver(t *Trust, now time.Time) *Receiver {
	base := *t
	base.heard = now
	r := &Receiver{base: &base, pending: map[Kind]pendingDocument{}, changed: make(chan struct{})}
	r.current.Store(&base)
	return r
}

// Current returns the rules in force. It is never nil.
func (r *Receiver) Current() *Trust { return r.current.Load() }

// Changed returns a channel that is closed when the next change of a document gets in force. Take it before
// Current, so that no change is missed. A new head over the same documents is no change.
func (r *Receiver) Changed() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.changed
}

// Offer takes pieces, in their wire form, and puts in force what is complete and newer. The error says which
// of the pieces are not used, and why; the other ones are. A document that waits for its head, and a head
// that waits for its documents, is no error.
func (r *Receiver) Offer(now time.Time, pieces ...[]byte) (Received, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	maps.DeleteFunc(r.pending, func(_ Kind, p pendingDocument) bool { return now.Sub(p.came) > pendingFor })
	var out Received
	var errs []error
	for _, b := range pieces {
		piece, err := decodePiece(b)
		switch {
		case err != nil:
		case piece.Kind == headKind:
			err = r.takeHead(*piece.Document, now, &out)
		case piece.Kind == AuthoritiesKind:
			err = r.takeLink(*piece.Document)
		default:
			err = r.takeDocument(piece, now)
		}
		errs = append(errs, err)
	}
	errs = append(errs, r.retryWaiting(now, &out))
	r.keepWaiting(now)
	return out, errors.Join(errs...)
}

// retryWaiting tries to put the head in force that waits for documents: they may have come.
func (r *Receiver) retryWaiting(now time.Time, out *Received) error {
	if r.waiting == nil {
		return nil
	}
	var retried Received
	err := r.takeHead(*r.waiting, now, &retried)
	if retried.InForce != nil {
		*out = retried
	} else if out.Lacking != nil { // a head came now; some of what it lacked may have come after it
		out.Lacking = retried.Lacking
	}
	return err
}

// keepWaiting notes since when something newer than the rules in force is known and not complete, and tells
// it to those who decide by the rules in force.
func (r *Receiver) keepWaiting(now time.Time) {
	linksWait := r.base.newest.Revision != r.current.Load().newest.Revision
	switch {
	case r.waiting == nil && !linksWait:
		r.since = time.Time{}
	case r.since.IsZero():
		r.since = now
	}
	if current := r.current.Load(); current.waitsSince != r.since {
		marked := *current
		marked.waitsSince = r.since
		r.current.Store(&marked)
	}
}

// takeLink verifies a revision of the authorities that is newer than those in base, and adds it to base.
func (r *Receiver) takeLink(link Signed) error {
	base, err := r.base.withLinks([]Signed{link})
	if err != nil {
		return err
	}
	r.base = base
	return nil
}

// takeDocument keeps a document until a head names it. It is not verified before that. A delta to a document
// that is not there is not an error: the head will name what lacks.
func (r *Receiver) takeDocument(piece Piece, now time.Time) error {
	var doc Signed
	if piece.Document != nil {
		doc = *piece.Document
	} else {
		prev, found := r.find(piece.Kind, piece.Delta.From)
		if _, have := r.find(piece.Kind, piece.Delta.To); have || !found {
			return nil
		}
		var err error
		if doc, err = piece.Delta.apply(prev.Payload); err != nil {
			return err
		}
	}
	digest := doc.Digest()
	if r.isInForce(piece.Kind, digest[:]) {
		return nil
	}
	size := len(doc.Payload)
	for kind, p := range r.pending {
		if kind != piece.Kind {
			size += len(p.Payload)
		}
	}
	_, replaces := r.pending[piece.Kind]
	if size > MaxSetBytes || len(doc.Payload) > MaxDocumentBytes || !replaces && len(r.pending) >= maxKinds {
		const format = "rules: %s of %d bytes is not kept: what waits for a head is too large"
		return fmt.Errorf(format, piece.Kind, len(doc.Payload))
	}
	r.pending[piece.Kind] = pendingDocument{doc, digest, now}
	return nil
}

// isInForce reports whether the head in force names the document with the digest.
func (r *Receiver) isInForce(kind Kind, digest []byte) bool {
	ref, ok := r.base.Head.Docs[kind]
	return ok && bytes.Equal(ref.Digest, digest)
}

// find returns the document with the digest, if it is in force or waits for a head.
func (r *Receiver) find(kind Kind, digest []byte) (Signed, bool) {
	if r.isInForce(kind, digest) {
		return r.base.set.Docs[kind], true
	}
	if p, ok := r.pending[kind]; ok && bytes.Equal(p.digest[:], digest) {
		return p.Signed, true
	}
	return Signed{}, false
}

// takeHead puts a head in force with the documents that it names, if all of them are there. Otherwise the
// head waits for them, unless a newer one waits already.
func (r *Receiver) takeHead(head Signed, now time.Time, out *Received) error {
	offered := make(map[Kind]Signed, len(r.pending))
	for kind, p := range r.pending {
		offered[kind] = p.Signed
	}
	next, err := r.base.withHead(head, offered)
	var missing *MissingError
	if errors.As(err, &missing) {
		out.Lacking = missing.Kinds
		if number := sequenceOf(head); r.waiting == nil || r.number.Before(number) {
			r.waiting, r.number = &head, number
		}
		return nil
	}
	if err != nil {
		if r.waiting != nil && r.waiting.equal(head) {
			r.waiting = nil // its documents came, and cannot be used
		}
		return err
	}
	next.heard = now
	if r.base.set.Head.equal(head) {
		next.heard = r.base.heard // it comes again: its age goes on
	}
	r.putInForce(next)
	out.InForce, out.Lacking = next, nil
	return nil
}

// putInForce makes next the rules in force.
func (r *Receiver) putInForce(next *Trust) {
	old := r.current.Load()
	r.base = next
	r.current.Store(next)
	if r.waiting != nil && !next.Head.Sequence.Before(r.number) {
		r.waiting = nil
	}
	maps.DeleteFunc(r.pending, func(kind Kind, p pendingDocument) bool {
		return r.isInForce(kind, p.digest[:])
	})
	if !SameDocuments(old.Head, next.Head) {
		close(r.changed)
		r.changed = make(chan struct{})
	}
}

// sequenceOf returns the number of a head whose signature has been verified.
func sequenceOf(head Signed) Sequence {
	var h Head
	_ = json.Unmarshal(head.Payload, &h)
	return h.Sequence
}
