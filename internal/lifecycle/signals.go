package lifecycle

import (
	"context"
	"os"
	"os/signal"
	"sync"
	"time"
)

// secondSignalKey is the context key of the channel that the second signal closes.
type secondSignalKey struct{}

// UntilSignal returns the context of a process that ends by a signal. The first of the signals ends the
// context: the process should stop. The second ends every DrainContext made from it: the process should stop
// at once. A third has the system's default effect, as if there were no handler.
//
// The caller calls stop when it no longer waits for signals. stop ends the context too, and returns when the
// goroutine that handles signals has ended.
func UntilSignal(signals ...os.Signal) (ctx context.Context, stop context.CancelFunc) {
	second := make(chan struct{}) // closed at the second signal
	ctx, cancel := context.WithCancel(context.WithValue(context.Background(), secondSignalKey{}, second))
	received := make(chan os.Signal, 2) // as many as are handled, so that none is lost
	signal.Notify(received, signals...)
	stopped, handlerEnded := make(chan struct{}), make(chan struct{})
	go func() { // until the second signal or stop
		defer close(handlerEnded)
		defer signal.Stop(received)
		for _, handle := range []func(){cancel, func() { close(second) }} {
			select {
			case <-received:
				handle()
			case <-stopped:
				return
			}
		}
	}()
	return ctx, sync.OnceFunc(func() {
		close(stopped)
		<-handlerEnded
		cancel()
	})
}

// DrainContext returns a context for what a process still does after ctx has ended: it lets open sessions
// end. The returned context ends after limit, or at the second signal to a process whose ctx is from
// UntilSignal. The caller calls the CancelFunc when everything has drained.
func DrainContext(ctx context.Context, limit time.Duration) (context.Context, context.CancelFunc) {
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
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
