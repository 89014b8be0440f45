package raftstore

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/threshold-access/threshold/raftstore/wal"
)

// newSmallFSM is a state machine in dir whose segments have room for a few records, and what it logs.
func newSmallFSM(dir string) (*fsm, *bytes.Buffer) {
	l, logged := wal.NewLatch(), &bytes.Buffer{}
	log := slog.New(slog.NewTextHandler(logged, nil))
	return newFSM(newSegmentFiles(wal.Guard(wal.NewFS(), l), dir, 200), 1<<20, l, log), logged
}

// applyTxn applies a transaction as the command of that index; the leader's clock is index seconds.
func applyTxn(t *testing.T, f *fsm, index uint64, txn Txn) {
	t.Helper()
	op := encodeOperation(operation{kind: kindTxn, txn: txn})
	data := encodeCommand(time.Unix(int64(index), 0), [][]byte{op})
	if err, failed := f.Apply(&raft.Log{Index: index, Term: 1, Data: data}).(error); failed {
		t.Fatal(err)
	}
}

// fill appends one record with each command from index 1 to n to the stream s.
func fill(t *testing.T, f *fsm, n uint64) {
	t.Helper()
	for index := uint64(1); index <= n; index++ {
		record := fmt.Appendf(nil, "record %d, with some text in it", index)
		applyTxn(t, f, index, Txn{Append: []Append{{Stream: "s", Records: [][]byte{record}}}})
	}
}

func numbers(t *testing.T, f *fsm, from uint64) (first, last uint64) {
	t.Helper()
	st, _ := f.state.Load().streams.Get([]byte("s"))
	records, err := f.files.read("s", st, from, 1000)
	if err != nil || len(records) == 0 {
		t.Fatalf("got %d records and %v, want some", len(records), err)
	}
	return records[0].Number, records[len(records)-1].Number
}

func segmentFilesIn(t *testing.T, dir string) int {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "s~*"))
	if err != nil {
		t.Fatal(err)
	}
	return len(names)
}

// A trim drops whole segments and never the last one, whatever number it names. The digest of what was
// dropped is that of the segment before.
func TestTrimDropsWholeSegmentsButNotTheLast(t *testing.T) {
	t.Parallel()
	f, _ := newSmallFSM(t.TempDir())
	fill(t, f, 20)
	before, _ := f.state.Load().streams.Get([]byte("s"))
	segs := before.segments()
	if len(segs) < 4 {
		t.Fatalf("got %d segments, want several", len(segs))
	}
	for i, tt := range []struct {
		before uint64
		first  uint64
	}{
		{0, 1},
		{segs[1].base - 1, 1},
		{segs[1].base, segs[1].base},
		{segs[2].base + 1, segs[2].base},
		{1, segs[2].base}, // dropped already
		{1 << 60, before.tail.base},
	} {
		trims := []Trim{{Stream: "s", Before: tt.before}, {Stream: "none", Before: 1}}
		applyTxn(t, f, uint64(21+i), Txn{Trim: trims})
		if first, last := numbers(t, f, 1); first != tt.first || last != 20 {
			t.Errorf("before %d: got records %d to %d, want %d to 20", tt.before, first, last, tt.first)
		}
	}
	after, _ := f.state.Load().streams.Get([]byte("s"))
	if after.dropped != before.sealed[len(before.sealed)-1].end || after.tail.end != before.tail.end {
		t.Errorf("got digests %s and %s, want those from before", after.dropped, after.tail.end)
	}
}

