// Package lifecycle answers: in which order do the parts of a process start and stop?
//
// Parts stop in the reverse order of their start: a node before its proxy, and auth, which all others report
// to, last.
package lifecycle

import (
	"context"
	"errors"
	"fmt"
)

// Stack has the parts that run in this process. One goroutine calls Run and Stop. Each part runs on a
// goroutine of its own, which Stop waits for.
type Stack struct {
	ctx   context.Context         // done when the process should stop, or a part failed
	fail  context.CancelCauseFunc // ends ctx
	parts []part                  // in the order of their start
}

// part is a running part.
type part struct {
	cancel context.CancelFunc // ends the part's context
	done   chan error         // gets what serve returned; of capacity 1
}

// New makes an empty stack that ends with ctx.
func New(ctx context.Context) *Stack {
	s := &Stack{}
	s.ctx, s.fail = context.WithCancelCause(ctx)
	return s
}

// Context is done when the process should stop, or when a part has failed.
func (s *Stack) Context() context.Context { return s.ctx }

// Run starts a part, which is serve, on a goroutine. The context of serve does not end with the stack's: only
// Stop ends it, when the parts that were started later have stopped. If serve returns an error, the stack's
// context ends, and Stop returns the error with the part's name.
func (s *Stack) Run(name string, serve func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(s.ctx))
	p := part{cancel: cancel, done: make(chan error, 1)}
	s.parts = append(s.parts, p)
	go func() {
		err := serve(ctx)
		if err != nil {
			err = fmt.Errorf("%s: %w", name, err)
			s.fail(err)
		}
		p.done <- err
	}()
}

// Stop stops the parts, the one that was started last first, and waits for each before it stops the next. It
// returns the errors of all, joined; nil if there are none.
func (s *Stack) Stop() error {
	s.fail(nil)
	var errs []error
	for i := len(s.parts) - 1; i >= 0; i-- {
		s.parts[i].cancel()
		errs = append(errs, <-s.parts[i].done)
	}
	s.parts = nil
	return errors.Join(errs...)
}
