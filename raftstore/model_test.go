package raftstore

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/raftstore/wal"
)

// model is what the state machine should contain, in plain maps.
type model struct {
	items     map[string]Item
	leases    map[LeaseID]bool
	streams   map[string][]string
	digests   map[string][32]byte // of streams, by their definition alone
	lastLease LeaseID
}

// append adds a record to a stream.
func (m *model) append(at Revision, stream, data string) {
	m.streams[stream] = append(m.streams[stream], data)
	digest, known := m.digests[stream]
	if !known {
		digest = sha256.Sum256([]byte("threshold stream v1\x00" + stream))
	}
	payload := binary.AppendUvarint(digest[:], uint64(len(m.streams[stream])))
	payload = binary.AppendUvarint(payload, uint64(at))
	payload = binary.AppendUvarint(payload, uint64(time.Unix(int64(at), 0).UnixNano()))
	m.digests[stream] = sha256.Sum256(append(payload, data...))
}

// apply does what fsm.Apply should do, for one operation of a command with revision at.
func (m *model) apply(at Revision, op operation, written map[string]bool) verdict {
	switch op.kind {
	case kindGrant:
		m.lastLease++
		m.leases[m.lastLease] = true
		return succeeded
	case kindRevoke:
		return m.revoke(op.leases, written)
	}
	for _, c := range op.txn.If {
		it, found := m.items[c.Key]
		if found && c.Modified != anyRevision && c.Modified != it.Modified || !found && c.Modified != 0 {
			return conditionFailed
		}
	}
	for _, w := range op.txn.Then {
		if written[w.Key] {
			return conditionFailed
		}
		if w.Lease != 0 && !m.leases[w.Lease] {
			return leaseEnded
		}
	}
	for _, a := range op.txn.Append {
		for _, r := range a.Records {
			m.append(at, a.Stream, string(r))
		}
	}
	for _, w := range op.txn.Then {
		written[w.Key] = true
		old, found := m.items[w.Key]
		delete(m.items, w.Key)
		if w.Delete {
			continue
		}
		it := Item{Key: w.Key, Value: w.Value, Created: at, Modified: at, Lease: w.Lease}
		if found {
			it.Created = old.Created
		}
		m.items[w.Key] = it
	}
	return succeeded
}

func (m *model) revoke(ids []LeaseID, written map[string]bool) verdict {
	v := leaseEnded
	for _, id := range ids {
		if !m.leases[id] {
			continue
		}
		v = succeeded
		delete(m.leases, id)
		for key, it := range m.items {
			if it.Lease == id {
				delete(m.items, key)
				written[key] = true
			}
		}
	}
	return v
}

// equal compares the state machine with the model.
func (m *model) equal(t *testing.T, fsm *fsm) {
	t.Helper()
	s := fsm.state.Load()
	var got []string
	walk(s.items, func(_ []byte, it *Item) { got = append(got, fmt.Sprint(*it)) })
	var want []string
	for _, key := range slices.Sorted(maps.Keys(m.items)) {
		want = append(want, fmt.Sprint(m.items[key]))
	}
	if !slices.Equal(got, want) {
		t.Fatalf("got items\n%v, want\n%v", got, want)
	}
	if s.leases.Len() != len(m.leases) || s.lastLease != m.lastLease {
		t.Fatalf(
			"got %d leases, last %d, want %d, %d",
			s.leases.Len(),
			s.lastLease,
			len(m.leases),
			m.lastLease,
		)
	}
	held := 0
	for _, it := range m.items {
		if it.Lease != 0 {
			held++
		}
	}
	if s.keysByLease.Len() != held {
		t.Fatalf("got %d keys held by leases, want %d", s.keysByLease.Len(), held)
	}
	for name, want := range m.streams {
		st, _ := s.streams.Get([]byte(name))
		dropped := int(st.first()) - 1
		recs, err := fsm.files.read(name, st, 1, 1<<20)
		if err != nil || len(recs) != len(want)-dropped {
			t.Fatalf("stream %s: got %d records, %v, want %d", name, len(recs), err, len(want)-dropped)
		}
		for i, r := range recs {
			if i += dropped; r.Number != uint64(i+1) || string(r.Data) != want[i] {
				t.Fatalf("stream %s: got record %d %q, want %d %q", name, r.Number, r.Data, i+1, want[i])
			}
		}
		if st.tail.end != m.digests[name] {
			t.Fatalf("stream %s: got digest %s, want %x", name, st.tail.end, m.digests[name])
		}
		for i, seg := range st.segments() {
			at := segmentAt{segment: seg, stream: name, before: st.digestBefore(i)}
			if err := fsm.files.checkDigest(at); err != nil {
				t.Fatalf("stream %s, segment %d: %v", name, i, err)
			}
		}
	}
}

