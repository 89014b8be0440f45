package wal

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	raftwal "github.com/hashicorp/raft-wal"
	"github.com/hashicorp/raft-wal/metadb"
	"github.com/hashicorp/raft-wal/segment"
	"github.com/hashicorp/raft-wal/types"
	"go.uber.org/goleak"

	"github.com/threshold-access/threshold/internal/fault"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const segmentBytes = 64 << 10

// openPlain opens raft-wal as it is, without this package's additions.
func openPlain(t *testing.T, dir string, meta types.MetaStore) *raftwal.WAL {
	t.Helper()
	w, err := raftwal.Open(
		dir,
		raftwal.WithMetaStore(meta),
		raftwal.WithSegmentFiler(segment.NewFiler(dir, NewFS())),
		raftwal.WithSegmentSize(segmentBytes),
	)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func openLog(t *testing.T, dir string, fs types.VFS, l *Latch) *Log {
	t.Helper()
	log, err := Open(Config{
		Dir:          dir,
		FS:           Guard(fs, l),
		SegmentBytes: segmentBytes,
		Latch:        l,
		Logger:       hclog.NewNullLogger(),
	})
	if err != nil {
		t.Fatal(err)
	}
	return log
}

func entry(index uint64, size int) *raft.Log {
	return &raft.Log{Index: index, Term: 1, Data: make([]byte, size)}
}

// firstStateMeta keeps the first state only and then fails, as if the process died before a seal was
// recorded.
type firstStateMeta struct {
	types.MetaStore
	commits int
}

func (m *firstStateMeta) CommitState(s types.PersistentState) error {
	m.commits++
	if m.commits > 1 {
		return errors.New("the process is dead")
	}
	return m.MetaStore.CommitState(s)
}

// A log whose last file was sealed when the process died must accept entries again.
func TestLogAcceptsEntriesAfterAKillBetweenSealAndMetadata(t *testing.T) {
	dir := t.TempDir()
	db := &metadb.BoltMetaDB{}
	w := openPlain(t, dir, &firstStateMeta{MetaStore: db})
	if err := w.StoreLogs([]*raft.Log{entry(1, segmentBytes)}); err != nil {
		t.Fatal(err)
	}
	_ = w.Close()
	_ = db.Close()

	log := openLog(t, dir, NewFS(), NewLatch())
	defer log.Close()
	for i := uint64(2); i < 5; i++ {
		if err := log.StoreLogs([]*raft.Log{entry(i, segmentBytes)}); err != nil {
			t.Fatalf("entry %d: got %v, want it stored", i, err)
		}
	}
	for i := uint64(1); i < 5; i++ {
		var l raft.Log
		if err := log.GetLog(i, &l); err != nil || l.Index != i || len(l.Data) != segmentBytes {
			t.Errorf("entry %d: got %d with %d bytes, %v", i, l.Index, len(l.Data), err)
		}
	}
}

// A torn write at the end is rolled back. Damage before a complete commit does not come from a crash, and is
// refused.
func TestScanTail(t *testing.T) {
	dir := t.TempDir()
	db := &metadb.BoltMetaDB{}
	w := openPlain(t, dir, db)
	for i := uint64(1); i <= 3; i++ {
		if err := w.StoreLogs([]*raft.Log{entry(i, 100)}); err != nil {
			t.Fatal(err)
		}
	}
	state, err := db.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = w.Close(), db.Close()
	data, err := os.ReadFile(filepath.Join(dir, segment.FileName(state.Segments[0])))
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
	setSize := func(frame []byte, n int) { binary.LittleEndian.PutUint32(frame[4:], uint32(n)) }
	for name, damage := range map[string]func([]byte){
		"a flipped bit":                        func(b []byte) { b[40] ^= 1 },
		"an unknown frame":                     func(b []byte) { b[0] = 0xff },
		"a frame longer than the file":         func(b []byte) { b[7] = 0xff },
		"a frame that reaches to the file end": func(b []byte) { setSize(b, len(b)-64) },
		"zeros in place of the first frames":   func(b []byte) { clear(b[:96]) },
		"the first commit is missing":          func(b []byte) { clear(b[:124]) },
	} {
		out := slices.Clone(data)
		damage(out[headerBytes:])
		if got, err := scanTail(out); !fault.Is(err, fault.Internal) {
			t.Errorf("%s: got %+v, %v, want damage refused", name, got, err)
		}
	}
}

// failingFS fails every fsync with err once it is set.
type failingFS struct {
	types.VFS
	err error
}

func (f *failingFS) Create(dir, name string, size uint64) (types.WritableFile, error) {
	file, err := f.VFS.Create(dir, name, size)
	return failingFile{file, f}, err
}

type failingFile struct {
	types.WritableFile
	fs *failingFS
}

func (f failingFile) Sync() error {
	if f.fs.err != nil {
		return f.fs.err
	}
	return f.WritableFile.Sync()
}

// After one failed fsync the log refuses every change, also when the disk works again.
func TestFirstFailedWriteIsFinal(t *testing.T) {
	fs, latch := &failingFS{VFS: NewFS()}, NewLatch()
	log := openLog(t, t.TempDir(), fs, latch)
	defer log.Close()
	if err := log.StoreLog(entry(1, 10)); err != nil {
		t.Fatal(err)
	}
	fs.err = syscall.ENOSPC
	if err := log.StoreLog(entry(2, 10)); !fault.Is(err, fault.Exhausted) || fault.Remedy(err) == "" {
		t.Errorf("got %v, want fault Exhausted with a remedy", err)
	}
	select {
	case <-latch.Tripped():
	default:
		t.Error("got a latch that has not tripped")
	}
	fs.err = nil
	for name, change := range map[string]func() error{
		"store":  func() error { return log.StoreLog(entry(2, 10)) },
		"delete": func() error { return log.DeleteRange(1, 1) },
	} {
		if err := change(); !errors.Is(err, latch.Err()) {
			t.Errorf("%s: got %v, want the latched fault", name, err)
		}
	}
	var l raft.Log
	if err := log.GetLog(1, &l); err != nil || l.Index != 1 {
		t.Errorf("got entry %d, %v, want reads to work", l.Index, err)
	}
}
