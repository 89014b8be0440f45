package raftstore_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/raftstore"
	"github.com/threshold-access/threshold/raftstore/raftstoretest"
)

func next(t *testing.T, w *raftstore.Watch) []raftstore.Event {
	t.Helper()
	events, err := w.Next(testContext(t))
	if err != nil {
		t.Fatalf("next: %v", err)
	}
	return events
}

// A watch delivers what came after its revision, one revision at a time, then waits for more, and ignores
// keys without its prefix.
func TestWatchResumesAndWaits(t *testing.T) {
	s := raftstoretest.Open(t)
	first := put(t, s, "u/a", "1")
	put(t, s, "other", "x")
	both := commit(t, s, writes(raftstore.Delete("u/a"), raftstore.Put("u/b", []byte("2"))))
	w, err := s.Watch(testContext(t), "u/", first.Revision)
	if err != nil {
		t.Fatal(err)
	}
	events := next(t, w)
	if len(events) != 2 || !events[0].Deleted || events[0].Key != "u/a" ||
		string(events[1].Item.Value) != "2" || events[1].Revision != both.Revision {
		t.Errorf("got %+v, want u/a deleted and u/b put in one revision", events)
	}
	ctx, cancel := context.WithCancel(testContext(t))
	later := make(chan []raftstore.Event, 1)
	go func() {
		events, _ := w.Next(ctx)
		later <- events
	}()
	put(t, s, "other", "y") // wakes the watch, but has another prefix
	put(t, s, "u/c", "3")
	if events := <-later; len(events) != 1 || events[0].Key != "u/c" {
		t.Errorf("got %+v, want u/c alone", events)
	}
	cancel()
	if _, err := w.Next(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}
}

// A watch whose events were dropped gets fault Expired, and a new one from a listing works.
func TestWatchTooOldIsExpired(t *testing.T) {
	cfg := raftstoretest.Config(t.TempDir())
	cfg.Bounds.WatchBytes = 4 << 10
	s, stop := raftstoretest.Start(t, cfg)
	defer stop()
	first := put(t, s, "k", "0")
	w, err := s.Watch(testContext(t), "k", first.Revision)
	if err != nil {
		t.Fatal(err)
	}
	for range 50 {
		put(t, s, "k", strings.Repeat("v", 200))
	}
	_, err = w.Next(testContext(t))
	wantKind(t, err, fault.Expired)
	_, err = s.Watch(testContext(t), "k", first.Revision)
	wantKind(t, err, fault.Expired)
	l, _ := s.List(testContext(t), "k", raftstore.Page{})
	if _, err := s.Watch(testContext(t), "k", l.Revision); err != nil {
		t.Errorf("got %v, want a watch from the listing", err)
	}
}

// A reader that is slower than the writer gets every revision once, in order.
func TestWatchMissesNothingUnderLoad(t *testing.T) {
	s := raftstoretest.Open(t)
	const count = 300
	w, err := s.Watch(testContext(t), "k", 0)
	if err != nil {
		t.Fatal(err)
	}
	var writer sync.WaitGroup
	defer writer.Wait()
	writer.Go(func() {
		for i := range count {
			put(t, s, "k", fmt.Sprint(i))
		}
	})
	for seen := 0; seen < count; {
		for _, e := range next(t, w) {
			if string(e.Item.Value) != fmt.Sprint(seen) {
				t.Fatalf("got %s, want %d", e.Item.Value, seen)
			}
			seen++
		}
	}
}

// A watch that waits, and every later call, gets fault Unavailable when the store stops.
func TestWatchEndsWithTheStore(t *testing.T) {
	s, stop := raftstoretest.Start(t, raftstoretest.Config(t.TempDir()))
	l, err := s.List(testContext(t), "", raftstore.Page{})
	if err != nil {
		t.Fatal(err)
	}
	w, err := s.Watch(testContext(t), "", l.Revision)
	if err != nil {
		t.Fatal(err)
	}
	ctx := testContext(t)
	ended := make(chan error, 1)
	go func() {
		_, err := w.Next(ctx)
		ended <- err
	}()
	if err := stop(); err != nil {
		t.Error(err)
	}
	wantKind(t, <-ended, fault.Unavailable)
	_, err = s.Commit(testContext(t), raftstore.Txn{})
	wantKind(t, err, fault.Unavailable)
}

func putWithLease(t *testing.T, s *raftstore.Store, key string, id raftstore.LeaseID) error {
	t.Helper()
	_, err := s.Commit(testContext(t), writes(raftstore.Write{Key: key, Value: []byte("v"), Lease: id}))
	return err
}

