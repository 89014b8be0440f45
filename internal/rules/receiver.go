package rules

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
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
	pending map[Kind]candidate // what came and is not in force; nobody has verified it
	waiting *Signed            // the newest head whose documents have not all come
	number  Sequence           // of waiting
	since   time.Time          // when waiting, or a link in base, was first shown; zero: there is none
	changed chan struct{}      // closed when other documents get in force, and then replaced
}

// candidate is a document that no head in force names: a whole one, and the deltas that came after it. The
// deltas are not applied before a head names their result: whoever sends them cannot make the receiver work
// for more than a head is worth.
type candidate struct {
	base   Signed
	deltas []Delta // each begins where the one before ends, as they say; at most maxDeltas
	digest []byte  // of the result, as the last delta says; without deltas that of base
	size   int     // bytes that are kept for it
	came   time.Time
}

// document makes the document. It does not check that this is what the deltas say.
func (c candidate) document() (Signed, error) {
	doc := c.base
	var spare []byte // memory of the result before the last one
	for i, delta := range c.deltas {
		payload, err := delta.apply(spare, doc.Payload)
		if err != nil {
			return Signed{}, err
		}
		if i > 0 { // the memory of base is not ours
			spare = doc.Payload
		}
		doc = Signed{Payload: payload, Sig: delta.Sig}
	}
	return doc, nil
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
	r := &Receiver{base: &base, pending: map[Kind]candidate{}, changed: make(chan struct{})}
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
	maps.DeleteFunc(r.pending, func(_ Kind, c candidate) bool { return now.Sub(c.came) > pendingFor })
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

// takeDocument keeps a document, or a delta, until a head names it. It is not verified before that. A delta
// to a document that is not there is dropped: the head will name what lacks.
func (r *Receiver) takeDocument(piece Piece, now time.Time) error {
	old := r.pending[piece.Kind]
	next := candidate{came: now}
	switch delta := piece.Delta; {
	case delta == nil:
		digest := piece.Document.Digest()
		next.base, next.digest, next.size = *piece.Document, digest[:], len(piece.Document.Payload)
	case r.isInForce(piece.Kind, delta.To):
		return nil
	case old.digest != nil && bytes.Equal(old.digest, delta.From) && len(old.deltas) < maxDeltas:
		next.base, next.deltas = old.base, append(slices.Clone(old.deltas), *delta)
		next.digest, next.size = delta.To, old.size+len(delta.Splices)
	case r.isInForce(piece.Kind, delta.From):
		next.base, next.deltas = r.base.set.Docs[piece.Kind], []Delta{*delta}
		next.digest, next.size = delta.To, len(delta.Splices)
	default:
		return nil
	}
	if r.isInForce(piece.Kind, next.digest) {
		return nil
	}
	size := next.size
	for kind, c := range r.pending {
		if kind != piece.Kind {
			size += c.size
		}
	}
	isNew := old.digest == nil
	if size > MaxSetBytes || next.size > 2*MaxDocumentBytes || isNew && len(r.pending) >= maxKinds {
		const format = "rules: %s of %d bytes is not kept: what waits for a head is too large"
		return fmt.Errorf(format, piece.Kind, next.size)
	}
	r.pending[piece.Kind] = next
	return nil
}

// isInForce reports whether the head in force names the document with the digest.
func (r *Receiver) isInForce(kind Kind, digest []byte) bool {
	ref, ok := r.base.Head.Docs[kind]
	return ok && bytes.Equal(ref.Digest, digest)
}

// document is the source of the documents that wait for a head.
func (r *Receiver) document(kind Kind, ref Ref) (Signed, error) {
	c := r.pending[kind]
	if !bytes.Equal(c.digest, ref.Digest) {
		return Signed{}, fmt.Errorf("there is no %s that the head names", kind)
	}
	return c.document()
}

// takeHead puts a head in force with the documents that it names, if all of them are there. Otherwise the
// head waits for them, unless a newer one waits already. The error says why the head, or a document that
// seemed to be the one that it names, is not used.
func (r *Receiver) takeHead(head Signed, now time.Time, out *Received) error {
	next, err := r.base.withHead(head, r.document)
	var missing *MissingError
	if errors.As(err, &missing) {
		out.Lacking = missing.Kinds
		if number := missing.head.Sequence; r.waiting == nil || r.number.Before(number) {
			r.waiting, r.number = &head, number
		}
		return r.dropSpoiled(missing)
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

// dropSpoiled forgets the documents that said that they are the ones that a head names, and are not. It
// returns an error if there were any.
func (r *Receiver) dropSpoiled(missing *MissingError) (err error) {
	for _, kind := range missing.Kinds {
		c, ok := r.pending[kind]
		if ok && bytes.Equal(c.digest, missing.head.Docs[kind].Digest) {
			delete(r.pending, kind)
			err = missing
		}
	}
	return err
}

// putInForce makes next the rules in force.
func (r *Receiver) putInForce(next *Trust) {
	old := r.current.Load()
	r.base = next
	r.current.Store(next)
	if r.waiting != nil && !next.Head.Sequence.Before(r.number) {
		r.waiting = nil
	}
	maps.DeleteFunc(r.pending, func(kind Kind, c candidate) bool { return r.isInForce(kind, c.digest) })
	if !SameDocuments(old.Head, next.Head) {
		close(r.changed)
		r.changed = make(chan struct{})
	}
}
