package coalesce

import (
	"net"
	"sync/atomic"
)

// firstPieceBytes is the length of the first piece of a packet that exceeds the buffer of package ssh. The
// second and last piece follows at once. After the handshake no whole packet has this length: with the
// ciphers and MACs in use, the length of a packet is 4 modulo 8.
const firstPieceBytes = 4096

// SSHConn joins the two pieces in which package ssh writes a large packet.
type SSHConn struct {
	net.Conn
	joining atomic.Bool
	// a first piece that waits for the second; only Write uses it, and package ssh never calls it twice at
	// once
	first *[]byte
}

// NewSSHConn makes the connection under an SSH connection. It passes writes on as they are until JoinPackets.
func NewSSHConn(conn net.Conn) *SSHConn { return &SSHConn{Conn: conn} }

// JoinPackets starts to join pieces. It may be called only once the SSH handshake is over: before that a
// whole packet can have firstPieceBytes, and would wait for a second piece that never comes.
func (c *SSHConn) JoinPackets() { c.joining.Store(true) }

// Write writes b, or the packet of which b is the second piece. A first piece waits for the second.
func (c *SSHConn) Write(b []byte) (int, error) {
	switch {
	case c.first == nil && (len(b) != firstPieceBytes || !c.joining.Load()):
		return c.Conn.Write(b)
	case c.first == nil:
		c.first = buffers.Get().(*[]byte)
		*c.first = append(*c.first, b...)
		return len(b), nil
	}
	buf := c.first
	c.first = nil
	*buf = append(*buf, b...)
	_, err := c.Conn.Write(*buf)
	*buf = (*buf)[:0]
	buffers.Put(buf)
	if err != nil {
		return 0, err
	}
	return len(b), nil
}
