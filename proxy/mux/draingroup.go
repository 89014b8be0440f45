package mux

import (
	"net"
	"sync"
)

// drainGroup counts who is inside and, once shut, lets nobody in and tells when the last has left.
type drainGroup struct {
	mu      sync.Mutex // guards what follows
	count   int
	closed  bool
	drained chan struct{}
}

func newDrainGroup() *drainGroup { return &drainGroup{drained: make(chan struct{})} }

// serve serves inside the gate; when it is shut, it closes the connection instead.
func (g *drainGroup) serve(conn net.Conn, serve func()) {
	if !g.add() {
		conn.Close()
		return
	}
	defer g.done()
	serve()
}

func (g *drainGroup) add() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return false
	}
	g.count++
	return true
}

func (g *drainGroup) done() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.count--; g.count == 0 && g.closed {
		close(g.drained)
	}
}

// close is called once.
func (g *drainGroup) close() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
	if g.count == 0 {
		close(g.drained)
	}
	return g.drained
}
