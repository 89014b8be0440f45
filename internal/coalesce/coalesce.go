// Package coalesce answers: how are bytes that belong together written together?
//
// TLS writes each record of 16 kB to the network with a system call of its own. The multiplexer writes the
// header of a frame and its body apart, and package ssh writes a packet that exceeds its small buffer in two
// pieces. Each piece wakes the reader, which passes it on just as small; most processor time of a large
// transfer was spent on that. This package never delays bytes to wait for more: it holds back only what is
// followed by more at once.
package coalesce

import (
	"io"
	"net"
	"sync"
)

// maxHeldBytes is how much is held back at most before it is written: three TLS records, as many as one SSH
// packet fills.
const maxHeldBytes = 50 << 10

// buffers has buffers of maxHeldBytes, for TransportConn and SSHConn.
var buffers = sync.Pool{New: func() any { b := make([]byte, 0, maxHeldBytes); return &b }}

// TransportConn is the connection between TLS and the network. It passes writes on, except between Hold and
// Release. Its methods may be called by several goroutines at once.
type TransportConn struct {
	net.Conn

	mu      sync.Mutex // guards what follows, and is held while a write to Conn runs
	holders int        // calls of Hold without their Release
	buf     *[]byte    // what is held back, from the pool; nil: nothing
	// of a failed write of held bytes: a part of a record may have left, so no more may follow
	err error
}

// UnderTLS makes one over conn. The caller runs TLS over it.
func UnderTLS(conn net.Conn) *TransportConn { return &TransportConn{Conn: conn} }

// Write passes b on, or copies it while writes are held back.
func (c *TransportConn) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return 0, c.err
	}
	if c.holders == 0 {
		return c.Conn.Write(b)
	}
	if c.buf != nil && len(*c.buf)+len(b) > maxHeldBytes && c.flush() != nil {
		return 0, c.err
	}
	if c.buf == nil {
		c.buf = buffers.Get().(*[]byte)
	}
	*c.buf = append(*c.buf, b...) // grows over maxHeldBytes only for a single write that is longer
	return len(b), nil
}

// Hold holds back what is written from now on, until as many calls of Release.
func (c *TransportConn) Hold() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.holders++
}

// Release writes what was held back, once nobody holds any more. It returns the first error of writes since
// Hold.
func (c *TransportConn) Release() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.holders--; c.holders == 0 && c.err == nil {
		c.flush()
	}
	return c.err
}

// flush writes what is held back. It is called with mu held.
func (c *TransportConn) flush() error {
	if c.buf == nil {
		return nil
	}
	_, c.err = c.Conn.Write(*c.buf)
	*c.buf = (*c.buf)[:0]
	buffers.Put(c.buf)
	c.buf = nil
	return c.err
}

// TransportOf returns the TransportConn under a TLS connection, or nil.
func TransportOf(w io.Writer) *TransportConn {
	if over, ok := w.(interface{ NetConn() net.Conn }); ok {
		c, _ := over.NetConn().(*TransportConn)
		return c
	}
	return nil
}

// Writer returns a writer for a TLS connection each of whose writes leaves in one piece. Anything without a
// TransportConn underneath is returned as it is.
func Writer(w io.Writer) io.Writer {
	if c := TransportOf(w); c != nil {
		return tlsWriter{w, c}
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
	if t := TransportOf(c); t != nil {
		return tlsConn{c, t}
	}
	return c
}

type tlsConn struct {
	net.Conn
	transport *TransportConn
}

func (c tlsConn) Write(b []byte) (int, error) { return c.transport.writeHeld(c.Conn, b) }

// writeHeld writes b to w, which is TLS over c, and holds its records back until all of them are there.
func (c *TransportConn) writeHeld(w io.Writer, b []byte) (int, error) {
	c.Hold()
	n, err := w.Write(b)
	if held := c.Release(); err == nil && held != nil {
		n, err = 0, held
	}
	return n, err
}
