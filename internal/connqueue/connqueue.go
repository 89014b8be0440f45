// Package connqueue answers: how does a server accept connections that another listener accepted?
//
// A port that serves several protocols finds out which one a connection uses, and puts the connection into
// the Listener of the server for that protocol.
package connqueue

import (
	"context"
	"net"
	"sync"
)

// Listener is a net.Listener whose Accept returns the connections that Put puts into it. All methods may be
// called by several goroutines at once.
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

// Put gives conn to Accept, and waits until a call of Accept has taken it. If the listener is closed or ctx
// ends first, Put closes conn and returns net.ErrClosed or the error of ctx. In no case is conn the caller's
// any more.
func (l *Listener) Put(ctx context.Context, conn net.Conn) error {
	err := l.offer(ctx, conn)
	if err != nil {
		_ = conn.Close()
	}
	return err
}

// offer waits until a call of Accept takes conn.
func (l *Listener) offer(ctx context.Context, conn net.Conn) error {
	select { // first alone: the next select could also choose a call of Accept that still waits
	case <-l.done:
		return net.ErrClosed
	default:
	}
	select {
	case l.conns <- conn:
		return nil
	case <-l.done:
		return net.ErrClosed
	case <-ctx.Done():
		return ctx.Err()
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
