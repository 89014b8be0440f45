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
	s := lifecycle.New(ctx)
	var order []string // parts stop one after the other, so no lock is needed
	for _, name := range []string{"auth", "proxy", "node"} {
		s.Run(name, func(ctx context.Context) error {
			<-ctx.Done()
			order = append(order, name)
			return nil
		})
	}
	cancel()
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	if want := []string{"node", "proxy", "auth"}; !slices.Equal(order, want) {
		t.Errorf("got %v, want %v", order, want)
	}
}

func TestAFailingPartEndsTheStackAndIsNamed(t *testing.T) {
	t.Parallel()
	s := lifecycle.New(t.Context())
	boom := errors.New("boom")
	s.Run("auth", func(ctx context.Context) error { <-ctx.Done(); return nil })
	s.Run("proxy", func(context.Context) error { return boom })
	<-s.Context().Done()
	if err := s.Stop(); !errors.Is(err, boom) || err.Error() != "proxy: boom" {
		t.Errorf("got %v, want proxy: boom", err)
	}
}
