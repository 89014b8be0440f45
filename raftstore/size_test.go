package raftstore_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/threshold-access/threshold/raftstore"
	"github.com/threshold-access/threshold/raftstore/raftstoretest"
)

// Entries may be large, so the log is bounded in bytes too: after some megabytes there is a snapshot, and
// most of the log is deleted.
func TestSnapshotsAreDueByBytes(t *testing.T) {
	t.Parallel()
	cfg := raftstoretest.Config(t.TempDir())
	cfg.Bounds.LogSegmentBytes = 256 << 10
	cfg.Bounds.SnapshotBytes = 1 << 20
	cfg.Bounds.SnapshotInterval = time.Hour
	s, stop := raftstoretest.Start(t, cfg)
	record, written := make([]byte, 60<<10), 0
	snapshots := func() int {
		list, _ := filepath.Glob(filepath.Join(cfg.Dir, "state", "snapshots", "*", "meta.json"))
		return len(list)
	}
	for ; snapshots() < 2 && written < 64<<20; written += len(record) { // the second deletes log of the first
		commit(t, s, raftstore.Txn{Append: []raftstore.Append{{Stream: "s", Records: [][]byte{record}}}})
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if written >= 64<<20 {
		t.Fatal("got no snapshots after 64 MiB, want one after each")
	}
	files, err := filepath.Glob(filepath.Join(cfg.Dir, "log", "*.wal"))
	if err != nil || len(files) == 0 {
		t.Fatalf("got %v and %v, want the files of the log", files, err)
	}
	total := int64(0)
	for _, file := range files {
		info, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		total += info.Size()
	}
	if total > 16<<20 {
		t.Errorf("got %d bytes of log after %d bytes of entries, want most of them deleted", total, written)
	}
}
