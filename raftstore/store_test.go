package raftstore_test

import (
	"context"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/raftstore"
	"github.com/threshold-access/threshold/raftstore/raftstoretest"
)

func testContext(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func commit(t testing.TB, s *raftstore.Store, txn raftstore.Txn) raftstore.Result {
	t.Helper()
	r, err := s.Commit(testContext(t), txn)
	if err != nil {
		t.Fatalf("commit: %v", err)
	}
	return r
}

// writes is a transaction without conditions.
func writes(w ...raftstore.Write) raftstore.Txn { return raftstore.Txn{Then: w} }

func put(t testing.TB, s *raftstore.Store, key, value string) raftstore.Result {
	t.Helper()
	return commit(t, s, writes(raftstore.Put(key, []byte(value))))
}

func wantKind(t testing.TB, err error, want fault.Kind) {
	t.Helper()
	if !fault.Is(err, want) {
		t.Errorf("got %v, want fault %s", err, want)
	}
	if err != nil && fault.Remedy(err) == "" {
		t.Errorf("got no remedy in %v, want one", err)
	}
}

func TestGetAfterCommit(t *testing.T) {
	s := raftstoretest.Open(t)
	empty, err := s.Empty(testContext(t))
	if err != nil || !empty {
		t.Errorf("got empty %v, %v, want true before the first write", empty, err)
	}
	r := put(t, s, "a", "1")
	it, err := s.Get(testContext(t), "a")
	if err != nil || string(it.Value) != "1" || it.Created != r.Revision || it.Modified != r.Revision {
		t.Errorf("got %+v, %v, want a=1 at %d", it, err, r.Revision)
	}
	if empty, _ := s.Empty(testContext(t)); empty {
		t.Error("got an empty store after a write, want false")
	}
	_, err = s.Get(testContext(t), "b")
	wantKind(t, err, fault.NotFound)
}

// Each kind of condition is tried on a key that fits it and on one that does not.
func TestConditions(t *testing.T) {
	s := raftstoretest.Open(t)
	put(t, s, "k", "old")
	it, _ := s.Get(testContext(t), "k")
	then := []raftstore.Write{raftstore.Put("k", []byte("new"))}
	cases := []struct {
		name  string
		cond  raftstore.Condition
		holds bool
	}{
		{"Missing refuses a key that exists", raftstore.Missing("k"), false},
		{"Missing allows a key that does not exist", raftstore.Missing("none"), true},
		{"Exists refuses a key that does not exist", raftstore.Exists("none"), false},
		{"Exists allows a key that exists", raftstore.Exists("k"), true},
		{"Unchanged refuses a stale item", raftstore.Unchanged(it), false}, // the case before wrote it
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			_, err := s.Commit(testContext(t), raftstore.Txn{If: []raftstore.Condition{c.cond}, Then: then})
			if c.holds && err != nil {
				t.Errorf("got %v, want a commit", err)
			}
			if !c.holds {
				wantKind(t, err, fault.Conflict)
			}
		})
	}
	now, _ := s.Get(testContext(t), "k")
	commit(t, s, raftstore.Txn{If: []raftstore.Condition{raftstore.Unchanged(now)}, Then: then})
}

func TestRefusedTransactionChangesNothing(t *testing.T) {
	s := raftstoretest.Open(t)
	_, err := s.Commit(testContext(t), raftstore.Txn{
		If:     []raftstore.Condition{raftstore.Exists("none")},
		Then:   []raftstore.Write{raftstore.Put("a", nil)},
		Append: []raftstore.Append{{Stream: "log", Records: [][]byte{[]byte("x")}}},
	})
	wantKind(t, err, fault.Conflict)
	if _, err := s.Get(testContext(t), "a"); !fault.Is(err, fault.NotFound) {
		t.Errorf("got %v, want no key", err)
	}
	if recs, err := s.Read(testContext(t), "log", 1, 10); err != nil || len(recs) != 0 {
		t.Errorf("got %v, %v, want no record", recs, err)
	}
}

