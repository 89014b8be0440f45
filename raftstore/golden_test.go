package raftstore

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/threshold-access/threshold/internal/fault"
)

var update = flag.Bool("update", false, "write the golden files anew")

// golden returns the bytes of a golden file; with -update it first writes what this release encodes. Later
// releases must read the files as they are.
func golden(t *testing.T, name string, encoded []byte) []byte {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, encoded, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b, encoded) {
		t.Errorf("%s: got other bytes than version 1 writes:\n%x, want\n%x", name, encoded, b)
	}
	return b
}

// goldenOperations are operations of every kind, with every field.
var goldenOperations = []operation{
	{kind: kindTxn, txn: Txn{
		If:   []Condition{Missing("m"), Exists("e"), {Key: "k", Modified: 7}},
		Then: []Write{{Key: "a", Value: []byte("1"), Lease: 1}, Delete("d")},
		Append: []Append{
			{Stream: "audit", Records: [][]byte{[]byte("first"), []byte("second")}},
			{Stream: "issued", Records: [][]byte{[]byte("third")}},
		},
		Trim: []Trim{{Stream: "audit", Before: 300}},
	}},
	{kind: kindGrant, ttl: time.Hour},
	{kind: kindRevoke, leases: []LeaseID{1, 300}},
}

func TestGoldenCommand(t *testing.T) {
	t.Parallel()
	var ops [][]byte
	for _, op := range goldenOperations {
		ops = append(ops, encodeOperation(op))
	}
	b := golden(t, "command.v1.bin", encodeCommand(time.Unix(1, 2), ops))
	got, err := decodeCommand(b)
	want := command{time: time.Unix(1, 2).UnixNano(), ops: goldenOperations}
	// Lists of a kind that has none are empty, and not nil.
	if err != nil || strings.ReplaceAll(fmt.Sprint(got), "<nil>", "[]") != fmt.Sprint(want) {
		t.Errorf("got %v and %v, want %v", got, err, want)
	}
	// The operation has one more field, and so needs members of a newer version.
	newer := slices.Clone(b)
	newer[len(newer)-len(ops[2])+1] = memberVersion + 1
	_, err = decodeCommand(newer)
	refused := commandFault(err)
	if !fault.Is(refused, fault.Unavailable) || fault.Remedy(refused) == "" ||
		!strings.Contains(fault.Message(refused), "needs version 2") {
		t.Errorf("got %v, want it refused with version and remedy", refused)
	}
}

// goldenState is a state with everything that a snapshot can have.
func goldenState(t *testing.T, dir string) *fsm {
	t.Helper()
	f, _ := newSmallFSM(dir)
	apply := func(index uint64, ops ...operation) {
		var encoded [][]byte
		for _, op := range ops {
			encoded = append(encoded, encodeOperation(op))
		}
		entry := raft.Log{Index: index, Term: 3, Data: encodeCommand(time.Unix(int64(index), 0), encoded)}
		if err, failed := f.Apply(&entry).(error); failed {
			t.Fatal(err)
		}
	}
	apply(1, operation{kind: kindGrant, ttl: time.Hour})
	apply(2, operation{kind: kindTxn, txn: Txn{
		Then: []Write{{Key: "a", Value: []byte("1"), Lease: 1}, Put("b", []byte("2"))},
	}})
	for index := uint64(3); index < 9; index++ {
		record := fmt.Appendf(nil, "record of revision %d, with some text in it", index)
		apply(index, operation{kind: kindTxn, txn: Txn{
			Append: []Append{{Stream: "s", Records: [][]byte{record}}},
		}})
	}
	apply(9, operation{kind: kindTxn, txn: Txn{Trim: []Trim{{Stream: "s", Before: 3}}}})
	return f
}

func TestGoldenSnapshot(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b := golden(t, "snapshot.v1.bin", persist(t, goldenState(t, dir)))
	f, logged := newSmallFSM(dir)
	if err := f.Restore(io.NopCloser(bytes.NewReader(b))); err != nil || logged.Len() > 0 {
		t.Fatalf("got %v, logged %q", err, logged)
	}
	if again := persist(t, f); !bytes.Equal(again, b) {
		t.Errorf("got %x from the state of the snapshot, want the same bytes %x", again, b)
	}
	// A section that this release does not know is never ignored.
	end := []byte{sectionEnd, 0}
	unknown := append(bytes.TrimSuffix(slices.Clone(b), end), 77, 1, 0, sectionEnd, 0)
	newer := slices.Clone(b)
	newer[len(snapshotMagic)-1]++
	for name, b := range map[string][]byte{"an unknown section": unknown, "a newer version": newer} {
		err := f.Restore(io.NopCloser(bytes.NewReader(b)))
		if !fault.Is(err, fault.Unavailable) || !strings.Contains(fault.Message(err), "version 1") ||
			fault.Remedy(err) == "" {
			t.Errorf("%s: got %v, want it refused with version and remedy", name, err)
		}
	}
}

func TestGoldenSegment(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	f := goldenState(t, dir)
	st, _ := f.state.Load().streams.Get([]byte("s"))
	seg := segmentAt{segment: st.sealed[0], stream: "s", before: st.dropped}
	file := filepath.Join(dir, segmentName("s", seg.base))
	written, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	b := golden(t, "segment.v1.bin", written[:seg.size])
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	records, err := f.files.readSegment(seg, seg.base, 10, 1<<20)
	if err != nil || len(records) == 0 || records[0].Number != seg.base || f.files.checkDigest(seg) != nil {
		t.Errorf("got %v and %v, want its records under the digest of the state", records, err)
	}
	newer := slices.Clone(b)
	newer[len(segmentMagic)-1]++
	if err := os.WriteFile(file, newer, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := f.files.readSegment(seg, seg.base, 10, 1<<20); !errors.Is(err, errUnsupported) {
		t.Errorf("got %v for a segment of a newer version, want it refused", err)
	}
}
