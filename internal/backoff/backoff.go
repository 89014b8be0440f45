// Package backoff answers: how long to wait before the next try?
//
// Each pause is drawn at random, so that clients that failed together do not come back together.
package backoff

import (
	"context"
	"math/rand/v2"
	"time"
)

// Backoff gives growing pauses with jitter. Only one goroutine may use it. The zero value gives pauses of
// zero.
type Backoff struct {
	// Min is the least pause. Zero means that a pause may be as short as nothing ("full jitter").
	Min time.Duration
	// First is the upper bound of the first pause. It doubles with each further pause.
	First time.Duration
	// Max is where the upper bound stops growing. Zero means First: all pauses have the same bound.
	Max time.Duration

	// Draw returns a uniform duration in [0, n); n is positive. Nil means math/rand. Tests set it.
	Draw func(n time.Duration) time.Duration

	ceiling time.Duration // the upper bound of the last pause; 0 before the first
}

// Next returns the next pause. It draws it at random between Min and an upper bound, which is First at first
// and doubles with each call up to Max.
func (b *Backoff) Next() time.Duration {
	switch {
	case b.ceiling == 0:
		b.ceiling = b.First
	case b.ceiling < b.Max:
		b.ceiling = min(2*b.ceiling, b.Max)
	}
	if b.ceiling <= b.Min {
		return b.Min
	}
	draw := b.Draw
	if draw == nil {
		draw = rand.N[time.Duration]
	}
	return b.Min + draw(b.ceiling-b.Min+1)
}

// Reset starts again at First. It is called after a success.
func (b *Backoff) Reset() { b.ceiling = 0 }

// Sleep waits for d and returns true. If ctx has ended already, or ends before d is over, it returns false at
// once.
func Sleep(ctx context.Context, d time.Duration) bool {
	if ctx.Err() != nil {
		return false
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
