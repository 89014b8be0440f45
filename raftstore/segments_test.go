package raftstore_test

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/threshold-access/threshold/internal/fault"
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

// Somebody changes a record of an old segment, with its checksum. Reads show the forged record, but the
// digest does not fit any more. All other segments are as they were.
func TestAForgedRecordIsNoticed(t *testing.T) {
	t.Parallel()
	cfg := raftstoretest.Config(t.TempDir())
	cfg.Bounds.StreamSegment = 1 << 10
	s, stop := raftstoretest.Start(t, cfg)
	defer func() {
		if err := stop(); err != nil {
			t.Error(err)
		}
	}()
	for range 20 {
		record := []byte(strings.Repeat("alice ", 30))
		commit(t, s, raftstore.Txn{Append: []raftstore.Append{{Stream: "s", Records: [][]byte{record}}}})
	}
	verifyAll := func() (segments int, damaged []uint64) {
		t.Helper()
		for next := uint64(1); ; {
			from := next
			var err error
			next, err = s.VerifySegment(testContext(t), "s", from)
			if err != nil {
				wantKind(t, err, fault.Internal)
				damaged = append(damaged, from)
			}
			if segments++; next == 0 {
				return segments, damaged
			}
		}
	}
	if segments, damaged := verifyAll(); segments < 3 || len(damaged) > 0 {
		t.Fatalf("got %d segments, %v damaged, want several, and none", segments, damaged)
	}
	forgeRecord(t, filepath.Join(cfg.Dir, "streams", "s~0000000000000001"))
	records, err := s.Read(testContext(t), "s", 1, 1)
	if err != nil || !strings.HasPrefix(string(records[0].Data), "carol") {
		t.Fatalf("got %v and %v, want the forged record read", records, err)
	}
	if _, damaged := verifyAll(); !slices.Equal(damaged, []uint64{1}) {
		t.Errorf("got the segments of %v damaged, want the first", damaged)
	}
	if next, err := s.VerifySegment(testContext(t), "none", 1); next != 0 || err != nil {
		t.Errorf("got %d and %v for a stream without records, want nothing to check", next, err)
	}
}

// forgeRecord changes the name in the first record of a segment, and its checksum with it.
func forgeRecord(t *testing.T, file string) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	const header, frameHeader = 48, 8
	size := binary.LittleEndian.Uint32(b[header:])
	payload := b[header+frameHeader:][:size]
	copy(payload[bytes.Index(payload, []byte("alice")):], "carol")
	sum := crc32.Checksum(payload, crc32.MakeTable(crc32.Castagnoli))
	binary.LittleEndian.PutUint32(b[header+4:], sum)
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
}
