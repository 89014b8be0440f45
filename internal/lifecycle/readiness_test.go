package lifecycle_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/lifecycle"
)

// Wait blocks until Set, and returns nil from then on, also after End.
func TestWaitReturnsOnceTheServerIsReady(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		readiness := lifecycle.NewReadiness("the proxy")
		waited := make(chan error, 1)
		go func() { waited <- readiness.Wait(t.Context()) }()
		synctest.Wait()
		select {
		case err := <-waited:
			t.Fatalf("not ready yet: got %v, want Wait to block", err)
		default:
		}
		if readiness.IsReady() {
			t.Error("ready before Set")
		}
		readiness.Set()
		readiness.Set()
		if err := <-waited; err != nil || !readiness.IsReady() {
			t.Errorf("got %v, ready %v, want nil and true", err, readiness.IsReady())
		}
		readiness.End(errors.New("disk"))
		for range 20 { // select draws among what is ready
			if err := readiness.Wait(t.Context()); err != nil {
				t.Fatalf("after the end: got %v, want nil, because it was ready", err)
			}
		}
	})
}

// If the server ends first, Wait returns its error, or says that it has stopped.
func TestWaitTellsWhyAServerIsNeverReady(t *testing.T) {
	t.Parallel()
	why := errors.New("the disk is full")
	failed := lifecycle.NewReadiness("the proxy")
	failed.End(why)
	if err := failed.Wait(t.Context()); !errors.Is(err, why) {
		t.Errorf("got %v, want the server's error", err)
	}
	stopped := lifecycle.NewReadiness("the proxy")
	stopped.End(nil)
	err := stopped.Wait(t.Context())
	if !fault.Is(err, fault.Unavailable) || err.Error() == "" || fault.Remedy(err) == "" {
		t.Errorf("got %v, want a fault with a remedy", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := lifecycle.NewReadiness("the proxy").Wait(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want the context's error", err)
	}
}

func TestCheckTellsHowFarTheServerIs(t *testing.T) {
	t.Parallel()
	readiness := lifecycle.NewReadiness("the proxy")
	if err := readiness.Check(); !fault.Is(err, fault.Unavailable) ||
		fault.Message(err) != "the proxy is still starting" {
		t.Errorf("before Set: got %v", err)
	}
	readiness.Set()
	if err := readiness.Check(); err != nil {
		t.Errorf("after Set: got %v, want nil", err)
	}
	why := errors.New("the disk is full")
	readiness.End(why)
	if err := readiness.Check(); fault.Message(err) != "the proxy has stopped" || !errors.Is(err, why) {
		t.Errorf("after End: got %v, want that it has stopped, and why", err)
	}
}
