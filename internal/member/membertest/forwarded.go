package membertest

import (
	"net"

	"github.com/threshold-access/threshold/internal/authrpc"
)

// ForwardedListener is a listener, as a stand-in for auth has one, whose connections come with or without a
// proxy's introduction in front, and without it out. It believes all of them.
func ForwardedListener(l net.Listener) net.Listener { return forwardedListener{l} }

type forwardedListener struct{ net.Listener }

func (l forwardedListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &forwardedConn{Conn: c}, nil
}

// forwardedConn reads the introduction with the first Read, so that no slow client holds up the others.
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
