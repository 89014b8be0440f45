package lifecycle_test

import (
	"context"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/threshold-access/threshold/internal/lifecycle"
)

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
	grace, cancel := lifecycle.DrainContext(ctx, time.Hour)
	defer cancel()
	if grace.Err() != nil {
		t.Fatal("got no grace after the first signal")
	}
	send()
	<-grace.Done()
	late, cancel := lifecycle.DrainContext(ctx, time.Hour)
	defer cancel()
	<-late.Done() // nor is there any for those who ask after the second
}

func TestTheDrainIsBounded(t *testing.T) {
	for name, ctx := range map[string]context.Context{"of a process": t.Context(), "of one that hears signals": signalContext(t)} {
		grace, cancel := lifecycle.DrainContext(ctx, time.Millisecond)
		<-grace.Done()
		cancel()
		if ctx.Err() != nil {
			t.Errorf("%s: got the context ended by its grace", name)
		}
	}
}

func signalContext(t *testing.T) context.Context {
	ctx, stop := lifecycle.UntilSignal(syscall.SIGUSR2)
	t.Cleanup(stop)
	return ctx
}
