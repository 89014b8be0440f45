package mux

import (
	"net"
	"sync"
)

// drainGroup counts connections that are being served. After close it takes no more, and drained is closed
// when the last one has ended. A sync.WaitGroup cannot refuse new members.
type drainGroup struct {
	mu      sync.Mutex    // guards count and closed, and with them the closing of drained
	count   int           // connections being served
	closed  bool          // no more are taken
	drained chan struct{} // closed once closed is true and count is 0
}

func newDrainGroup() *drainGroup { return &drainGroup{drained: make(chan struct{})} }

// serve calls fn, which serves conn, and counts conn until fn returns. After close it closes conn instead.
func (g *drainGroup) serve(conn net.Conn, fn func()) {
	if !g.add() {
		conn.Close()
		return
	}
	defer g.done()
	fn()
}

// add counts one connection more and reports true, or reports false after close.
func (g *drainGroup) add() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return false
	}
	g.count++
	return true
}

// done counts one connection less. It closes drained if that was the last one after close.
func (g *drainGroup) done() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.count--; g.count == 0 && g.closed {
		close(g.drained)
	}
}

// close makes serve refuse connections from now on, and returns drained. It is called once.
func (g *drainGroup) close() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
	if g.count == 0 {
		close(g.drained)
	}
	return g.drained
}
