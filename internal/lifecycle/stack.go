// Package lifecycle answers: in which order do the parts of a process start and stop?
//
// Parts stop in the reverse of their start: a node leaves before its proxy, and auth, which all others report
// to, goes last.
package lifecycle

import (
	"context"
	"errors"
	"fmt"
)

// Stack is the parts that run in this process. Run and Stop belong to one goroutine.
type Stack struct {
	ctx   context.Context // done when the process should stop, or a part failed
	fail  context.CancelCauseFunc
	parts []part
}

type part struct {
	cancel context.CancelFunc
	done   chan error
}

// New makes an empty stack that ends with ctx.
func New(ctx context.Context) *Stack {
	s := &Stack{}
	s.ctx, s.fail = context.WithCancelCause(ctx)
	return s
}

// Context is done when the process should stop, or when a part ended with an error.
func (s *Stack) Context() context.Context { return s.ctx }

// Run starts a part. The part's own context outlives the stack's: only Stop ends it, in its turn.
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

// Stop ends the parts, last first, waits for each, and returns what went wrong in any of them.
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
