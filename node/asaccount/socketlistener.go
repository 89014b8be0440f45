package asaccount

import (
	"context"
	"io"
	"net"
	"sync"

	"golang.org/x/sys/unix"
)

// socketListener is a Unix socket that the helper listens on. The helper accepts connections and keeps each
// until Accept takes it; here a connection is only an id.
type socketListener struct {
	helper  *accountHelper
	id      uint32
	path    string
	pending chan uint32 // ids of connections that were accepted and not yet taken
	once    sync.Once   // of Close
	closed  chan struct{}
}

// enqueue keeps a connection for Accept. It rejects the connection if the listener is closed or too many are
// pending. It never blocks: readLoop calls it.
func (l *socketListener) enqueue(conn uint32) {
	select {
	case <-l.closed:
	case l.pending <- conn:
		return
	default:
	}
	_ = l.helper.notify(message{op: opCloseConn, id: conn}, nil)
}

// Accept implements net.Listener. The connection that it returns is one end of a pair; the helper relays
// between the other end and the connection that it has accepted. Accept returns net.ErrClosed after Close,
// and io.ErrUnexpectedEOF when the helper has ended.
func (l *socketListener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.pending:
		agentEnd, helperEnd, err := socketPair(unix.SOCK_STREAM)
		if err != nil {
			_ = l.helper.notify(message{op: opCloseConn, id: conn}, nil)
			return nil, err
		}
		defer helperEnd.Close()
		if err := l.helper.notify(message{op: opAccept, id: conn}, helperEnd); err != nil {
			agentEnd.Close()
			return nil, err
		}
		return &socketConn{UnixConn: agentEnd, helper: l.helper, id: conn}, nil
	case <-l.closed:
		return nil, net.ErrClosed
	case <-l.helper.done:
		return nil, io.ErrUnexpectedEOF
	}
}

// Close implements net.Listener. When it returns, the socket is removed.
func (l *socketListener) Close() error {
	err := net.ErrClosed
	l.once.Do(func() {
		close(l.closed)
		_, err = l.helper.call(context.Background(), message{op: opCloseListener, id: l.id}, nil)
		l.helper.removeListener(l)
		l.rejectPending()
	})
	return err
}

// rejectPending closes the connections that wait for Accept.
func (l *socketListener) rejectPending() {
	for {
		select {
		case conn := <-l.pending:
			_ = l.helper.notify(message{op: opCloseConn, id: conn}, nil)
		default:
			return
		}
	}
}

// Addr implements net.Listener.
func (l *socketListener) Addr() net.Addr { return &net.UnixAddr{Net: "unix", Name: l.path} }

// socketConn is the connection between the agent and the helper, which copies its bytes to and from a Unix
// socket.
type socketConn struct {
	*net.UnixConn
	helper *accountHelper
	id     uint32
	once   sync.Once // of the message in Close
}

// Close tells the helper that the agent no longer takes what the socket sends. What was written before is
// still delivered to the socket.
func (c *socketConn) Close() error {
	c.once.Do(func() { _ = c.helper.notify(message{op: opCloseConn, id: c.id}, nil) })
	return c.UnixConn.Close()
}
