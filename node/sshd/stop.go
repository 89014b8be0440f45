package sshd

import (
	"context"
	"sync"

	"github.com/threshold-access/threshold/internal/fault"
)

// closing is how a server comes to its end: it drains, and then it is over.
type closing struct {
	draining chan struct{} // closed when no session may start any more
	over     chan struct{} // closed when those that run must end
	stop     *ending       // what they are told

	mu    sync.Mutex // guards conns, and that none joins once draining
	conns map[*connection]struct{}
	empty chan struct{} // closed when draining and no connection is left
}

func newClosing() closing {
	return closing{draining: make(chan struct{}), over: make(chan struct{}), empty: make(chan struct{}), conns: map[*connection]struct{}{},
		stop: &ending{by: "stop", err: fault.New(fault.Unavailable, "node", "this node is stopping", "try again in a minute")}}
}

// Drain lets sessions that run go on until ctx ends, and ends what is left then. Nobody new comes in meanwhile, people at terminals are
// told, and connections on which nothing is open are closed. It is called once, and returns when no connection is left.
func (s *Server) Drain(ctx context.Context) {
	s.mu.Lock()
	close(s.draining)
	n := len(s.conns)
	if n == 0 {
		close(s.empty)
	}
	s.mu.Unlock()
	if n > 0 {
		s.cfg.Log.Info("sessions may end", "connections", n)
	}
	select {
	case <-s.empty:
	case <-ctx.Done():
		s.cfg.Log.Warn("sessions are ended: the time to drain is over")
	}
	close(s.over)
	<-s.empty
}

func (s *Server) stopping() bool {
	select {
	case <-s.draining:
		return true
	default:
		return false
	}
}

// join takes a connection in that is logged in, unless the server drains.
func (s *Server) join(c *connection) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping() {
		return false
	}
	s.conns[c] = struct{}{}
	return true
}

func (s *Server) leave(c *connection) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
	if len(s.conns) == 0 && s.stopping() {
		close(s.empty)
	}
}
