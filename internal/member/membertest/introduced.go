package membertest

import (
	"net"

	"github.com/threshold-access/threshold/internal/authrpc"
)

// Introduced is a listener, as a stand-in for auth has one, whose connections come with or without a proxy's introduction in front, and
// without it out. It believes all of them.
func Introduced(l net.Listener) net.Listener { return introduced{l} }

type introduced struct{ net.Listener }

func (l introduced) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &late{Conn: c}, nil
}

// late reads the introduction with the first Read, so that no slow client holds up the others.
type late struct {
	net.Conn
	begun net.Conn
}

func (c *late) Read(b []byte) (int, error) {
	if c.begun == nil {
		conn, _, err := authrpc.ReadIntroduction(c.Conn)
		if err != nil {
			return 0, err
		}
		c.begun = conn
	}
	return c.begun.Read(b)
}
