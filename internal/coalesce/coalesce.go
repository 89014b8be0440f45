// Package coalesce answers: how are bytes that belong together written together?
//
// TLS writes each record of 16 kB to the network with a system call of its own. The multiplexer writes the
// header of a frame and its body apart, and package ssh writes a packet that exceeds its small buffer in two
// pieces. Each piece wakes the reader, which passes it on just as small; most processor time of a large
// transfer went into that. This package never delays bytes to wait for more: it holds back only what is
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

// TransportConn is the connection between TLS and the network. It writes at once, except between Hold and
// Release: then it collects the bytes in a buffer. Its methods may be called by several goroutines at once.
type TransportConn struct {
	net.Conn

	mu      sync.Mutex // guards what follows, and is held while a write to Conn runs
	holders int        // how many calls of Hold have had no Release yet
	buf     *[]byte    // the bytes that are held back, from the pool; nil: none
	// err is the error of a failed write of held bytes. A part of a TLS record may have left then, so nothing
	// may be written after it.
	err error
}

// UnderTLS makes a TransportConn over conn. The caller runs TLS over it.
func UnderTLS(conn net.Conn) *TransportConn { return &TransportConn{Conn: conn} }

// Write writes b to the network, or copies it into the buffer while writes are held back. Then it returns
// before b has left: a later Write or Release returns the error.
func (c *TransportConn) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return 0, c.err
	}
	if c.holders == 0 {
		return c.Conn.Write(b)
	}
	wouldOverflow := c.buf != nil && len(*c.buf)+len(b) > maxHeldBytes
	if wouldOverflow && c.flush() != nil {
		return 0, c.err
	}
	if c.buf == nil {
		c.buf = buffers.Get().(*[]byte)
	}
	*c.buf = append(*c.buf, b...) // grows over maxHeldBytes only for a single write that is longer
	return len(b), nil
}

// Hold makes Write hold bytes back. Each call needs a call of Release; after the last one the bytes are
// written.
func (c *TransportConn) Hold() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.holders++
}

// Release ends one Hold. If it was the last, Release writes what was held back. It returns the error of that
// write, or of an earlier write of held bytes.
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

// Writer returns a writer for w, a TLS connection over a TransportConn: all TLS records of one Write go to
// the network together. It returns any other w as it is.
func Writer(w io.Writer) io.Writer {
	if c := TransportOf(w); c != nil {
		return tlsWriter{w, c}
	}
	return w
}

// tlsWriter is the writer that Writer returns.
type tlsWriter struct {
	io.Writer
	transport *TransportConn
}

func (w tlsWriter) Write(b []byte) (int, error) { return w.transport.writeHeld(w.Writer, b) }

// Conn is Writer for a whole connection: it returns c with such a Write.
func Conn(c net.Conn) net.Conn {
	if t := TransportOf(c); t != nil {
		return tlsConn{c, t}
	}
	return c
}

// tlsConn is the connection that Conn returns.
type tlsConn struct {
	net.Conn
	transport *TransportConn
}

func (c tlsConn) Write(b []byte) (int, error) { return c.transport.writeHeld(c.Conn, b) }

// writeHeld writes b to w, which is TLS over c, and holds back the TLS records that this makes until all of
// them are there. If the records cannot be sent, it reports that nothing of b was written, because how much
// the peer can decrypt is not known.
func (c *TransportConn) writeHeld(w io.Writer, b []byte) (int, error) {
	c.Hold()
	n, err := w.Write(b)
	if releaseErr := c.Release(); err == nil && releaseErr != nil {
		n, err = 0, releaseErr
	}
	return n, err
}
