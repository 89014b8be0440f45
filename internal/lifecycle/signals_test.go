package lifecycle_test

import (
	"context"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/threshold-access/threshold/internal/lifecycle"
)

// The first signal ends the context and leaves the drain alone; the second ends the drain.
func TestTheFirstSignalDrainsTheSecondEndsTheDrain(t *testing.T) {
	ctx, stop := lifecycle.UntilSignal(syscall.SIGUSR2)
	defer stop()
	send := func() {
		if err := syscall.Kill(os.Getpid(), syscall.SIGUSR2); err != nil {
			t.Fatal(err)
		}
	}
	if ctx.Err() != nil {
		t.Fatal("got an end before any signal")
	}
	send()
	<-ctx.Done()
	drain, cancel := lifecycle.DrainContext(ctx, time.Hour)
	defer cancel()
	if drain.Err() != nil {
		t.Fatal("got no drain after the first signal")
	}
	send()
	<-drain.Done()
	late, cancel := lifecycle.DrainContext(ctx, time.Hour)
	defer cancel()
	<-late.Done() // a drain that begins after the second signal ends at once
}

func TestTheDrainIsBounded(t *testing.T) {
	for name, ctx := range map[string]context.Context{"without signals": t.Context(),
		"with signals": signalContext(t)} {
		drain, cancel := lifecycle.DrainContext(ctx, time.Millisecond)
		<-drain.Done()
		cancel()
		if ctx.Err() != nil {
			t.Errorf("%s: got the context ended by its drain", name)
		}
	}
}

func signalContext(t *testing.T) context.Context {
	ctx, stop := lifecycle.UntilSignal(syscall.SIGUSR2)
	t.Cleanup(stop)
	return ctx
}
