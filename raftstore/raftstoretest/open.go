// Package raftstoretest answers: how does a test get a store, and how does it take its disk or network away?
// Open returns a running single replica. PowerFS is a file system that loses what was not synced. Network
// connects replicas without sockets.
package raftstoretest

import (
	"context"
	"testing"
	"time"

	"github.com/threshold-access/threshold/raftstore"
)

// readyTimeout is how long Start waits until the store is ready. It should take milliseconds.
const readyTimeout = 30 * time.Second

// Config is a configuration of a single replica in dir, with small files and a quick election.
func Config(dir string) raftstore.Config {
	return raftstore.Config{
		Dir:       dir,
		ReplicaID: "one",
		Stream:    new(Network).Listen("one"),
		Bootstrap: true,
		Heartbeat: 5 * time.Millisecond,
		Bounds:    raftstore.Bounds{LogSegmentBytes: 1 << 20},
	}
}

// Open returns a running single replica in a temporary folder. It is ready for writes, and is closed when the
// test ends.
func Open(t testing.TB) *raftstore.Store {
	t.Helper()
	s, stop := Start(t, Config(t.TempDir()))
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Errorf("the store ended with %v, want nil", err)
		}
	})
	return s
}

// Start runs a store and waits until it is ready for writes; if that takes longer than readyTimeout, the test
// fails. stop stops the store and returns what Run returned. The caller must call it, once.
func Start(t testing.TB, cfg raftstore.Config) (store *raftstore.Store, stop func() error) {
	t.Helper()
	store, err := raftstore.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- store.Run(ctx) }() // ends when stop is called
	stop = func() error {
		cancel()
		return <-ended
	}
	wait, cancelWait := context.WithTimeout(ctx, readyTimeout)
	defer cancelWait()
	if err := store.Ready(wait); err != nil {
		t.Fatalf("the store is not ready: %v; Run: %v", err, stop())
	}
	return store, stop
}
