package gather

import (
	"net"
	"sync/atomic"
)

// pieceBytes is the first piece of a packet that is larger than package ssh's buffer. Its second, and last, follows at once. No packet
// is so long itself once there are keys: with the ciphers and MACs in use its length is 4 modulo 8.
const pieceBytes = 4096

// Packets joins the two pieces in which package ssh writes a large packet.
type Packets struct {
	net.Conn
	joins atomic.Bool
	first *[]byte // waits for the second; of Write alone, for package ssh writes one packet after the other
}

// PacketsOf is for the connection beneath SSH. It passes on what is written until Join.
func PacketsOf(conn net.Conn) *Packets { return &Packets{Conn: conn} }

// Join begins to join. There must be keys: SSH's handshake is over.
func (p *Packets) Join() { p.joins.Store(true) }

// Write passes on b, or the whole of which it is a part.
func (p *Packets) Write(b []byte) (int, error) {
	switch {
	case p.first == nil && (len(b) != pieceBytes || !p.joins.Load()):
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
