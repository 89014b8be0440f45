// Package gather answers: how do bytes that belong together leave together?
//
// TLS hands each record of 16 kB to the network by a system call of its own, the multiplexer writes the head
// of a frame and its body apart, and package ssh writes what does not fit its small buffer in two pieces.
// Each piece wakes somebody at the other end, who hands it on as small as it came: most of the processor time
// of a large transfer went there. Nothing here waits for more to come: it holds back only what is followed by
// more at once.
package coalesce

import (
	"io"
	"net"
	"sync"
)

// maxHeldBytes is how much is gathered at most before it leaves: three records, which a packet of SSH takes.
const maxHeldBytes = 50 << 10

var buffers = sync.Pool{New: func() any { b := make([]byte, 0, maxHeldBytes); return &b }}

// TransportConn goes between TLS and the network. Until somebody holds it back, it passes on what is written.
type TransportConn struct {
	net.Conn

	mu      sync.Mutex // guards what follows
	holders int        // by how many
	buf     *[]byte    // what waits; nil: nothing
	err     error      // of a write, after which nobody knows how much of a record left
}

// UnderTLS makes one over conn.
func UnderTLS(conn net.Conn) *TransportConn { return &TransportConn{Conn: conn} }

// Write passes b on, or keeps it while it is held back.
func (u *TransportConn) Write(b []byte) (int, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.err != nil {
		return 0, u.err
	}
	if u.holders == 0 {
		return u.Conn.Write(b)
	}
	if u.buf != nil && len(*u.buf)+len(b) > maxHeldBytes && u.flush() != nil {
		return 0, u.err
	}
	if u.buf == nil {
		u.buf = buffers.Get().(*[]byte)
	}
	*u.buf = append(*u.buf, b...) // never longer than a record where it grows
	return len(b), nil
}

// Hold keeps back what is written from now on, until Release.
func (u *TransportConn) Hold() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.holders++
}

// Release lets go what was held back, once nobody holds any more. Its error is that of the writes since Hold.
func (u *TransportConn) Release() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.holders--; u.holders == 0 && u.err == nil {
		u.flush()
	}
	return u.err
}

func (u *TransportConn) flush() error {
	if u.buf == nil {
		return nil
	}
	_, u.err = u.Conn.Write(*u.buf)
	*u.buf = (*u.buf)[:0]
	buffers.Put(u.buf)
	u.buf = nil
	return u.err
}

// TransportOf finds what is beneath a TLS connection, or nil.
func TransportOf(w io.Writer) *TransportConn {
	if over, ok := w.(interface{ NetConn() net.Conn }); ok {
		u, _ := over.NetConn().(*TransportConn)
		return u
	}
	return nil
}

// Writer makes each Write to a TLS connection leave in one piece. What has no Under beneath it is written to
// as it is.
func Writer(w io.Writer) io.Writer {
	if u := TransportOf(w); u != nil {
		return tlsWriter{w, u}
	}
	return w
}

type tlsWriter struct {
	io.Writer
	transport *TransportConn
}

func (w tlsWriter) Write(b []byte) (int, error) { return w.transport.writeHeld(w.Writer, b) }

// Conn is Writer for a whole connection.
func Conn(c net.Conn) net.Conn {
	if u := TransportOf(c); u != nil {
		return tlsConn{c, u}
	}
	return c
}

type tlsConn struct {
	net.Conn
	transport *TransportConn
}

func (c tlsConn) Write(b []byte) (int, error) { return c.transport.writeHeld(c.Conn, b) }

func (u *TransportConn) writeHeld(w io.Writer, b []byte) (int, error) {
	u.Hold()
	n, err := w.Write(b)
	if left := u.Release(); err == nil && left != nil {
		n, err = 0, left
	}
	return n, err
}
