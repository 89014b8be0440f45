// Package testnet answers: how do the ends of a connection meet in a test that needs no kernel?
//
// Its connections are streams in memory with a buffer in each direction, half-close, addresses and deadlines.
// They open no port, and block in ways that testing/synctest understands. Only tests use it.
package testnet

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/threshold-access/threshold/internal/connqueue"
)

// bufferBytes is how much one direction of a connection holds before Write waits for the reader.
const bufferBytes = 64 << 10

// ListenAddr and ClientAddr are the addresses of connections whose test names no others.
const (
	ListenAddr = "192.0.2.1:443"
	ClientAddr = "198.51.100.7:40022"
)

// Listener is a net.Listener in memory. It is safe for concurrent use. Closing it leaves open the connections
// that were accepted.
type Listener struct{ *connqueue.Listener }

// Listen makes a listener that reports addr, an IP address and port, as its address. It panics on another
// text, which is a mistake in the test.
func Listen(addr string) *Listener { return &Listener{connqueue.New(tcpAddr(addr))} }

// DialContext connects to the listener; it ignores network and address, so that it fits
// http.Transport.DialContext. The client's address is ClientAddr. It returns when Accept has taken the other
// end, or with the error of ctx. If the listener is closed, the error is that of a port where nothing
// listens.
func (l *Listener) DialContext(ctx context.Context, _, _ string) (net.Conn, error) {
	return l.DialFrom(ctx, ClientAddr)
}

// DialFrom is DialContext for a client at the given address.
func (l *Listener) DialFrom(ctx context.Context, client string) (net.Conn, error) {
	from := tcpAddr(client)
	near, far := newPair(from, l.Addr())
	err := l.Put(ctx, far)
	if err == nil {
		return near, nil
	}
	if errors.Is(err, net.ErrClosed) {
		err = syscall.ECONNREFUSED
	}
	return nil, &net.OpError{Op: "dial", Net: "tcp", Source: from, Addr: l.Addr(), Err: err}
}

// Pipe returns the two ends of a connection from ClientAddr to ListenAddr.
func Pipe() (client, server *Conn) { return newPair(tcpAddr(ClientAddr), tcpAddr(ListenAddr)) }

// newPair returns the two ends of a connection: near is the client's, far the server's.
func newPair(client, server net.Addr) (near, far *Conn) {
	toServer, toClient := newStream(), newStream()
	return &Conn{in: toClient, out: toServer, local: client, remote: server},
		&Conn{in: toServer, out: toClient, local: server, remote: client}
}

func tcpAddr(s string) *net.TCPAddr { return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(s)) }

// Conn is one end of a connection. It is safe for concurrent use.
type Conn struct {
	in, out       *stream
	local, remote net.Addr
}

// Read implements net.Conn.
func (c *Conn) Read(b []byte) (int, error) {
	n, err := c.in.read(b)
	return n, c.opError("read", err)
}

// Write implements net.Conn. It returns once all of b is in the buffer.
func (c *Conn) Write(b []byte) (int, error) {
	n, err := c.out.write(b)
	return n, c.opError("write", err)
}

// CloseWrite ends this end's direction: the peer reads io.EOF after what was written.
func (c *Conn) CloseWrite() error {
	c.out.endWrites()
	return nil
}

// Close ends both directions. The peer reads what was written and then io.EOF; its writes fail with EPIPE.
func (c *Conn) Close() error {
	c.out.endWrites()
	c.in.endReads()
	return nil
}

func (c *Conn) LocalAddr() net.Addr  { return c.local }
func (c *Conn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline implements net.Conn.
func (c *Conn) SetDeadline(t time.Time) error {
	c.in.readers.set(t)
	c.out.writers.set(t)
	return nil
}

// SetReadDeadline implements net.Conn.
func (c *Conn) SetReadDeadline(t time.Time) error {
	c.in.readers.set(t)
	return nil
}

// SetWriteDeadline implements net.Conn.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	c.out.writers.set(t)
	return nil
}

// opError wraps an error in a *net.OpError, as connections of package net do. It returns nil and io.EOF as
// they are.
func (c *Conn) opError(op string, err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	return &net.OpError{Op: op, Net: "tcp", Source: c.local, Addr: c.remote, Err: err}
}

// stream is one direction of a connection.
type stream struct {
	readers, writers deadline // of the reading end and of the writing end

	mu       sync.Mutex // guards what follows
	changed  *sync.Cond // on mu; signalled at each change and when a deadline passes
	buf      []byte     // written and not yet read; at most bufferBytes
	noWrites bool       // the writing end has closed
	noReads  bool       // the reading end has closed
}

func newStream() *stream {
	s := &stream{}
	s.changed = sync.NewCond(&s.mu)
	s.readers.stream, s.writers.stream = s, s
	return s
}

// read waits until there are bytes, the writing end is closed, the reading end is closed, or the reader's
// deadline has passed. Bytes that were written before the writing end was closed are read first.
func (s *stream) read(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		switch {
		case s.noReads:
			return 0, net.ErrClosed
		case s.readers.passed:
			return 0, os.ErrDeadlineExceeded
		case len(s.buf) > 0 || len(b) == 0:
			n := copy(b, s.buf)
			s.buf = s.buf[n:]
			s.changed.Broadcast()
			return n, nil
		case s.noWrites:
			return 0, io.EOF
		}
		s.changed.Wait()
	}
}

// write waits until all of b is in the buffer, an end is closed, or the writer's deadline has passed. n is
// how much of b is in the buffer.
func (s *stream) write(b []byte) (n int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		switch {
		case s.noWrites:
			return n, net.ErrClosed
		case s.noReads:
			return n, syscall.EPIPE
		case s.writers.passed:
			return n, os.ErrDeadlineExceeded
		case len(b) == 0:
			return n, nil
		}
		if free := bufferBytes - len(s.buf); free > 0 {
			part := b[:min(free, len(b))]
			s.buf = append(s.buf, part...)
			n, b = n+len(part), b[len(part):]
			s.changed.Broadcast()
			continue
		}
		s.changed.Wait()
	}
}

// endWrites closes the writing end: writes fail, and reads return io.EOF once the buffer is empty.
func (s *stream) endWrites() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.noWrites = true
	s.writers.stop()
	s.changed.Broadcast()
}

// endReads closes the reading end: what is in the buffer is lost, and reads and writes fail.
func (s *stream) endReads() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.noReads, s.buf = true, nil
	s.readers.stop()
	s.changed.Broadcast()
}

// deadline belongs to one end of a stream. All of it is guarded by the stream's mu.
type deadline struct {
	stream *stream
	timer  *time.Timer // runs when the deadline passes; nil: there is none to come
	passed bool
}

// set replaces the deadline by t and wakes whoever waits for it if t has passed. The zero time means none.
func (d *deadline) set(t time.Time) {
	d.stream.mu.Lock()
	defer d.stream.mu.Unlock()
	d.stop()
	d.passed = false
	if t.IsZero() {
		return
	}
	left := time.Until(t)
	if left <= 0 {
		d.passed = true
		d.stream.changed.Broadcast()
		return
	}
	var timer *time.Timer
	timer = time.AfterFunc(left, func() {
		d.stream.mu.Lock()
		defer d.stream.mu.Unlock()
		if d.timer == timer { // set has not replaced the deadline meanwhile
			d.passed = true
			d.stream.changed.Broadcast()
		}
	})
	d.timer = timer
}

// stop makes sure that the timer has no effect any more. It is called with the stream's mu held.
func (d *deadline) stop() {
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
}
