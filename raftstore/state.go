package raftstore

import (
	"bytes"
	"encoding/binary"
	"strings"
	"time"

	iradix "github.com/hashicorp/go-immutable-radix/v2"
)

// state is everything the log says, at one revision. It is immutable: readers and snapshots keep theirs while
// the machine makes the next, and share what did not change.
type state struct {
	revision   Revision // the last command's index
	term       uint64   // and its term
	clock      int64    // ns since 1970; the latest a leader stamped
	lastLease  LeaseID
	firstWrite Revision // the first revision that wrote a key; 0: none ever did

	items       *iradix.Tree[*Item]
	leases      *iradix.Tree[time.Duration] // lease → its time to live
	keysByLease *iradix.Tree[string]        // lease and key → key
	streams     *iradix.Tree[stream]
}

func newState() *state {
	return &state{
		items:       iradix.New[*Item](),
		leases:      iradix.New[time.Duration](),
		keysByLease: iradix.New[string](),
		streams:     iradix.New[stream](),
	}
}

func leaseKey(id LeaseID) []byte { return binary.BigEndian.AppendUint64(nil, uint64(id)) }

func leaseItemKey(id LeaseID, key string) []byte { return append(leaseKey(id), key...) }

// verdict is what became of one operation.
type verdict byte

const (
	succeeded       verdict = iota
	conditionFailed         // a condition did not hold, or an operation before it in the same command wrote the key
	leaseEnded              // the lease of a write is gone
	tooManyStreams
)

// outcome is an operation's own result.
type outcome struct {
	verdict verdict
	key     string // what the verdict is about
	first   []uint64
	lease   LeaseID
}

// stateBuilder makes the next state from one command. Nothing in it depends on a clock, on chance or on the
// order of a map.
type stateBuilder struct {
	state // next; its trees are set by finish
	files *segmentFiles

	items       *iradix.Txn[*Item]
	leases      *iradix.Txn[time.Duration]
	keysByLease *iradix.Txn[string]
	streams     *iradix.Txn[stream]

	written map[string]struct{} // keys this command wrote; only looked up
	count   int                 // streams
	events  []Event
}

func (s *state) builder(at Revision, term uint64, clock int64, files *segmentFiles) *stateBuilder {
	next := &stateBuilder{
		state:       *s,
		files:       files,
		items:       s.items.Txn(),
		leases:      s.leases.Txn(),
		keysByLease: s.keysByLease.Txn(),
		streams:     s.streams.Txn(),
		written:     map[string]struct{}{},
		count:       s.streams.Len(),
	}
	next.revision, next.term, next.clock = at, term, max(clock, s.clock)
	return next
}

func (s *stateBuilder) finish() *state {
	out := s.state
	out.items, out.leases, out.keysByLease, out.streams = s.items.CommitOnly(), s.leases.CommitOnly(), s.keysByLease.CommitOnly(), s.streams.CommitOnly()
	return &out
}

// apply applies one operation. An error is the disk's.
func (s *stateBuilder) apply(op operation) (outcome, error) {
	switch op.kind {
	case kindTxn:
		return s.txn(op.txn)
	case kindGrant:
		s.lastLease++
		s.leases.Insert(leaseKey(s.lastLease), op.ttl)
		return outcome{lease: s.lastLease}, nil
	case kindRevoke:
		return s.revoke(op.leases), nil
	}
	return outcome{}, errUnsupported // decodeCommand lets none pass
}

func (s *stateBuilder) txn(t Txn) (outcome, error) {
	if o := s.check(t); o.verdict != succeeded {
		return o, nil
	}
	o := outcome{first: make([]uint64, len(t.Append))}
	for i, a := range t.Append {
		if len(a.Records) == 0 {
			continue
		}
		old, known := s.streams.Get([]byte(a.Stream))
		st, err := s.files.append(a.Stream, old, s.revision, s.clock, a.Records)
		if err != nil {
			return o, err
		}
		if !known {
			s.count++
		}
		o.first[i] = st.next - uint64(len(a.Records))
		s.streams.Insert([]byte(a.Stream), st)
	}
	for _, w := range t.Then {
		s.write(w)
	}
	return o, nil
}

// check finds the first reason why t must not happen. Everything is checked before anything changes.
func (s *stateBuilder) check(t Txn) outcome {
	for _, c := range t.If {
		it, there := s.items.Get([]byte(c.Key))
		if holds := there && (c.Modified == anyRevision || c.Modified == it.Modified) || !there && c.Modified == 0; !holds {
			return outcome{verdict: conditionFailed, key: c.Key}
		}
	}
	for _, w := range t.Then {
		// Two writes of a key in one revision would look alike to Unchanged.
		if _, twice := s.written[w.Key]; twice {
			return outcome{verdict: conditionFailed, key: w.Key}
		}
		if w.Lease == 0 {
			continue
		}
		if _, alive := s.leases.Get(leaseKey(w.Lease)); !alive {
			return outcome{verdict: leaseEnded, key: w.Key}
		}
	}
	return s.checkStreams(t.Append)
}

func (s *stateBuilder) checkStreams(appends []Append) outcome {
	fresh := map[string]struct{}{}
	for _, a := range appends {
		if _, known := s.streams.Get([]byte(a.Stream)); !known {
			fresh[a.Stream] = struct{}{}
		}
		if s.count+len(fresh) > MaxStreams {
			return outcome{verdict: tooManyStreams, key: a.Stream}
		}
	}
	return outcome{}
}

func (s *stateBuilder) write(w Write) {
	s.written[w.Key] = struct{}{}
	if s.firstWrite == 0 {
		s.firstWrite = s.revision
	}
	if w.Delete {
		s.remove(w.Key)
		return
	}
	it := &Item{
		Key:      strings.Clone(w.Key),
		Value:    bytes.Clone(w.Value),
		Created:  s.revision,
		Modified: s.revision,
		Lease:    w.Lease,
	}
	if old, had := s.items.Get([]byte(w.Key)); had {
		it.Created = old.Created
		s.detachLease(old)
	}
	if it.Lease != 0 {
		s.keysByLease.Insert(leaseItemKey(it.Lease, it.Key), it.Key)
	}
	s.items.Insert([]byte(it.Key), it)
	s.events = append(s.events, Event{Revision: s.revision, Key: it.Key, Item: *it})
}

func (s *stateBuilder) remove(key string) {
	old, had := s.items.Delete([]byte(key))
	if !had {
		return
	}
	s.detachLease(old)
	s.events = append(s.events, Event{Revision: s.revision, Key: old.Key, Deleted: true})
}

func (s *stateBuilder) detachLease(it *Item) {
	if it.Lease != 0 {
		s.keysByLease.Delete(leaseItemKey(it.Lease, it.Key))
	}
}

// revoke ends leases and removes their keys, in the order of the command and then of the keys.
func (s *stateBuilder) revoke(ids []LeaseID) outcome {
	o := outcome{verdict: leaseEnded}
	for _, id := range ids {
		if _, alive := s.leases.Delete(leaseKey(id)); !alive {
			continue
		}
		o.verdict = succeeded
		for _, key := range s.leaseKeys(id) {
			s.written[key] = struct{}{}
			s.remove(key)
		}
	}
	return o
}

func (s *stateBuilder) leaseKeys(id LeaseID) (keys []string) {
	it := s.keysByLease.Root().Iterator()
	it.SeekPrefix(leaseKey(id))
	for _, key, ok := it.Next(); ok; _, key, ok = it.Next() {
		keys = append(keys, key)
	}
	return keys
}
