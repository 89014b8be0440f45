package coalesce

import (
	"net"
	"sync/atomic"
)

// firstPieceBytes is the first piece of a packet that is larger than package ssh's buffer. Its second, and
// last, follows at once. No packet is so long itself once there are keys: with the ciphers and MACs in use
// its length is 4 modulo 8.
const firstPieceBytes = 4096

// SSHConn joins the two pieces in which package ssh writes a large packet.
type SSHConn struct {
	net.Conn
	joining atomic.Bool
	first   *[]byte // waits for the second; of Write alone, for package ssh writes one packet after the other
}

// NewSSHConn is for the connection beneath SSH. It passes on what is written until Join.
func NewSSHConn(conn net.Conn) *SSHConn { return &SSHConn{Conn: conn} }

// JoinPackets begins to join. There must be keys: SSH's handshake is over.
func (p *SSHConn) JoinPackets() { p.joining.Store(true) }

// Write passes on b, or the whole of which it is a part.
func (p *SSHConn) Write(b []byte) (int, error) {
	switch {
	case p.first == nil && (len(b) != firstPieceBytes || !p.joining.Load()):
		return p.Conn.Write(b)
	case p.first == nil:
		p.first = buffers.Get().(*[]byte)
		*p.first = append(*p.first, b...)
		return len(b), nil
	}
	buf := p.first
	p.first = nil
	*buf = append(*buf, b...)
	_, err := p.Conn.Write(*buf)
	*buf = (*buf)[:0]
	buffers.Put(buf)
	if err != nil {
		return 0, err
	}
	return len(b), nil
}