// A lease ends by its time or by Revoke. Its keys go with it, keys of other leases stay, and it cannot be
// used again.
func TestExpiredLeaseRemovesItsKeys(t *testing.T) {
	s := raftstoretest.Open(t)
	id, err := s.Grant(testContext(t), 50*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	long, err := s.Grant(testContext(t), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	from := put(t, s, "plain", "stays").Revision
	w, _ := s.Watch(testContext(t), "leased/", from)
	err = errors.Join(putWithLease(t, s, "leased/a", id), putWithLease(t, s, "leased/b", long))
	if err != nil {
		t.Fatal(err)
	}
	for events := next(t, w); !events[0].Deleted; events = next(t, w) {
		if len(events) != 1 {
			t.Fatalf("got %+v, want one event a revision", events)
		}
	}
	if _, err := s.Get(testContext(t), "leased/a"); !fault.Is(err, fault.NotFound) {
		t.Errorf("got %v, want the leased key gone", err)
	}
	if _, err := s.Get(testContext(t), "leased/b"); err != nil {
		t.Errorf("got %v, want the key of the other lease", err)
	}
	wantKind(t, s.KeepAlive(testContext(t), id), fault.Expired)
	wantKind(t, putWithLease(t, s, "leased/c", id), fault.Expired)
	if err := errors.Join(s.KeepAlive(testContext(t), long), s.Revoke(testContext(t), long)); err != nil {
		t.Error(err)
	}
	if _, err := s.Get(testContext(t), "leased/b"); !fault.Is(err, fault.NotFound) {
		t.Errorf("got %v, want the key gone with its lease", err)
	}
	wantKind(t, s.Revoke(testContext(t), long), fault.Expired)
	_, err = s.Grant(testContext(t), 25*time.Hour)
	wantKind(t, err, fault.Invalid)
}

// A lease outlives a restart with its key, and ends later, in the time of the new leader.
func TestNewLeaderRestartsLeaseTimes(t *testing.T) {
	dir := t.TempDir()
	s, stop := raftstoretest.Start(t, raftstoretest.Config(dir))
	id, err := s.Grant(testContext(t), 200*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	if err := putWithLease(t, s, "k", id); err != nil {
		t.Fatal(err)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	s, stop = raftstoretest.Start(t, raftstoretest.Config(dir))
	defer stop()
	it, err := s.Get(testContext(t), "k")
	if err != nil || it.Lease != id {
		t.Fatalf("got %+v, %v, want the key with its lease", it, err)
	}
	w, err := s.Watch(testContext(t), "k", it.Modified)
	if err != nil {
		t.Fatal(err)
	}
	if events := next(t, w); !events[0].Deleted {
		t.Errorf("got %+v, want the key to end with its lease", events)
	}
}

// Each limit of a transaction is tried at its largest allowed value and one above.
func TestOversizeIsRefused(t *testing.T) {
	s := raftstoretest.Open(t)
	key := func(n int) raftstore.Txn { return writes(raftstore.Put(strings.Repeat("k", n), nil)) }
	value := func(n int) raftstore.Txn { return writes(raftstore.Put("k", make([]byte, n))) }
	record := func(n int) raftstore.Txn {
		return raftstore.Txn{Append: []raftstore.Append{{Stream: "s", Records: [][]byte{make([]byte, n)}}}}
	}
	big := make([]byte, raftstore.MaxValueBytes)
	deleteWithValue := raftstore.Write{Key: "k", Value: []byte("v"), Delete: true}
	fourBig := writes(
		raftstore.Put("k", big),
		raftstore.Put("l", big),
		raftstore.Put("m", big),
		raftstore.Put("n", big),
	)
	cases := map[string]struct {
		txn     raftstore.Txn
		refused bool
	}{
		"no key":                   {key(0), true},
		"a key that is too long":   {key(raftstore.MaxKeyBytes + 1), true},
		"the longest key":          {key(raftstore.MaxKeyBytes), false},
		"a value that is too long": {value(raftstore.MaxValueBytes + 1), true},
		"the longest value":        {value(raftstore.MaxValueBytes), false},
		"a record too long":        {record(raftstore.MaxRecordBytes + 1), true},
		"the longest record":       {record(raftstore.MaxRecordBytes), false},
		"an invalid stream name":   {raftstore.Txn{Append: []raftstore.Append{{Stream: "../x~"}}}, true},
		"a key twice":              {writes(raftstore.Put("k", nil), raftstore.Delete("k")), true},
		"an empty condition key":   {raftstore.Txn{If: []raftstore.Condition{raftstore.Missing("")}}, true},
		"a delete with a value":    {writes(deleteWithValue), true},
		"a transaction over 4 MiB": {fourBig, true},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			_, err := s.Commit(testContext(t), c.txn)
			if c.refused {
				wantKind(t, err, fault.Invalid)
			} else if err != nil {
				t.Errorf("got %v, want a commit", err)
			}
		})
	}
}

func TestNewReportsAllFaultsOfAConfiguration(t *testing.T) {
	_, err := raftstore.New(raftstore.Config{Heartbeat: time.Nanosecond})
	wantKind(t, err, fault.Invalid)
	for _, part := range []string{"data folder", "replica id", "stream layer", "heartbeat"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("got %v, want it to name the %s", err, part)
		}
	}
}

func TestDataFolderIsUsedByOneProcessAtATime(t *testing.T) {
	cfg := raftstoretest.Config(t.TempDir())
	_, stop := raftstoretest.Start(t, cfg)
	defer stop()
	second, err := raftstore.New(raftstoretest.Config(cfg.Dir))
	if err != nil {
		t.Fatal(err)
	}
	wantKind(t, second.Run(testContext(t)), fault.Conflict)
}

func TestStoreThatIsNotOpenIsUnavailable(t *testing.T) {
	s, err := raftstore.New(raftstoretest.Config(t.TempDir()))
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.Get(testContext(t), "k")
	wantKind(t, err, fault.Unavailable)
	_, err = s.Commit(testContext(t), raftstore.Txn{})
	wantKind(t, err, fault.Unavailable)
}
