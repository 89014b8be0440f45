package raftstore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/raftstore"
	"github.com/threshold-access/threshold/raftstore/raftstoretest"
)

const powerWriters = 4

// ledger has, for each writer, the last number that was acknowledged and the last that was attempted.
type ledger struct {
	acked, attempted [powerWriters]int
}

// keptRecords is how many records of the stream the writers keep at least.
const keptRecords = 100

// write commits numbers until something fails. Each commit sets the writer's key and appends the same
// number to the one stream. Now and then it also drops old records.
func (l *ledger) write(ctx context.Context, s *raftstore.Store, w int, seed uint64) {
	r := rand.New(rand.NewPCG(seed, uint64(w)))
	var trim []raftstore.Trim
	for {
		n := l.attempted[w] + 1
		l.attempted[w] = n
		pad := strings.Repeat(".", r.IntN(3000))
		result, err := s.Commit(ctx, raftstore.Txn{
			Trim: trim,
			Then: []raftstore.Write{raftstore.Put(fmt.Sprint("w", w), []byte(strconv.Itoa(n)))},
			Append: []raftstore.Append{
				{Stream: "audit/all", Records: [][]byte{fmt.Appendf(nil, "%d %d %s", w, n, pad)}},
			},
		})
		if err != nil {
			return
		}
		l.acked[w], trim = n, nil
		if number := result.First[0]; n%10 == 0 && number > keptRecords {
			trim = []raftstore.Trim{{Stream: "audit/all", Before: number - keptRecords}}
		}
	}
}

// check compares the store with the ledger. It then adds to the ledger what was written without an
// acknowledgement.
func (l *ledger) check(t *testing.T, s *raftstore.Store) {
	t.Helper()
	last := readAll(t, s)
	for w := range powerWriters {
		it, err := s.Get(testContext(t), fmt.Sprint("w", w))
		if err != nil && !fault.Is(err, fault.NotFound) {
			t.Fatal(err)
		}
		n, _ := strconv.Atoi(string(it.Value))
		if n < l.acked[w] || n > l.attempted[w] {
			t.Fatalf("writer %d: got %d, want %d to %d", w, n, l.acked[w], l.attempted[w])
		}
		if last[w] != n && last[w] != 0 { // 0: all records of the writer were dropped
			t.Fatalf("writer %d: got %d as its last record, want %d as its key says", w, last[w], n)
		}
		l.acked[w], l.attempted[w] = n, n
	}
}

// readAll reads what is kept of the stream to its end, and checks that each writer's numbers have no gap and
// no repetition.
func readAll(t *testing.T, s *raftstore.Store) (last [powerWriters]int) {
	t.Helper()
	for from := uint64(1); ; {
		recs, err := s.Read(testContext(t), "audit/all", from, 100)
		if err != nil {
			t.Fatal(err)
		}
		if len(recs) == 0 {
			return last
		}
		for _, rec := range recs {
			var w, n int
			if _, err := fmt.Fscanf(bytes.NewReader(rec.Data), "%d %d", &w, &n); err != nil {
				t.Fatalf("record %d: %v", rec.Number, err)
			}
			if from == 1 {
				from = rec.Number // the first that is kept
			}
			if last[w] == 0 {
				last[w] = n - 1
			}
			if rec.Number != from || n != last[w]+1 {
				const format = "got record %d with %d of writer %d, want number %d with %d"
				t.Fatalf(format, rec.Number, n, w, from, last[w]+1)
			}
			last[w], from = n, from+1
		}
	}
}

func powerConfig(dir string, power *raftstoretest.PowerFS) raftstore.Config {
	cfg := raftstoretest.Config(dir)
	cfg.FS = power
	cfg.Bounds = raftstore.Bounds{
		LogSegmentBytes:  64 << 10,
		StreamSegment:    32 << 10,
		SnapshotEntries:  10,
		TrailingEntries:  3,
		SnapshotInterval: 5 * time.Millisecond,
	}
	return cfg
}

// TestPowerLoss cuts the power at random points, also while the store opens. After each cut it checks that
// what was acknowledged is there.
func TestPowerLoss(t *testing.T) {
	const rounds = 60
	power, r, dir := raftstoretest.NewPowerFS(1), rand.New(rand.NewPCG(1, 2)), t.TempDir()
	var l ledger
	for round := range rounds {
		power.FailAfter(r.IntN(1+40<<r.IntN(4)), raftstoretest.ErrPowerLost)
		writeUntilPowerLoss(t, powerConfig(dir, power), &l, uint64(round))
		power.Restore()
		s, stop := raftstoretest.Start(t, powerConfig(dir, power))
		l.check(t, s)
		if err := stop(); err != nil {
			t.Fatalf("round %d: got %v, want a clean end", round, err)
		}
	}
	for w := range powerWriters {
		if l.acked[w] < rounds/2 {
			t.Errorf("got only %d writes of writer %d in %d rounds", l.acked[w], w, rounds)
		}
	}
	files, err := power.ListDir(filepath.Join(dir, "streams"))
	if err != nil || len(files) == 0 || slices.Contains(files, "audit%all~0000000000000001") {
		t.Errorf("got files %v and %v, want the oldest deleted", files, err)
	}
}

