//go:build unix

package terminal

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

// WatchSize calls resized with the new size whenever the size of the terminal changes (SIGWINCH), until ctx
// ends. It does not report the size at the start.
func WatchSize(ctx context.Context, f *os.File, resized func(columns, rows int)) {
	changed := make(chan os.Signal, 1)
	signal.Notify(changed, syscall.SIGWINCH)
	defer signal.Stop(changed)
	for {
		select {
		case <-ctx.Done():
			return
		case <-changed:
			if columns, rows, ok := Size(f); ok {
				resized(columns, rows)
			}
		}
	}
}
