package auth

import (
	"context"
	"log/slog"
	"time"
)

// endedLocksInterval is how often locks that have ended are removed.
const endedLocksInterval = 5 * time.Minute

// lockRemover removes locks that have ended, as many as one commit may, and returns how many. state.Locks is
// one.
type lockRemover interface {
	RemoveEnded(ctx context.Context, now time.Time) (removed int, err error)
}

// removeEndedLocks removes locks that have ended, at once and then every endedLocksInterval, until ctx ends.
// It always returns nil: what fails is logged, and tried again the next time.
func removeEndedLocks(ctx context.Context, locks lockRemover, now func() time.Time, log *slog.Logger) error {
	next := time.NewTicker(endedLocksInterval)
	defer next.Stop()
	for {
		for {
			removed, err := locks.RemoveEnded(ctx, now())
			if err != nil && ctx.Err() == nil {
				log.Warn("ended locks could not be removed", "err", err, "retry_in", endedLocksInterval)
			}
			if err != nil || removed == 0 {
				break
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-next.C:
		}
	}
}
