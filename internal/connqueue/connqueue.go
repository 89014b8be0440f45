// Package connqueue answers: how does a server accept connections that another listener accepted?
//
// A port that routes connections by protocol puts each into the queue of the server that speaks it.
package connqueue

import (
	"context"
	"net"
	"sync"
)

// Listener is a net.Listener whose connections are put into it. All methods may be called by several
// goroutines at once.
type Listener struct {
	addr  net.Addr
	conns chan net.Conn // unbuffered, so that no connection is left in it
	done  chan struct{} // closed by Close
	once  sync.Once
}

// New makes a listener that reports addr as its address.
func New(addr net.Addr) *Listener {
	return &Listener{addr: addr, conns: make(chan net.Conn), done: make(chan struct{})}
}

// Put waits until Accept takes conn, and then no longer owns it. It closes conn if the listener is closed or
// ctx ends first.
func (l *Listener) Put(ctx context.Context, conn net.Conn) {
	select {
	case l.conns <- conn:
	case <-l.done:
		_ = conn.Close()
	case <-ctx.Done():
		_ = conn.Close()
	}
}

// Accept implements net.Listener. After Close it returns net.ErrClosed.
func (l *Listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener. It closes no socket: the one beneath belongs to the port that calls Put.
func (l *Listener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

// Addr implements net.Listener.
func (l *Listener) Addr() net.Addr { return l.addr }