// raft keeps two snapshots and may restore the older one. Its segments must be there, although they were
// dropped after it; those that no snapshot needs are deleted.
func TestFilesAreDeletedWhenNoSnapshotNeedsThem(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	f, _ := newSmallFSM(dir)
	fill(t, f, 20)
	older, all := persist(t, f), segmentFilesIn(t, dir)
	applyTxn(t, f, 21, Txn{Trim: []Trim{{Stream: "s", Before: 1 << 60}}})
	newer := persist(t, f)
	if got := segmentFilesIn(t, dir); got != all {
		t.Errorf("got %d files, want all %d: the older snapshot needs them", got, all)
	}
	again, _ := newSmallFSM(dir)
	if err := again.Restore(io.NopCloser(bytes.NewReader(older))); err != nil {
		t.Errorf("the older snapshot: got %v", err)
	}
	if first, last := numbers(t, again, 1); first != 1 || last != 20 {
		t.Errorf("got records %d to %d of the older snapshot, want all", first, last)
	}

	restarted, _ := newSmallFSM(dir)
	if err := restarted.Restore(io.NopCloser(bytes.NewReader(newer))); err != nil {
		t.Fatal(err)
	}
	applyTxn(t, restarted, 22, Txn{Then: []Write{Put("k", nil)}})
	newest := persist(t, restarted) // from here on raft keeps newer and newest
	if got := segmentFilesIn(t, dir); got != 1 {
		t.Errorf("got %d files, want the last segment alone", got)
	}
	for _, snapshot := range [][]byte{newer, newest} {
		last, logged := newSmallFSM(dir)
		if err := last.Restore(io.NopCloser(bytes.NewReader(snapshot))); err != nil || logged.Len() > 0 {
			t.Errorf("got %v, logged %q", err, logged)
		}
	}
}

// A segment that is not what the state says is logged at the start, and reads of it fail. Other segments are
// read, and the stream can be appended to.
func TestADamagedSegmentIsNoticed(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		tail bool
		at   int64
	}{
		"the header of an older segment": {false, int64(len(segmentMagic))},
		"the digest in its header":       {false, int64(segmentHeader) - 1},
		"a record of the last segment":   {true, int64(segmentHeader) + frameHeader + 3},
	} {
		dir := t.TempDir()
		f, _ := newSmallFSM(dir)
		fill(t, f, 20)
		saved := persist(t, f)
		st, _ := f.state.Load().streams.Get([]byte("s"))
		seg := st.sealed[0]
		if tt.tail {
			seg = st.tail
		}
		file := filepath.Join(dir, segmentName("s", seg.base))
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		b[tt.at] ^= 1
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
		again, logged := newSmallFSM(dir)
		if err := again.Restore(io.NopCloser(bytes.NewReader(saved))); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(logged.String(), filepath.Base(file)) {
			t.Errorf("%s: got %q logged, want the file named", name, logged)
		}
		if _, err := again.files.read("s", st, seg.base, 1); err == nil {
			t.Errorf("%s: got it read, want an error", name)
		}
		if !tt.tail {
			if first, _ := numbers(t, again, st.sealed[1].base); first != st.sealed[1].base {
				t.Errorf("%s: got record %d, want the next segment read", name, first)
			}
		}
		applyTxn(t, again, 21, Txn{Append: []Append{{Stream: "s", Records: [][]byte{[]byte("x")}}}})
	}
}

// brokenSink is a snapshot that cannot be stored.
type brokenSink struct{ bufferSink }

func (*brokenSink) Close() error { return errors.New("no space") }

// A snapshot that could not be stored does not count: the next entry makes one due again.
func TestAFailedSnapshotStaysDue(t *testing.T) {
	t.Parallel()
	f, _ := newSmallFSM(t.TempDir())
	f.load.limit, f.load.due = 500, make(chan struct{}, 1)
	isDue := func() bool {
		select {
		case <-f.load.due:
			return true
		default:
			return false
		}
	}
	fill(t, f, 5)
	if isDue() {
		t.Fatalf("got a snapshot due after %+v, want none under 500 bytes", f.load.counted())
	}
	fill(t, f, 10)
	if !isDue() {
		t.Fatalf("got none due after %+v", f.load.counted())
	}
	for _, stored := range []bool{false, true} {
		snap, err := f.Snapshot()
		if err != nil {
			t.Fatal(err)
		}
		applyTxn(t, f, 100, Txn{Then: []Write{Put("k", nil)}}) // while it is written
		isDue()
		var sink raft.SnapshotSink = &brokenSink{}
		if stored {
			sink = &bufferSink{}
		}
		if err := snap.Persist(sink); (err == nil) != stored {
			t.Errorf("got %v, want it stored: %t", err, stored)
		}
		applyTxn(t, f, 101, Txn{Then: []Write{Put("k", nil)}})
		if got := isDue(); got == stored {
			t.Errorf("got due %t after a snapshot that was stored: %t", got, stored)
		}
	}
	if got := f.load.counted(); got.entries != 2 {
		t.Errorf("got %+v since the snapshot, want the entries after it", got)
	}
}
