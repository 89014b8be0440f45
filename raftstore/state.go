package raftstore

import (
	"bytes"
	"encoding/binary"
	"strings"
	"time"

	iradix "github.com/hashicorp/go-immutable-radix/v2"
)

// state is the result of all commands up to one revision. It is immutable: readers and snapshots keep the
// state that they hold while fsm.Apply makes the next one. Two states share what did not change between them.
type state struct {
	revision   Revision // index of the last command
	term       uint64   // term of the last command
	clock      int64    // ns since 1970: the latest time that a leader put into a command
	lastLease  LeaseID
	firstWrite Revision // the first revision that wrote a key; 0 means none did

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

// leaseKey is the lease's key in the tree of leases. Big-endian, so that leases are in order.
func leaseKey(id LeaseID) []byte { return binary.BigEndian.AppendUint64(nil, uint64(id)) }

// leaseItemKey is an item's key in keysByLease: the lease first, so that one prefix finds all its items.
func leaseItemKey(id LeaseID, key string) []byte { return append(leaseKey(id), key...) }

// verdict says whether an operation happened, and if not, why.
type verdict byte

const (
	succeeded verdict = iota
	// conditionFailed: a condition does not hold, or an earlier operation of the same command wrote the key.
	conditionFailed
	leaseEnded     // the lease of a write has ended
	tooManyStreams // there would be more than MaxStreams
)

// outcome is the result of one operation.
type outcome struct {
	verdict verdict  // the zero value is succeeded
	key     string   // the key or stream that the verdict is about; "" if it succeeded
	first   []uint64 // of a transaction: number of the first record of each Append
	lease   LeaseID  // of a grant: the new lease
}

// stateBuilder makes the next state from one command. All replicas must come to the same state, so nothing
// here depends on a clock, on random numbers or on the order of a map.
//
// The trees below hide those of the embedded state until finish sets them.
type stateBuilder struct {
	state // the next one

	files *segmentFiles

	items       *iradix.Txn[*Item]
	leases      *iradix.Txn[time.Duration]
	keysByLease *iradix.Txn[string]
	streams     *iradix.Txn[stream]

	written     map[string]struct{} // keys that this command wrote; never iterated over
	streamCount int
	events      []Event // what this command changed, for watches
}

// newBuilder begins the state that follows s: that of the command at revision at.
func (s *state) newBuilder(at Revision, term uint64, clock int64, files *segmentFiles) *stateBuilder {
	next := &stateBuilder{
		state:       *s,
		files:       files,
		items:       s.items.Txn(),
		leases:      s.leases.Txn(),
		keysByLease: s.keysByLease.Txn(),
		streams:     s.streams.Txn(),
		written:     map[string]struct{}{},
		streamCount: s.streams.Len(),
	}
	next.revision, next.term, next.clock = at, term, max(clock, s.clock)
	return next
}

// finish returns the new state. The builder must not be used after that.
func (s *stateBuilder) finish() *state {
	out := s.state
	out.items = s.items.CommitOnly()
	out.leases = s.leases.CommitOnly()
	out.keysByLease = s.keysByLease.CommitOnly()
	out.streams = s.streams.CommitOnly()
	return &out
}

// apply applies one operation to the next state and returns its outcome. An operation that is refused changes
// nothing. An error comes from the disk: the next state is then incomplete and must be dropped.
func (s *stateBuilder) apply(op operation) (outcome, error) {
	switch op.kind {
	case kindTxn:
		return s.applyTxn(op.txn)
	case kindGrant:
		s.lastLease++
		s.leases.Insert(leaseKey(s.lastLease), op.ttl)
		return outcome{lease: s.lastLease}, nil
	case kindRevoke:
		return s.revoke(op.leases), nil
	}
	return outcome{}, errUnsupported // unreachable: decodeCommand refuses other kinds
}

// applyTxn applies a transaction whole, or not at all when checkTxn refuses it. Records are appended before
// keys are written, because only an append can fail: it writes to the disk.
func (s *stateBuilder) applyTxn(t Txn) (outcome, error) {
	if refused := s.checkTxn(t); refused.verdict != succeeded {
		return refused, nil
	}
	out := outcome{first: make([]uint64, len(t.Append))}
	for i, a := range t.Append {
		if len(a.Records) == 0 {
			continue
		}
		old, known := s.streams.Get([]byte(a.Stream))
		next, err := s.files.append(a.Stream, old, s.revision, s.clock, a.Records)
		if err != nil {
			return out, err
		}
		if !known {
			s.streamCount++
		}
		out.first[i] = next.nextNumber - uint64(len(a.Records))
		s.streams.Insert([]byte(a.Stream), next)
	}
	for _, trim := range t.Trim {
		if st, found := s.streams.Get([]byte(trim.Stream)); found {
			s.streams.Insert([]byte(trim.Stream), st.trim(trim.Before))
		}
	}
	for _, w := range t.Then {
		s.writeKey(w)
	}
	return out, nil
}

// checkTxn returns the first reason why t must not happen, or the outcome succeeded. It changes nothing.
func (s *stateBuilder) checkTxn(t Txn) outcome {
	for _, c := range t.If {
		if !s.holds(c) {
			return outcome{verdict: conditionFailed, key: c.Key}
		}
	}
	for _, w := range t.Then {
		// An earlier operation of this command may have written the key. Conditions compare revisions and
		// could not tell the two writes apart, because a command has one revision.
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

// holds reports whether the condition holds in the state as it is before the transaction.
func (s *stateBuilder) holds(c Condition) bool {
	item, found := s.items.Get([]byte(c.Key))
	if !found {
		return c.Modified == 0
	}
	return c.Modified == anyRevision || c.Modified == item.Modified
}

// checkStreams refuses a transaction that would create more than MaxStreams streams.
func (s *stateBuilder) checkStreams(appends []Append) outcome {
	created := map[string]struct{}{}
	for _, a := range appends {
		if _, known := s.streams.Get([]byte(a.Stream)); !known {
			created[a.Stream] = struct{}{}
		}
		if s.streamCount+len(created) > MaxStreams {
			return outcome{verdict: tooManyStreams, key: a.Stream}
		}
	}
	return outcome{}
}

// writeKey sets or deletes one key and records the event. A write that replaces an item takes the key from
// the old item's lease. Key and value are copied, because the decoded command refers to the bytes of the log
// entry.
func (s *stateBuilder) writeKey(w Write) {
	s.written[w.Key] = struct{}{}
	if s.firstWrite == 0 {
		s.firstWrite = s.revision
	}
	if w.Delete {
		s.removeKey(w.Key)
		return
	}
	item := &Item{
		Key:      strings.Clone(w.Key),
		Value:    bytes.Clone(w.Value),
		Created:  s.revision,
		Modified: s.revision,
		Lease:    w.Lease,
	}
	if old, found := s.items.Get([]byte(w.Key)); found {
		item.Created = old.Created
		s.detachLease(old)
	}
	if item.Lease != 0 {
		s.keysByLease.Insert(leaseItemKey(item.Lease, item.Key), item.Key)
	}
	s.items.Insert([]byte(item.Key), item)
	s.events = append(s.events, Event{Revision: s.revision, Key: item.Key, Item: *item})
}

// removeKey deletes one key and records the event. It does nothing if there is no such key.
func (s *stateBuilder) removeKey(key string) {
	old, found := s.items.Delete([]byte(key))
	if !found {
		return
	}
	s.detachLease(old)
	s.events = append(s.events, Event{Revision: s.revision, Key: old.Key, Deleted: true})
}

// detachLease removes an item, which is replaced or deleted, from the keys of its lease. Else the end of the
// lease would remove the key, though it no longer belongs to the lease.
func (s *stateBuilder) detachLease(it *Item) {
	if it.Lease != 0 {
		s.keysByLease.Delete(leaseItemKey(it.Lease, it.Key))
	}
}

// revoke ends leases and removes their keys: leases in the order of the command, keys in their own order. A
// lease that has ended already is skipped; if all have, the outcome is leaseEnded.
func (s *stateBuilder) revoke(ids []LeaseID) outcome {
	out := outcome{verdict: leaseEnded}
	for _, id := range ids {
		if _, alive := s.leases.Delete(leaseKey(id)); !alive {
			continue
		}
		out.verdict = succeeded
		for _, key := range s.leaseKeys(id) {
			s.written[key] = struct{}{}
			s.removeKey(key)
		}
	}
	return out
}

// leaseKeys are the keys that the lease holds.
func (s *stateBuilder) leaseKeys(id LeaseID) (keys []string) {
	it := s.keysByLease.Root().Iterator()
	it.SeekPrefix(leaseKey(id))
	for _, key, ok := it.Next(); ok; _, key, ok = it.Next() {
		keys = append(keys, key)
	}
	return keys
}
