package sshd

import (
	"context"
	"sync"

	"github.com/threshold-access/threshold/internal/fault"
)

// drainState is how a server comes to its end: it drains, and then it is over.
type drainState struct {
	draining   chan struct{} // closed when no session may start any more
	ended      chan struct{} // closed when those that run must end
	stopReason *endReason    // what they are told

	mu      sync.Mutex // guards conns, and that none joins once draining
	conns   map[*connection]struct{}
	drained chan struct{} // closed when draining and no connection is left
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

// Drain lets sessions that run go on until ctx ends, and ends what is left then. Nobody new comes in
// meanwhile, people at terminals are told, and connections on which nothing is open are closed. It is called
// once, and returns when no connection is left.
func (s *Server) Drain(ctx context.Context) {
	s.mu.Lock()
	close(s.draining)
	n := len(s.conns)
	if n == 0 {
		close(s.drained)
	}
	s.mu.Unlock()
	if n > 0 {
		s.cfg.Log.Info("sessions may end", "connections", n)
	}
	select {
	case <-s.drained:
	case <-ctx.Done():
		s.cfg.Log.Warn("sessions are ended: the time to drain is over")
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

// register takes a connection in that is logged in, unless the server drains.
func (s *Server) register(c *connection) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.isDraining() {
		return false
	}
	s.conns[c] = struct{}{}
	return true
}

func (s *Server) unregister(c *connection) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
	if len(s.conns) == 0 && s.isDraining() {
		close(s.drained)
	}
}
