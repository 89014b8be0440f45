package tunnel

import (
	"errors"
	"net"
	"time"

	"github.com/threshold-access/threshold/internal/tunnel/mux"
)

const (
	// greetTimeout bounds the greeting, on both sides.
	greetTimeout = 10 * time.Second
	// keepAliveInterval is between two pings. A silent peer is detected within two of them.
	keepAliveInterval = 25 * time.Second
	// sendTimeout bounds the sending of one frame.
	sendTimeout = 25 * time.Second
)

// maxStreams bounds the session streams of a tunnel. It is well above what the node serves at once.
const maxStreams = 4096

// muxConfig is the configuration of the multiplexer at the end that has dialed, the node, or at the other.
// The node opens the control stream and no other.
func muxConfig(dialer bool) mux.Config {
	c := mux.Config{
		Dialer:     dialer,
		MaxStreams: maxStreams,
		KeepAlive:  keepAliveInterval,
		Timeout:    sendTimeout,
	}
	if !dialer {
		c.PeerTotal = 1
	}
	return c
}

// stream is a stream of the multiplexer that may have a client's address.
type stream struct {
	*mux.Stream
	from net.Addr // what RemoteAddr returns; nil: the address of the tunnel's peer
}

// Read reads what the other end sends. If the node has reset the stream because it cannot serve it, the error
// is a fault that says why.
func (s *stream) Read(b []byte) (int, error) {
	n, err := s.Stream.Read(b)
	var reset mux.ResetError
	if err == nil || !errors.As(err, &reset) {
		return n, err
	}
	switch reset.Code {
	case mux.Refused:
		err = nodeStreamsExhausted.Wrap(err, "tunnel.Read")
	case mux.Unsupported:
		err = streamUnsupported.Wrap(err, "tunnel.Read")
	}
	return n, err
}

// RemoteAddr is, at the node, the client's address as the proxy saw it.
func (s *stream) RemoteAddr() net.Addr {
	if s.from != nil {
		return s.from
	}
	return s.Stream.RemoteAddr()
}
