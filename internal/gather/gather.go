// Package gather answers: how do bytes that belong together leave together?
//
// TLS hands each record of 16 kB to the network by a system call of its own, the multiplexer writes the head of a frame and its body
// apart, and package ssh writes what does not fit its small buffer in two pieces. Each piece wakes somebody at the other end, who
// hands it on as small as it came: most of the processor time of a large transfer went there. Nothing here waits for more to come: it
// holds back only what is followed by more at once.
package gather

import (
	"io"
	"net"
	"sync"
)

// wholeBytes is how much is gathered at most before it leaves: three records, which a packet of SSH takes.
const wholeBytes = 50 << 10

var buffers = sync.Pool{New: func() any { b := make([]byte, 0, wholeBytes); return &b }}

// Under goes between TLS and the network. Until somebody holds it back, it passes on what is written.
type Under struct {
	net.Conn

	mu   sync.Mutex // guards what follows
	held int        // by how many
	buf  *[]byte    // what waits; nil: nothing
	err  error      // of a write, after which nobody knows how much of a record left
}

// Beneath makes one over conn.
func Beneath(conn net.Conn) *Under { return &Under{Conn: conn} }

// Write passes b on, or keeps it while it is held back.
func (u *Under) Write(b []byte) (int, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.err != nil {
		return 0, u.err
	}
	if u.held == 0 {
		return u.Conn.Write(b)
	}
	if u.buf != nil && len(*u.buf)+len(b) > wholeBytes && u.flush() != nil {
		return 0, u.err
	}
	if u.buf == nil {
		u.buf = buffers.Get().(*[]byte)
	}
	*u.buf = append(*u.buf, b...) // never longer than a record where it grows
	return len(b), nil
}

// Hold keeps back what is written from now on, until Release.
func (u *Under) Hold() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.held++
}

// Release lets go what was held back, once nobody holds any more. Its error is that of the writes since Hold.
func (u *Under) Release() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.held--; u.held == 0 && u.err == nil {
		u.flush()
	}
	return u.err
}

func (u *Under) flush() error {
	if u.buf == nil {
		return nil
	}
	_, u.err = u.Conn.Write(*u.buf)
	*u.buf = (*u.buf)[:0]
	buffers.Put(u.buf)
	u.buf = nil
	return u.err
}

// Of finds what is beneath a TLS connection, or nil.
func Of(w io.Writer) *Under {
	if over, ok := w.(interface{ NetConn() net.Conn }); ok {
		u, _ := over.NetConn().(*Under)
		return u
	}
	return nil
}

// Writer makes each Write to a TLS connection leave in one piece. What has no Under beneath it is written to as it is.
func Writer(w io.Writer) io.Writer {
	if u := Of(w); u != nil {
		return writer{w, u}
	}
	return w
}

type writer struct {
	io.Writer
	under *Under
}

func (w writer) Write(b []byte) (int, error) { return w.under.whole(w.Writer, b) }

// Conn is Writer for a whole connection.
func Conn(c net.Conn) net.Conn {
	if u := Of(c); u != nil {
		return conn{c, u}
	}
	return c
}

type conn struct {
	net.Conn
	under *Under
}

func (c conn) Write(b []byte) (int, error) { return c.under.whole(c.Conn, b) }

func (u *Under) whole(w io.Writer, b []byte) (int, error) {
	u.Hold()
	n, err := w.Write(b)
	if left := u.Release(); err == nil && left != nil {
		n, err = 0, left
	}
	return n, err
}
