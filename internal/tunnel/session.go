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
	// keepAliveInterval is between two pings. A silent peer is detected within keepAliveInterval +
	// sendTimeout.
	keepAliveInterval = 25 * time.Second
	// sendTimeout bounds the wait for a ping's answer, and for one frame to be sent: on a slow network many
	// streams may be queued.
	sendTimeout = 25 * time.Second
	// openTimeout ends a tunnel whose peer no longer accepts streams.
	openTimeout = 30 * time.Second
	// closeTimeout is how long a stream that we closed waits for the peer to close it too.
	closeTimeout = time.Minute
	// backlog is how many streams may wait to be accepted.
	backlog = 256
)

// muxConfig is the configuration of yamux at both ends.
func muxConfig() *yamux.Config {
	return &yamux.Config{
		AcceptBacklog:          backlog,
		EnableKeepAlive:        true,
		KeepAliveInterval:      keepAliveInterval,
		ConnectionWriteTimeout: sendTimeout,
		MaxStreamWindowSize:    Window,
		StreamOpenTimeout:      openTimeout,
		StreamCloseTimeout:     closeTimeout,
		// a peer can cause any number of lines; errors say why a session ended
		LogOutput: io.Discard,
	}
}

// stream makes a yamux stream behave as a net.Conn. Close ends both directions and wakes readers and writers;
// yamux's Close ends only the sending direction, which is CloseWrite here. A deadline that has passed gives
// os.ErrDeadlineExceeded.
type stream struct {
	*yamux.Stream
	closed atomic.Bool
	from   net.Addr // what RemoteAddr returns; nil: the address of the tunnel's peer
}

func (s *stream) Read(b []byte) (int, error) {
	n, err := s.Stream.Read(b)
	return n, s.mapError(err)
}

func (s *stream) Write(b []byte) (int, error) {
	n, err := s.Stream.Write(b)
	return n, s.mapError(err)
}

// mapError replaces yamux's errors by those of package net.
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

// CloseWrite tells the peer that no more data follows. Reading goes on, for at most closeTimeout.
func (s *stream) CloseWrite() error { return s.Stream.Close() }

// Close ends both directions. The passed deadline wakes readers and writers, which yamux's Close would not.
func (s *stream) Close() error {
	s.closed.Store(true)
	_ = s.Stream.SetDeadline(time.Unix(1, 0)) // never fails
	return s.Stream.Close()
}

// SetDeadline, SetReadDeadline and SetWriteDeadline fail on a closed stream: Close uses deadlines to wake
// readers.
func (s *stream) SetDeadline(t time.Time) error { return s.setDeadline(s.Stream.SetDeadline, t) }

func (s *stream) SetReadDeadline(t time.Time) error {
	return s.setDeadline(s.Stream.SetReadDeadline, t)
}

func (s *stream) SetWriteDeadline(t time.Time) error {
	return s.setDeadline(s.Stream.SetWriteDeadline, t)
}

// setDeadline sets a deadline by set, one of yamux's methods. On a closed stream it returns net.ErrClosed and
// changes nothing: Close has set a deadline in the past that wakes readers and writers.
func (s *stream) setDeadline(set func(time.Time) error, t time.Time) error {
	if s.closed.Load() {
		return net.ErrClosed
	}
	err := set(t)
	if s.closed.Load() { // Close ran meanwhile, and set may have replaced its deadline
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

// clientAddr returns the client's address in a header that has been checked.
func clientAddr(h Header) net.Addr {
	ap, err := netip.ParseAddrPort(h.From)
	if err != nil {
		return nil // Header.check refuses such a header
	}
	return net.TCPAddrFromAddrPort(ap)
}
