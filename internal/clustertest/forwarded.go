package clustertest

import (
	"net"

	"github.com/threshold-access/threshold/internal/authrpc"
)

// ForwardedListener is a listener for a double of auth. It takes a proxy's forwarded address off the
// beginning of each connection where there is one, and does not verify it.
func ForwardedListener(l net.Listener) net.Listener { return forwardedListener{l} }

type forwardedListener struct{ net.Listener }

func (l forwardedListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &forwardedConn{Conn: c}, nil
}

// forwardedConn reads the forwarded address with the first Read, so that a slow client does not delay others.
type forwardedConn struct {
	net.Conn
	inner net.Conn
}

func (c *forwardedConn) Read(b []byte) (int, error) {
	if c.inner == nil {
		conn, _, err := authrpc.ReadForwardedFrom(c.Conn)
		if err != nil {
			return 0, err
		}
		c.inner = conn
	}
	return c.inner.Read(b)
}