// randomOperation is a grant, a revocation or a transaction over few keys, leases and streams, so that
// operations often meet.
func randomOperation(r *rand.Rand, m *model) operation {
	switch r.IntN(12) {
	case 0:
		return operation{kind: kindGrant, ttl: time.Second}
	case 1:
		return operation{kind: kindRevoke, leases: []LeaseID{LeaseID(r.IntN(8) + 1), m.lastLease}}
	}
	key := func() string { return fmt.Sprint("k", r.IntN(12)) }
	op := operation{kind: kindTxn}
	if r.IntN(2) == 0 {
		k := key()
		op.txn.If = []Condition{
			{Key: k, Modified: []Revision{0, anyRevision, m.items[k].Modified}[r.IntN(3)]},
		}
	}
	a, b := key(), key()
	value := fmt.Append(nil, r.IntN(100))
	lease := []LeaseID{0, 0, m.lastLease}[r.IntN(3)]
	op.txn.Then = append(op.txn.Then, Write{Key: a, Value: value, Lease: lease})
	if a != b {
		op.txn.Then = append(op.txn.Then, Delete(b))
	}
	if r.IntN(3) == 0 {
		stream := fmt.Sprint("s/", r.IntN(3))
		op.txn.Append = []Append{{Stream: stream, Records: [][]byte{fmt.Append(nil, r.Uint64()), {}}}}
	}
	if r.IntN(40) == 0 {
		stream := fmt.Sprint("s/", r.IntN(4))
		newest := len(m.streams[stream])
		op.txn.Trim = []Trim{{Stream: stream, Before: uint64(r.IntN(newest + 2))}}
	}
	return op
}

// TestModel applies random commands to the state machine and to plain maps. Now and then the state machine is
// replaced by one that is restored from a snapshot and the log after it, over the same segment files.
func TestModel(t *testing.T) {
	r := rand.New(rand.NewPCG(11, 12))
	dir := t.TempDir()
	newEmpty := func() *fsm {
		l := wal.NewLatch()
		files := newSegmentFiles(wal.Guard(wal.NewFS(), l), dir, 512)
		return newFSM(files, 1<<20, l, slog.New(slog.DiscardHandler))
	}
	fsm, m := newEmpty(), &model{
		items:   map[string]Item{},
		leases:  map[LeaseID]bool{},
		streams: map[string][]string{},
		digests: map[string][32]byte{},
	}
	var saved []byte      // a snapshot
	var since []*raft.Log // the log after it
	for index := uint64(1); index <= 3000; index++ {
		var ops [][]byte
		var want []verdict
		written := map[string]bool{}
		for range 1 + r.IntN(3) {
			op := randomOperation(r, m)
			ops, want = append(ops, encodeOperation(op)), append(want, m.apply(Revision(index), op, written))
		}
		l := &raft.Log{Index: index, Term: 1, Data: encodeCommand(time.Unix(int64(index), 0), ops)}
		got := fsm.Apply(l).(*applyResult)
		for i, o := range got.outcomes {
			if o.verdict != want[i] {
				t.Fatalf("command %d, operation %d: got verdict %d, want %d", index, i, o.verdict, want[i])
			}
		}
		since = append(since, l)
		switch {
		case index%97 == 0:
			saved, since = persist(t, fsm), nil
		case index%61 == 0 && saved != nil:
			fsm = newEmpty()
			if err := fsm.Restore(io.NopCloser(bytes.NewReader(saved))); err != nil {
				t.Fatal(err)
			}
			for _, l := range since {
				fsm.Apply(l)
			}
			m.equal(t, fsm)
		}
	}
	m.equal(t, fsm)
	// Most of each stream was dropped, and the files of what was dropped long ago are gone.
	names, err := fsm.files.fs.ListDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	kept := 0
	walk(fsm.state.Load().streams, func(_ []byte, st stream) { kept += len(st.segments()) })
	if len(names) > kept+20 {
		t.Errorf("got %d files of %d segments, want most dropped ones deleted", len(names), kept)
	}
}

type bufferSink struct{ bytes.Buffer }

func (*bufferSink) ID() string    { return "test" }
func (*bufferSink) Cancel() error { return nil }
func (*bufferSink) Close() error  { return nil }

func persist(t *testing.T, m *fsm) []byte {
	t.Helper()
	snap, err := m.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	var sink bufferSink
	if err := snap.Persist(&sink); err != nil {
		t.Fatal(err)
	}
	return sink.Bytes()
}

func newTestFSM(t testing.TB) *fsm {
	t.Helper()
	l := wal.NewLatch()
	files := newSegmentFiles(wal.Guard(wal.NewFS(), l), t.TempDir(), 1<<20)
	return newFSM(files, 1<<20, l, slog.New(slog.DiscardHandler))
}

