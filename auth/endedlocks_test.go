package auth

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// fakeLocks has locks that have ended, of which one call removes two.
type fakeLocks struct {
	mu   sync.Mutex // guards the rest
	left int
	fail bool
}

func (f *fakeLocks) set(left int, fail bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.left, f.fail = left, fail
}

func (f *fakeLocks) RemoveEnded(context.Context, time.Time) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fail {
		return 0, errors.New("no quorum")
	}
	n := min(f.left, 2)
	f.left -= n
	return n, nil
}

// Ended locks are removed at the start and every five minutes, all of them, also after a failure.
func TestEndedLocksAreRemovedAgainAndAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		locks, ended := &fakeLocks{left: 5}, make(chan error, 1)
		go func() { ended <- removeEndedLocks(ctx, locks, time.Now, slog.New(slog.DiscardHandler)) }()
		wantLeft := func(what string, want int) {
			t.Helper()
			synctest.Wait()
			locks.mu.Lock()
			defer locks.mu.Unlock()
			if locks.left != want {
				t.Errorf("%s: got %d locks left, want %d", what, locks.left, want)
			}
		}
		wantLeft("at the start", 0)
		locks.set(3, true)
		<-time.After(endedLocksInterval)
		wantLeft("after a failure", 3)
		locks.set(3, false)
		<-time.After(endedLocksInterval)
		wantLeft("the next time", 0)
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("got %v at the end, want nil", err)
		}
	})
}
