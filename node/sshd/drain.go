package sshd

import (
	"context"
	"sync"

	"github.com/threshold-access/threshold/internal/fault"
)

// drainState is how far a server is on its way to its end. It serves, then it drains (draining is closed),
// then what is left must end (ended is closed), and at last no connection is left (drained is closed). It
// never goes back.
type drainState struct {
	draining   chan struct{} // closed when no session may start any more
	ended      chan struct{} // closed when the sessions that still run must end
	drained    chan struct{} // closed when the server drains and no connection is left
	stopReason *endReason    // what clients are told; never changes

	mu    sync.Mutex               // guards conns, and the closing of draining and drained
	conns map[*connection]struct{} // connections that are logged in; none is added once draining is closed
}

func newDrainState() drainState {
	return drainState{
		draining: make(chan struct{}),
		ended:    make(chan struct{}),
		drained:  make(chan struct{}),
		conns:    map[*connection]struct{}{},
		stopReason: &endReason{
			cause: "stop",
			err:   fault.New(fault.Unavailable, "node", "this node is stopping", "try again in a minute"),
		},
	}
}

// Drain stops accepting logins and sessions, lets the sessions that run go on until ctx ends, and then ends
// those that are left. Meanwhile clients with a terminal are told, and connections on which nothing is open
// are closed. It is called at most once, and returns when no connection is left.
func (s *Server) Drain(ctx context.Context) {
	s.mu.Lock()
	close(s.draining)
	n := len(s.conns)
	if n == 0 {
		close(s.drained)
	}
	s.mu.Unlock()
	if n > 0 {
		s.cfg.Log.Info("draining: waiting for sessions to end", "connections", n)
	}
	select {
	case <-s.drained:
	case <-ctx.Done():
		s.cfg.Log.Warn("the time to drain is over: ending the remaining sessions")
	}
	close(s.ended)
	<-s.drained
}

func (s *Server) isDraining() bool {
	select {
	case <-s.draining:
		return true
	default:
		return false
	}
}

// register adds a connection that is logged in. It reports false, and adds nothing, once the server drains.
func (s *Server) register(c *connection) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.isDraining() {
		return false
	}
	s.conns[c] = struct{}{}
	return true
}

// unregister removes a connection that register added.
func (s *Server) unregister(c *connection) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
	if len(s.conns) == 0 && s.isDraining() {
		close(s.drained)
	}
}