// A command that this release cannot read halts the replica: the state stays, later commands are refused and
// no snapshot is made.
func TestUnsupportedCommandHaltsTheReplica(t *testing.T) {
	op := encodeOperation(operation{kind: kindTxn, txn: Txn{Then: []Write{Put("a", nil)}}})
	known := encodeCommand(time.Unix(1, 0), [][]byte{op})
	cases := map[string][]byte{
		"a newer version":          {commandV1 + 1, 0, 0},
		"a newer kind":             {commandV1, 0, 1, 200, 1, 0},
		"a kind with newer fields": {commandV1, 0, 1, byte(kindGrant), memberVersion + 1, 1, 7},
		"an operation for nobody":  {commandV1, 0, 1, byte(kindGrant), 0, 1, 7},
		"no bytes":                 {},
		"a truncated command":      known[:len(known)-1],
		"a command with more data": append(slices.Clone(known), 0),
	}
	for name, data := range cases {
		t.Run(name, func(t *testing.T) {
			m := newTestFSM(t)
			m.Apply(&raft.Log{Index: 1, Term: 1, Data: known})
			before := m.state.Load()
			for _, next := range [][]byte{data, known} { // nothing after it is applied either
				err, halted := m.Apply(&raft.Log{Index: 2, Term: 1, Data: next}).(error)
				if !halted || fault.Remedy(err) == "" {
					t.Errorf("got %v, want a fault with a remedy", err)
				}
			}
			if m.state.Load() != before {
				t.Error("got another state, want it unchanged")
			}
			if _, err := m.Snapshot(); err == nil {
				t.Error("got a snapshot of a halted replica, want a fault")
			}
		})
	}
}

// A snapshot that is cut anywhere, of a newer release, or whose segment files are missing is refused.
func TestTruncatedOrUnsupportedSnapshotIsRefused(t *testing.T) {
	m := newTestFSM(t)
	op := encodeOperation(operation{kind: kindTxn, txn: Txn{
		Then:   []Write{Put("a", []byte("1"))},
		Append: []Append{{Stream: "s", Records: [][]byte{[]byte("x")}}},
	}})
	m.Apply(&raft.Log{Index: 1, Term: 1, Data: encodeCommand(time.Unix(1, 0), [][]byte{op})})
	whole := persist(t, m)
	for n := range whole {
		if _, err := readSnapshot(bytes.NewReader(whole[:n])); err == nil {
			t.Fatalf("got no error for %d of %d bytes", n, len(whole))
		}
	}
	newer := slices.Clone(whole)
	newer[len(snapshotMagic)-1]++
	if err := m.Restore(io.NopCloser(bytes.NewReader(newer))); !fault.Is(err, fault.Unavailable) {
		t.Errorf("got %v, want a fault that asks for the newer release", err)
	}
	other := newTestFSM(t) // has no segment files
	if err := other.Restore(io.NopCloser(bytes.NewReader(whole))); !fault.Is(err, fault.Internal) {
		t.Errorf("got %v, want the missing segment named", err)
	}
}

// Whatever the bytes are, decoding does not panic; what can be decoded is the same after encoding and
// decoding again.
func FuzzDecodeCommand(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{commandV1, 0, 1, 9, 1, 0})
	f.Add(encodeCommand(time.Unix(1, 0), [][]byte{
		encodeOperation(operation{
			kind: kindTxn,
			txn: Txn{If: []Condition{Exists("a")}, Then: []Write{Put("k", []byte("v")), Delete("d")},
				Append: []Append{{Stream: "audit", Records: [][]byte{[]byte("r")}}},
				Trim:   []Trim{{Stream: "audit", Before: 7}}},
		}),
		encodeOperation(operation{kind: kindGrant, ttl: time.Second}),
		encodeOperation(operation{kind: kindRevoke, leases: []LeaseID{1, 2}}),
	}))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := decodeCommand(b)
		if err != nil {
			return
		}
		var ops [][]byte
		for _, op := range c.ops {
			ops = append(ops, encodeOperation(op))
		}
		again, err := decodeCommand(encodeCommand(time.Unix(0, c.time), ops))
		if err != nil || fmt.Sprint(again) != fmt.Sprint(c) {
			t.Errorf("got %v, %v after encoding again, want %v", again, err, c)
		}
	})
}

func FuzzReadSnapshot(f *testing.F) {
	var buf bytes.Buffer
	_ = newState().writeSnapshot(&buf)
	f.Add(buf.Bytes())
	f.Add([]byte(snapshotMagic))
	f.Fuzz(func(_ *testing.T, b []byte) { _, _ = readSnapshot(bytes.NewReader(b)) })
}