// Many writers change one counter by compare-and-set. If two of them got into one revision, an increment
// would be lost.
func TestConcurrentCountersLoseNothing(t *testing.T) {
	s := raftstoretest.Open(t)
	put(t, s, "n", "")
	const writers, rounds = 8, 20
	var all sync.WaitGroup
	for range writers {
		all.Go(func() {
			for done := 0; done < rounds; {
				it, err := s.Get(testContext(t), "n")
				if err != nil {
					t.Error(err)
					return
				}
				_, err = s.Commit(testContext(t), raftstore.Txn{
					If:   []raftstore.Condition{raftstore.Unchanged(it)},
					Then: []raftstore.Write{raftstore.Put("n", append(it.Value, '+'))},
				})
				if err == nil {
					done++
				} else if !fault.Is(err, fault.Conflict) {
					t.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	if it, _ := s.Get(testContext(t), "n"); len(it.Value) != writers*rounds {
		t.Errorf("got %d increments, want %d", len(it.Value), writers*rounds)
	}
}

func TestConcurrentCommitsShareRevisions(t *testing.T) {
	s := raftstoretest.Open(t)
	const writers = 200
	revisions := make([]raftstore.Revision, writers)
	var all sync.WaitGroup
	for i := range writers {
		all.Go(func() { revisions[i] = put(t, s, fmt.Sprint("k", i), "v").Revision })
	}
	all.Wait()
	distinct := map[raftstore.Revision]bool{}
	for _, r := range revisions {
		distinct[r] = true
	}
	if len(distinct) >= writers {
		t.Errorf("got %d revisions for %d writers, want them shared", len(distinct), writers)
	}
}

// The pages of a prefix have all its keys in order, and none of its neighbours.
func TestListPages(t *testing.T) {
	s := raftstoretest.Open(t)
	for i := range 25 {
		put(t, s, fmt.Sprintf("p/%02d", i), "v")
	}
	put(t, s, "o", "before")
	put(t, s, "q", "after")
	var keys []string
	page := raftstore.Page{Limit: 10}
	for {
		l, err := s.List(testContext(t), "p/", page)
		if err != nil {
			t.Fatal(err)
		}
		for _, it := range l.Items {
			keys = append(keys, it.Key)
		}
		if l.Next == "" {
			break
		}
		page.After = l.Next
	}
	if len(keys) != 25 || keys[0] != "p/00" || keys[24] != "p/24" {
		t.Errorf("got %d keys %v, want p/00 to p/24", len(keys), keys)
	}
}

// Keys, records, their revision and their time are the same after a restart.
func TestStateAndStreamsSurviveARestart(t *testing.T) {
	dir := t.TempDir()
	s, stop := raftstoretest.Start(t, raftstoretest.Config(dir))
	put(t, s, "a", "1")
	r := commit(t, s, raftstore.Txn{
		Append: []raftstore.Append{{Stream: "audit", Records: [][]byte{[]byte("x"), []byte("y")}}},
	})
	if r.First[0] != 1 {
		t.Errorf("got first record %d, want 1", r.First[0])
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	cfg := raftstoretest.Config(dir)
	cfg.Heartbeat = 0 // as in production
	s, stop = raftstoretest.Start(t, cfg)
	defer stop()
	t.Logf("ready again after %v", time.Since(start))
	if it, err := s.Get(testContext(t), "a"); err != nil || string(it.Value) != "1" {
		t.Errorf("got %+v, %v, want a=1", it, err)
	}
	recs, err := s.Read(testContext(t), "audit", 2, 10)
	if err != nil || len(recs) != 1 {
		t.Fatalf("got %+v, %v, want one record", recs, err)
	}
	rec := recs[0]
	if string(rec.Data) != "y" || rec.Number != 2 || rec.Revision != r.Revision || !rec.Time.Equal(r.Time) {
		t.Errorf("got %+v, want y as number 2, with the commit's revision and time", rec)
	}
	if err := s.Linearize(testContext(t)); err != nil {
		t.Errorf("linearize: %v", err)
	}
}

// The store's files are not encrypted. They must be readable by their owner only, also when the folders
// around them, or those of a backup, are open to everybody.
func TestFilesAreReadableByTheirOwnerOnly(t *testing.T) {
	cfg := raftstoretest.Config(t.TempDir())
	cfg.Bounds = raftstore.Bounds{
		LogSegmentBytes:  64 << 10,
		SnapshotEntries:  10,
		TrailingEntries:  3,
		SnapshotInterval: 5 * time.Millisecond,
	}
	s, stop := raftstoretest.Start(t, cfg)
	for i := range 30 {
		commit(t, s, raftstore.Txn{
			Then:   []raftstore.Write{raftstore.Put("k", fmt.Append(nil, i))},
			Append: []raftstore.Append{{Stream: "audit", Records: [][]byte{[]byte("x")}}},
		})
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for ctx, found := testContext(t), []string(nil); len(found) == 0; {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal("got no snapshot within a minute")
		}
		found, _ = filepath.Glob(filepath.Join(cfg.Dir, "*", "snapshots", "*", "state.bin"))
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	err := filepath.WalkDir(cfg.Dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil && !d.IsDir() && info.Mode().Perm()&0o077 != 0 {
			name := strings.TrimPrefix(path, cfg.Dir)
			t.Errorf("%s: got mode %v, want no rights for group and others", name, info.Mode())
		}
		seen[d.Name()] = true
		return err
	})
	if err != nil || !seen["state.bin"] || !seen["wal-meta.db"] {
		t.Errorf("got %v with %v, want the log and a snapshot among the files", seen, err)
	}
}
