package lifecycle_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	"go.uber.org/goleak"

	"github.com/threshold-access/threshold/internal/lifecycle"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Stop stops the last part first, and waits for each before the next.
func TestPartsStopInReverseOfTheirStart(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	stack := lifecycle.New(ctx)
	var order []string // parts stop one after the other, so no lock is needed
	for _, name := range []string{"auth", "proxy", "node"} {
		stack.Run(name, func(ctx context.Context) error {
			<-ctx.Done()
			order = append(order, name)
			return nil
		})
	}
	cancel()
	if err := stack.Stop(); err != nil {
		t.Fatal(err)
	}
	if want := []string{"node", "proxy", "auth"}; !slices.Equal(order, want) {
		t.Errorf("got %v, want %v", order, want)
	}
}

func TestAFailingPartEndsTheStackAndIsNamed(t *testing.T) {
	t.Parallel()
	stack := lifecycle.New(t.Context())
	boom := errors.New("boom")
	stack.Run("auth", func(ctx context.Context) error { <-ctx.Done(); return nil })
	stack.Run("proxy", func(context.Context) error { return boom })
	<-stack.Context().Done()
	if err := stack.Stop(); !errors.Is(err, boom) || err.Error() != "proxy: boom" {
		t.Errorf("got %v, want proxy: boom", err)
	}
}
