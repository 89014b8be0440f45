package session

import (
	"context"
	"io"
	"net"
	"sync"

	"golang.org/x/sys/unix"
)

// socketListener is a Unix socket that the process listens on.
type socketListener struct {
	helper  *accountHelper
	id      uint32
	path    string
	pending chan uint32
	once    sync.Once
	closed  chan struct{}
}

// enqueue keeps somebody who connected until Accept, or turns them away.
func (l *socketListener) enqueue(comer uint32) {
	select {
	case <-l.closed:
	case l.pending <- comer:
		return
	default:
	}
	_ = l.helper.notify(message{op: opCloseConn, id: comer}, nil)
}

// Accept implements net.Listener.
func (l *socketListener) Accept() (net.Conn, error) {
	select {
	case comer := <-l.pending:
		ours, theirs, err := socketPair(unix.SOCK_STREAM)
		if err != nil {
			_ = l.helper.notify(message{op: opCloseConn, id: comer}, nil)
			return nil, err
		}
		defer theirs.Close()
		if err := l.helper.notify(message{op: opAccept, id: comer}, theirs); err != nil {
			ours.Close()
			return nil, err
		}
		return &socketConn{UnixConn: ours, helper: l.helper, id: comer}, nil
	case <-l.closed:
		return nil, net.ErrClosed
	case <-l.helper.done:
		return nil, io.ErrUnexpectedEOF
	}
}

// Close implements net.Listener. The socket is removed when it returns.
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

func (l *socketListener) rejectPending() {
	for {
		select {
		case comer := <-l.pending:
			_ = l.helper.notify(message{op: opCloseConn, id: comer}, nil)
		default:
			return
		}
	}
}

// Addr implements net.Listener.
func (l *socketListener) Addr() net.Addr { return &net.UnixAddr{Net: "unix", Name: l.path} }

// socketConn is the way between the node and the process, which goes on to a Unix socket.
type socketConn struct {
	*net.UnixConn
	helper *accountHelper
	id     uint32
	once   sync.Once
}

// Close tells the process that nobody takes the rest. What was written is still delivered.
func (s *socketConn) Close() error {
	s.once.Do(func() { _ = s.helper.notify(message{op: opCloseConn, id: s.id}, nil) })
	return s.UnixConn.Close()
}
