package backoff_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/threshold-access/threshold/internal/backoff"
)

// longest draws the greatest value there is, shortest the least.
func longest(n time.Duration) time.Duration { return n - 1 }
func shortest(time.Duration) time.Duration  { return 0 }

func TestPausesDoubleUpToTheMaximum(t *testing.T) {
	t.Parallel()
	b := backoff.Backoff{Min: time.Second, First: 2 * time.Second, Max: 10 * time.Second, Draw: longest}
	for i, want := range []time.Duration{2, 4, 8, 10, 10} {
		if got := b.Next(); got != want*time.Second {
			t.Errorf("pause %d: got %s, want %s", i, got, want*time.Second)
		}
	}
	b.Reset()
	if got := b.Next(); got != 2*time.Second {
		t.Errorf("after Reset: got %s, want 2s", got)
	}
	b.Draw = shortest
	if got := b.Next(); got != time.Second {
		t.Errorf("the least pause: got %s, want Min", got)
	}
}

// Pauses are at most Max and differ from each other. The zero value gives pauses of zero, and Min equal to
// First gives exactly that pause.
func TestPausesStayInTheirBounds(t *testing.T) {
	t.Parallel()
	b := backoff.Backoff{First: time.Millisecond, Max: 3 * time.Millisecond}
	different := map[time.Duration]bool{}
	for range 1000 {
		p := b.Next()
		if p < 0 || p > 3*time.Millisecond {
			t.Fatalf("got a pause of %s, want 0 to 3 ms", p)
		}
		different[p] = true
	}
	if len(different) < 100 {
		t.Errorf("got %d different pauses of 1000, want many: there is no jitter", len(different))
	}
	var zero backoff.Backoff
	if got := zero.Next(); got != 0 {
		t.Errorf("zero value: got %s, want no pause", got)
	}
	fixed := backoff.Backoff{Min: time.Second, First: time.Second}
	if got := fixed.Next(); got != time.Second {
		t.Errorf("Min = First: got %s, want 1s", got)
	}
}

func TestSleepEndsWithTheContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		if !backoff.Sleep(t.Context(), time.Minute) || time.Since(start) != time.Minute {
			t.Errorf("got %s of sleep, want a minute", time.Since(start))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start = time.Now()
		if backoff.Sleep(ctx, time.Minute) || time.Since(start) != time.Second {
			t.Errorf("got %s of sleep, want it to end with its context after a second", time.Since(start))
		}
		if backoff.Sleep(ctx, 0) {
			t.Error("slept in a context that has ended, want false")
		}
	})
}
