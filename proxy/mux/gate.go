package mux

import (
	"net"
	"sync"
)

// gate counts who is inside and, once shut, lets nobody in and tells when the last has left.
type gate struct {
	mu     sync.Mutex // guards what follows
	inside int
	closed bool
	empty  chan struct{}
}

func newGate() *gate { return &gate{empty: make(chan struct{})} }

// within serves inside the gate; when it is shut, it closes the connection instead.
func (g *gate) within(conn net.Conn, serve func()) {
	if !g.enter() {
		conn.Close()
		return
	}
	defer g.leave()
	serve()
}

func (g *gate) enter() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return false
	}
	g.inside++
	return true
}

func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.inside--; g.inside == 0 && g.closed {
		close(g.empty)
	}
}

// shut is called once.
func (g *gate) shut() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
	if g.inside == 0 {
		close(g.empty)
	}
	return g.empty
}
