package coalesce

import (
	"net"
	"sync/atomic"
)

// firstPieceBytes is the length of the first piece of a packet that exceeds the buffer of package ssh. The
// second and last piece follows at once. After the handshake no whole packet has this length: with the
// ciphers and MACs in use, the length of a packet is 4 modulo 8.
const firstPieceBytes = 4096

// SSHConn is a connection under package ssh, which writes a large packet in two pieces. Write joins them.
// Package ssh calls Write on one goroutine at a time.
type SSHConn struct {
	net.Conn
	joining atomic.Bool // JoinPackets was called
	// first is a first piece that waits for the second, from the pool; nil: none. Only Write uses it.
	first *[]byte
}

// NewSSHConn makes the connection under an SSH connection. It passes writes on as they are until JoinPackets.
func NewSSHConn(conn net.Conn) *SSHConn { return &SSHConn{Conn: conn} }

// JoinPackets starts to join pieces. It may be called only once the SSH handshake is over: before that a
// whole packet can have firstPieceBytes, and would wait for a second piece that never comes.
func (c *SSHConn) JoinPackets() { c.joining.Store(true) }

// Write writes b at once if b is a whole packet. If b is the first piece of a packet, Write only keeps a
// copy: package ssh passes the second piece in its next call, right after this one. If b is the second piece,
// Write writes the first and b together.
func (c *SSHConn) Write(b []byte) (int, error) {
	if c.first == nil {
		isFirstPiece := len(b) == firstPieceBytes && c.joining.Load()
		if !isFirstPiece {
			return c.Conn.Write(b)
		}
		c.first = buffers.Get().(*[]byte)
		*c.first = append(*c.first, b...)
		return len(b), nil
	}
	packet := c.first
	c.first = nil
	*packet = append(*packet, b...)
	_, err := c.Conn.Write(*packet)
	*packet = (*packet)[:0]
	buffers.Put(packet)
	if err != nil {
		return 0, err // how much of b has left is not known
	}
	return len(b), nil
}
