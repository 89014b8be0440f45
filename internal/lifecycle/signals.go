package lifecycle

import (
	"context"
	"os"
	"os/signal"
	"time"
)

type secondSignalKey struct{}

// UntilSignal gives the context that a whole process runs in. The first of the signals ends it; the second
// ends every Grace that was given in it; a third does what signals do to a program that does not mind them.
// stop lets the signals go.
func UntilSignal(signals ...os.Signal) (ctx context.Context, stop context.CancelFunc) {
	hurry := make(chan struct{})
	ctx, end := context.WithCancel(context.WithValue(context.Background(), secondSignalKey{}, hurry))
	got, done := make(chan os.Signal, 2), make(chan struct{})
	signal.Notify(got, signals...)
	quit, over := context.WithCancel(context.Background())
	go func() {
		defer close(done)
		defer signal.Stop(got)
		for _, then := range []func(){end, func() { close(hurry) }} {
			select {
			case <-got:
				then()
			case <-quit.Done():
				return
			}
		}
	}()
	return ctx, func() { over(); <-done; end() }
}

// DrainContext is what those who are served get after ctx has ended: a context of its own, which ends after
// d, or as soon as the process is told to hurry.
func DrainContext(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), d)
	if hurry, ok := ctx.Value(secondSignalKey{}).(chan struct{}); ok {
		go func() {
			select {
			case <-hurry:
				cancel()
			case <-grace.Done():
			}
		}()
	}
	return grace, cancel
}