// writeUntilPowerLoss runs a store with writers until its disk fails. The disk may fail before it is ready.
func writeUntilPowerLoss(t *testing.T, cfg raftstore.Config, l *ledger, seed uint64) {
	t.Helper()
	s, err := raftstore.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx := testContext(t)
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	if s.Ready(ctx) == nil {
		var all sync.WaitGroup
		for w := range powerWriters {
			all.Go(func() { l.write(ctx, s, w, seed) })
		}
		all.Wait()
	}
	if err := <-ended; !errors.Is(err, raftstoretest.ErrPowerLost) {
		t.Fatalf("got %v, want ErrPowerLost", err)
	}
}

// TestPowerLossDuringBootstrap cuts the power at each of the first changes of a new folder. The store must
// open in that folder afterwards.
func TestPowerLossDuringBootstrap(t *testing.T) {
	for changes := range 12 {
		power, dir := raftstoretest.NewPowerFS(uint64(changes)), t.TempDir()
		power.FailAfter(changes, raftstoretest.ErrPowerLost)
		var l ledger
		writeUntilPowerLoss(t, powerConfig(dir, power), &l, uint64(changes))
		power.Restore()
		s, stop := raftstoretest.Start(t, powerConfig(dir, power))
		l.check(t, s)
		if err := stop(); err != nil {
			t.Fatalf("after %d changes: got %v, want a clean end", changes, err)
		}
	}
}

// After the first write on a full disk every write is refused, also when there is space again. Reads go on,
// and a new store on the same folder writes again.
func TestFullDiskRefusesWritesAndLosesNothing(t *testing.T) {
	power, dir := raftstoretest.NewPowerFS(3), t.TempDir()
	s, stop := raftstoretest.Start(t, powerConfig(dir, power))
	put(t, s, "kept", "1")
	power.FailAfter(0, syscall.ENOSPC)
	_, err := s.Commit(testContext(t), writes(raftstore.Put("lost", nil)))
	wantKind(t, err, fault.Exhausted)
	power.FailAfter(-1, nil) // there is space again, but the first failure is final
	_, err = s.Commit(testContext(t), writes(raftstore.Put("lost", nil)))
	wantKind(t, err, fault.Exhausted)
	wantKind(t, s.Linearize(testContext(t)), fault.Exhausted)
	if it, err := s.Get(testContext(t), "kept"); err != nil || string(it.Value) != "1" {
		t.Errorf("got %+v, %v, want reads to go on", it, err)
	}
	wantKind(t, stop(), fault.Exhausted)

	s, stop = raftstoretest.Start(t, powerConfig(dir, power))
	if it, err := s.Get(testContext(t), "kept"); err != nil || string(it.Value) != "1" {
		t.Errorf("got %+v, %v, want kept=1", it, err)
	}
	put(t, s, "next", "2")
	if err := stop(); err != nil {
		t.Error(err)
	}
}

// The log takes the entry and the stream's file does not. The write is not acknowledged. At the next start it
// happens as a whole.
func TestFullDiskDuringAStreamWriteLeavesTheStateUnchanged(t *testing.T) {
	power, dir := raftstoretest.NewPowerFS(4), t.TempDir()
	cfg := powerConfig(dir, power)
	cfg.Bounds.SnapshotEntries = 1000 // no snapshot in this test
	s, stop := raftstoretest.Start(t, cfg)
	power.FailAfter(2, syscall.ENOSPC) // the log's write and fsync succeed
	_, err := s.Commit(testContext(t), raftstore.Txn{
		Then:   []raftstore.Write{raftstore.Put("k", nil)},
		Append: []raftstore.Append{{Stream: "audit/all", Records: [][]byte{[]byte("0 1")}}},
	})
	wantKind(t, err, fault.Exhausted)
	if _, err := s.Get(testContext(t), "k"); !fault.Is(err, fault.NotFound) {
		t.Errorf("got %v, want the state unchanged", err)
	}
	wantKind(t, stop(), fault.Exhausted)
	power.Restore()
	cfg.Stream = raftstoretest.Config(dir).Stream
	s, stop = raftstoretest.Start(t, cfg)
	if _, err := s.Get(testContext(t), "k"); err != nil {
		t.Errorf("got %v, want the entry of the log applied", err)
	}
	if last := readAll(t, s); last[0] != 1 {
		t.Errorf("got record %d, want 1", last[0])
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}
