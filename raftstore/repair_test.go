package raftstore

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"
	"github.com/hashicorp/raft-wal/metadb"
	walsegment "github.com/hashicorp/raft-wal/segment"
	"github.com/hashicorp/raft-wal/types"

	"github.com/threshold-access/threshold/internal/fault"
)

// forgetfulMeta refuses to learn anything after its first state: the process dies before a seal is entered.
type forgetfulMeta struct {
	types.MetaStore
	commits int
}

func (m *forgetfulMeta) CommitState(s types.PersistentState) error {
	m.commits++
	if m.commits > 1 {
		return errMalformed
	}
	return m.MetaStore.CommitState(s)
}

// A log whose last file was sealed when the process died must take entries again.
func TestLogAcceptsEntriesAfterAKillBetweenSealAndMetadata(t *testing.T) {
	dir := t.TempDir()
	const size = 64 << 10
	open := func(meta types.MetaStore) *wal.WAL {
		t.Helper()
		w, err := wal.Open(
			dir,
			wal.WithMetaStore(meta),
			wal.WithSegmentFiler(walsegment.NewFiler(dir, newDiskFS())),
			wal.WithSegmentSize(size),
		)
		if err != nil {
			t.Fatal(err)
		}
		return w
	}
	db := &metadb.BoltMetaDB{}
	w := open(&forgetfulMeta{MetaStore: db})
	if err := w.StoreLogs([]*raft.Log{{Index: 1, Term: 1, Data: make([]byte, size)}}); err != nil {
		t.Fatal(err)
	}
	_ = w.Close()
	_ = db.Close()

	db = &metadb.BoltMetaDB{}
	w = open(mendingMeta{db, newDiskFS()})
	defer db.Close()
	defer w.Close()
	for i := uint64(2); i < 5; i++ {
		if err := w.StoreLogs([]*raft.Log{{Index: i, Term: 1, Data: make([]byte, size)}}); err != nil {
			t.Fatalf("entry %d: got %v, want it stored", i, err)
		}
	}
	for i := uint64(1); i < 5; i++ {
		var l raft.Log
		if err := w.GetLog(i, &l); err != nil || l.Index != i || len(l.Data) != size {
			t.Errorf("entry %d: got %d with %d bytes, %v", i, l.Index, len(l.Data), err)
		}
	}
}

// A torn write at the end is rolled back; damage before a whole commit is not the mark of a crash, and
// refused.
func TestScanTail(t *testing.T) {
	dir := t.TempDir()
	db := &metadb.BoltMetaDB{}
	w, err := wal.Open(
		dir,
		wal.WithMetaStore(db),
		wal.WithSegmentFiler(walsegment.NewFiler(dir, newDiskFS())),
		wal.WithSegmentSize(64<<10),
	)
	if err != nil {
		t.Fatal(err)
	}
	for i := uint64(1); i <= 3; i++ {
		if err := w.StoreLogs([]*raft.Log{{Index: i, Term: 1, Data: make([]byte, 100)}}); err != nil {
			t.Fatal(err)
		}
	}
	state, err := db.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = w.Close(), db.Close()
	data, err := os.ReadFile(filepath.Join(dir, walsegment.FileName(state.Segments[0])))
	if err != nil {
		t.Fatal(err)
	}
	whole, err := scanTail(data)
	if err != nil || whole.entries != 3 || whole.indexStart != 0 {
		t.Fatalf("got %+v, %v, want 3 entries", whole, err)
	}
	flipped := func(at int64) []byte {
		out := slices.Clone(data)
		out[at] ^= 1
		return out
	}
	if got, err := scanTail(flipped(whole.end - 20)); err != nil || got.entries != 2 {
		t.Errorf("got %+v, %v, want the torn third entry rolled back", got, err)
	}
	for what, spoil := range map[string]func([]byte){
		"a flipped bit":         func(b []byte) { b[40] ^= 1 },
		"an unknown frame":      func(b []byte) { b[0] = 0xff },
		"a frame of no end":     func(b []byte) { b[7] = 0xff },
		"a frame to the end":    func(b []byte) { binary.LittleEndian.PutUint32(b[4:], uint32(len(b)-64)) },
		"zeros":                 func(b []byte) { clear(b[:96]) },
		"the first commit gone": func(b []byte) { clear(b[:124]) },
	} {
		out := slices.Clone(data)
		spoil(out[logHeaderBytes:])
		if got, err := scanTail(out); !fault.Is(err, fault.Internal) {
			t.Errorf("%s: got %+v, %v, want damage refused", what, got, err)
		}
	}
}
