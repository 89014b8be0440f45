package lifecycle

import (
	"context"
	"errors"
	"sync"

	"github.com/threshold-access/threshold/internal/fault"
)

// Readiness tells other goroutines how far a server has come: starting, ready, ended. A server becomes ready
// at most once and ends once; it may end without having been ready. All methods may be called by several
// goroutines at once.
type Readiness struct {
	name  string        // of the server, as in "the proxy has stopped"
	ready chan struct{} // closed by Set
	ended chan struct{} // closed by End
	once  sync.Once     // guards the closing of ready
	err   error         // why the server ended; written before ended is closed, read only after
}

// NewReadiness makes the state of a server that has not started. name stands in messages: "the proxy".
func NewReadiness(name string) *Readiness {
	return &Readiness{name: name, ready: make(chan struct{}), ended: make(chan struct{})}
}

// Set says that the server is ready. Further calls do nothing.
func (r *Readiness) Set() { r.once.Do(func() { close(r.ready) }) }

// End says that the server has ended, and why; nil after a clean stop. The server's Run calls it once, last.
func (r *Readiness) End(err error) {
	r.err = err
	close(r.ended)
}

// IsReady reports whether Set has been called. It stays true after End.
func (r *Readiness) IsReady() bool {
	select {
	case <-r.ready:
		return true
	default:
		return false
	}
}

// Wait waits until the server is ready, and returns nil. If the server ends without having been ready, Wait
// returns the error of the server, or a fault if it ended without one. If ctx ends first, Wait returns its
// error.
func (r *Readiness) Wait(ctx context.Context) error {
	select {
	case <-r.ready:
		return nil
	case <-r.ended:
		if r.IsReady() { // the server was ready and has ended; select chose this case at random
			return nil
		}
		if r.err != nil {
			return r.err
		}
		return componentStoppedEarly.New("lifecycle.Wait", fault.Args{"component": r.name})
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Check returns nil if the server is ready, and otherwise a fault that says whether it is still starting or
// has ended. A server that has ended is not ready, other than for IsReady and Wait. Check does not wait.
func (r *Readiness) Check() error {
	select {
	case <-r.ended:
		stopped := componentStopped.New("lifecycle.Check", fault.Args{"component": r.name})
		return errors.Join(stopped, r.err)
	default:
	}
	if !r.IsReady() {
		return componentStarting.New("lifecycle.Check", fault.Args{"component": r.name})
	}
	return nil
}
