package sshd

import (
	"context"
	"sync"
)

// drainState is the state of a server while it stops. It serves until draining is closed. Then it drains:
// what is open may go on until ended is closed, and must end after that. drained is closed when no connection
// is left, before or after ended. No state is ever left for an earlier one.
type drainState struct {
	draining   chan struct{} // closed when no session may start any more
	ended      chan struct{} // closed when the sessions that still run must end
	drained    chan struct{} // closed when the server drains and no connection is left
	stopReason *endReason    // what clients are told; never changes

	mu    sync.Mutex               // guards conns, and the closing of draining and drained
	conns map[*connection]struct{} // connections that are logged in; none is added after draining is closed
}

// newDrainState returns the state of a server that serves.
func newDrainState() drainState {
	return drainState{
		draining: make(chan struct{}),
		ended:    make(chan struct{}),
		drained:  make(chan struct{}),
		conns:    map[*connection]struct{}{},
		stopReason: &endReason{
			cause: causeStop,
			err:   nodeStopping.New("node"),
		},
	}
}

// Drain stops the server, and returns when no connection is left. It must be called at most once.
//
// From its start no login, session or forward is accepted. The sessions and forwards that are open may go on
// until ctx ends; then the remaining ones are ended. Meanwhile connections on which nothing is open are
// closed, and clients with a terminal are told that the node is about to stop.
func (s *Server) Drain(ctx context.Context) {
	s.mu.Lock()
	close(s.draining)
	open := len(s.conns)
	if open == 0 {
		close(s.drained) // otherwise the last unregister closes it
	}
	s.mu.Unlock()
	if open > 0 {
		s.cfg.Log.Info("draining: waiting for sessions to end", "connections", open, "open", s.open.Len())
	}
	select {
	case <-s.drained:
	case <-ctx.Done():
		s.cfg.Log.Warn("the time to drain is over: ending the remaining sessions")
	}
	close(s.ended)
	<-s.drained
}

// isDraining reports whether Drain was called.
func (s *Server) isDraining() bool {
	select {
	case <-s.draining:
		return true
	default:
		return false
	}
}

// register adds a connection that is logged in. It reports false, and adds nothing, if the server drains.
func (s *Server) register(c *connection) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.isDraining() {
		return false
	}
	s.conns[c] = struct{}{}
	return true
}

// unregister removes a connection that register added. If the server drains and this was the last one, Drain
// returns.
func (s *Server) unregister(c *connection) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
	if len(s.conns) == 0 && s.isDraining() {
		close(s.drained)
	}
}
