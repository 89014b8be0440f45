package tunnel

import (
	"io"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"time"

	"github.com/hashicorp/yamux"
)

const (
	// greetTimeout bounds the greeting, on both sides.
	greetTimeout = 10 * time.Second
	// A peer that went silent is noticed after at most keepalive + sendTimeout.
	keepAliveInterval = 25 * time.Second
	// sendTimeout bounds the wait for a ping's answer, and for one frame to leave: a slow line may have many
	// streams in the queue.
	sendTimeout = 25 * time.Second
	// openTimeout ends a tunnel whose peer does not take streams any more.
	openTimeout = 30 * time.Second
	// closeTimeout is how long a stream that we closed waits for the peer to close it too.
	closeTimeout = time.Minute
	// backlog is how many streams may wait to be taken.
	backlog = 256
)

func muxConfig() *yamux.Config {
	return &yamux.Config{
		AcceptBacklog:          backlog,
		EnableKeepAlive:        true,
		KeepAliveInterval:      keepAliveInterval,
		ConnectionWriteTimeout: sendTimeout,
		MaxStreamWindowSize:    Window,
		StreamOpenTimeout:      openTimeout,
		StreamCloseTimeout:     closeTimeout,
		LogOutput:              io.Discard, // it logs what a peer can provoke; why a session ended is in the errors
	}
}

// stream is a yamux stream with the manners of a net.Conn: Close ends both directions and wakes whoever reads
// or writes, CloseWrite ends one, and a passed deadline is os.ErrDeadlineExceeded.
type stream struct {
	*yamux.Stream
	closed atomic.Bool
	from   net.Addr // nil: the tunnel's peer
}

func (s *stream) Read(b []byte) (int, error) {
	n, err := s.Stream.Read(b)
	return n, s.mapError(err)
}

func (s *stream) Write(b []byte) (int, error) {
	n, err := s.Stream.Write(b)
	return n, s.mapError(err)
}

func (s *stream) mapError(err error) error {
	switch {
	case err == nil || err == io.EOF:
		return err
	case s.closed.Load():
		return net.ErrClosed
	case err == yamux.ErrTimeout:
		return os.ErrDeadlineExceeded
	}
	return err
}

// CloseWrite tells the peer that nothing more comes; reading goes on, for at most closeTimeout.
func (s *stream) CloseWrite() error { return s.Stream.Close() }

func (s *stream) Close() error {
	s.closed.Store(true)
	_ = s.Stream.SetDeadline(time.Unix(1, 0)) // never fails
	return s.Stream.Close()
}

// SetDeadline and its kin do nothing on a closed stream: Close uses them to wake readers.
func (s *stream) SetDeadline(t time.Time) error { return s.setDeadline(s.Stream.SetDeadline, t) }

func (s *stream) SetReadDeadline(t time.Time) error {
	return s.setDeadline(s.Stream.SetReadDeadline, t)
}

func (s *stream) SetWriteDeadline(t time.Time) error {
	return s.setDeadline(s.Stream.SetWriteDeadline, t)
}

func (s *stream) setDeadline(set func(time.Time) error, t time.Time) error {
	if s.closed.Load() {
		return net.ErrClosed
	}
	err := set(t)
	if s.closed.Load() { // Close came in between; its deadline must stand
		_ = s.Stream.SetDeadline(time.Unix(1, 0))
	}
	return err
}

// RemoteAddr is, at the node, the client's address as the proxy saw it.
func (s *stream) RemoteAddr() net.Addr {
	if s.from != nil {
		return s.from
	}
	return s.Stream.RemoteAddr()
}

func clientAddr(h Header) net.Addr {
	ap, err := netip.ParseAddrPort(h.From)
	if err != nil {
		return nil // check has refused such a header
	}
	return net.TCPAddrFromAddrPort(ap)
}
