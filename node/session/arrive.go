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
	child  *attendant
	id     uint32
	path   string
	came   chan uint32
	once   sync.Once
	closed chan struct{}
}

// arrive keeps somebody who connected until Accept, or turns them away.
func (l *socketListener) arrive(comer uint32) {
	select {
	case <-l.closed:
	case l.came <- comer:
		return
	default:
	}
	_ = l.child.tell(note{op: opEnd, id: comer}, nil)
}

// Accept implements net.Listener.
func (l *socketListener) Accept() (net.Conn, error) {
	select {
	case comer := <-l.came:
		ours, theirs, err := pair(unix.SOCK_STREAM)
		if err != nil {
			_ = l.child.tell(note{op: opEnd, id: comer}, nil)
			return nil, err
		}
		defer theirs.Close()
		if err := l.child.tell(note{op: opTake, id: comer}, theirs); err != nil {
			ours.Close()
			return nil, err
		}
		return &stretch{UnixConn: ours, child: l.child, id: comer}, nil
	case <-l.closed:
		return nil, net.ErrClosed
	case <-l.child.gone:
		return nil, io.ErrUnexpectedEOF
	}
}

// Close implements net.Listener. The socket is removed when it returns.
func (l *socketListener) Close() error {
	err := net.ErrClosed
	l.once.Do(func() {
		close(l.closed)
		_, err = l.child.ask(context.Background(), note{op: opClose, id: l.id}, nil)
		l.child.forget(l)
		l.turnAway()
	})
	return err
}

func (l *socketListener) turnAway() {
	for {
		select {
		case comer := <-l.came:
			_ = l.child.tell(note{op: opEnd, id: comer}, nil)
		default:
			return
		}
	}
}

// Addr implements net.Listener.
func (l *socketListener) Addr() net.Addr { return &net.UnixAddr{Net: "unix", Name: l.path} }

// stretch is the way between the node and the process, which goes on to a Unix socket.
type stretch struct {
	*net.UnixConn
	child *attendant
	id    uint32
	once  sync.Once
}

// Close tells the process that nobody takes the rest. What was written is still delivered.
func (s *stretch) Close() error {
	s.once.Do(func() { _ = s.child.tell(note{op: opEnd, id: s.id}, nil) })
	return s.UnixConn.Close()
}
