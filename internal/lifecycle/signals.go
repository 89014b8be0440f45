package lifecycle

import (
	"context"
	"os"
	"os/signal"
	"time"
)

// secondSignalKey is the context key of the channel that the second signal closes.
type secondSignalKey struct{}

// UntilSignal returns the context for a whole process. The first of the signals ends it. The second ends
// every DrainContext that was derived from it. A third has the system's default effect. stop gives up the
// signals and waits for the goroutine that handles them.
func UntilSignal(signals ...os.Signal) (ctx context.Context, stop context.CancelFunc) {
	second := make(chan struct{})
	ctx, cancel := context.WithCancel(context.WithValue(context.Background(), secondSignalKey{}, second))
	received, done := make(chan os.Signal, 2), make(chan struct{})
	signal.Notify(received, signals...)
	stopped, cancelStopped := context.WithCancel(context.Background())
	go func() { // until the second signal or stop
		defer close(done)
		defer signal.Stop(received)
		for _, handle := range []func(){cancel, func() { close(second) }} {
			select {
			case <-received:
				handle()
			case <-stopped.Done():
				return
			}
		}
	}()
	return ctx, func() {
		cancelStopped()
		<-done
		cancel()
	}
}

// DrainContext returns the context for draining after ctx has ended. It ends after d, or at the second signal
// to the process. The caller cancels it when everything has drained.
func DrainContext(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), d)
	if second, ok := ctx.Value(secondSignalKey{}).(chan struct{}); ok {
		go func() { // until the drain ends
			select {
			case <-second:
				cancel()
			case <-drain.Done():
			}
		}()
	}
	return drain, cancel
}
