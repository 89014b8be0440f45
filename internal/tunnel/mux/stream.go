package mux

import (
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// Stream is one stream of a session, a net.Conn with half-close. Close ends both directions and frees this
// end at once; what was written before it still reaches the peer.
type Stream struct {
	session *Session
	id      uint32

	readMu   sync.Mutex    // held by Read
	writeMu  sync.Mutex    // held by Write and CloseWrite
	readable chan struct{} // of capacity 1: has an element when Read should look again
	writable chan struct{} // likewise for Write

	readDeadline, writeDeadline deadline

	// Guarded by session.mu.
	received  []*chunk // what has come and was not read
	filling   *chunk   // the chunk that the receiver writes to, the last of received
	window    int      // how much the peer may have in flight
	credit    int      // how much the peer may still send
	consumed  int      // how much was read since the last update of the window
	sendable  int64    // how much we may still send
	peerEnded bool     // the peer sends no more
	peerStops bool     // the peer reads no more
	ended     bool     // we send no more
	closed    bool     // Close was called
	resetErr  error    // why the stream ended before its time
}

// newStream makes a stream; s.mu is held.
func (s *Session) newStream(id uint32) *Stream {
	st := &Stream{
		session:  s,
		id:       id,
		readable: make(chan struct{}, 1),
		writable: make(chan struct{}, 1),
		window:   InitialWindow,
		credit:   InitialWindow,
		sendable: InitialWindow,
	}
	s.streams[id] = st
	return st
}

// wake makes Read and Write look again.
func (st *Stream) wake() {
	for _, c := range []chan struct{}{st.readable, st.writable} {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

// forget takes the stream off the session's list when no frame of the peer can matter any more. session.mu is
// held.
func (st *Stream) forget() {
	s := st.session
	if s.streams[st.id] == st {
		delete(s.streams, st.id)
	}
}

// shrink gives back what the window has grown, when nothing of the stream is buffered any more. session.mu is
// held.
func (st *Stream) shrink() {
	st.session.growth -= st.window - InitialWindow
	st.window = InitialWindow
}

// takeFrame carries out a frame of the peer that has no data. session.mu is held.
func (st *Stream) takeFrame(f frame) error {
	switch f.kind {
	case kindWindow:
		if st.sendable += int64(f.value); st.sendable > maxCredit {
			return fmt.Errorf("mux: the peer lets stream %d send more than %d bytes", st.id, maxCredit)
		}
	case kindClose:
		st.peerEnded = st.peerEnded || f.flags&flagEnd != 0
		st.peerStops = st.peerStops || f.flags&flagStop != 0
		if st.peerEnded && (st.ended || st.peerStops) {
			st.forget()
		}
	case kindReset:
		st.resetErr = ResetError{Code(f.value)}
		st.discard()
		st.forget()
	}
	st.wake()
	return nil
}

// takeCredit counts n bytes that the peer sends.
func (st *Stream) takeCredit(n int) error {
	st.session.mu.Lock()
	defer st.session.mu.Unlock()
	if n > st.credit || st.peerEnded {
		return fmt.Errorf("mux: the peer sent more on stream %d than it may", st.id)
	}
	st.credit -= n
	return nil
}

// beginFill returns the chunk to which the receiver writes the next of n bytes, or nil if nobody will read
// them. endFill must follow.
func (st *Stream) beginFill(n int) *chunk {
	st.session.mu.Lock()
	defer st.session.mu.Unlock()
	if st.closed || st.resetErr != nil {
		return nil
	}
	if last := len(st.received) - 1; last >= 0 && st.received[last].w < len(st.received[last].b) {
		st.filling = st.received[last]
	} else {
		st.filling = newChunk(n)
		st.received = append(st.received, st.filling)
	}
	return st.filling
}

// endFill adds the n bytes that the receiver has written to the chunk. Read is woken at the end of a frame or
// of the session: to wake it for each chunk costs more than it gains.
func (st *Stream) endFill(n int, atEnd bool) {
	st.session.mu.Lock()
	defer st.session.mu.Unlock()
	c := st.filling
	st.filling = nil
	// The end of a session, unlike discard, leaves what has come to the stream, and this chunk with it.
	if last := len(st.received) - 1; last < 0 || st.received[last] != c { // discard has left the chunk to us
		c.free()
		return
	}
	c.w += n
	if atEnd {
		st.wake()
	}
}

// discard frees what has come and was not read. session.mu is held.
func (st *Stream) discard() {
	for _, c := range st.received {
		if c != st.filling {
			c.free()
		}
	}
	st.received = nil
	st.shrink()
}

// Read reads what the peer has sent. After the peer's end it returns io.EOF.
func (st *Stream) Read(b []byte) (int, error) {
	st.readMu.Lock()
	defer st.readMu.Unlock()
	if len(b) == 0 {
		return 0, nil
	}
	for {
		expired := st.readDeadline.channel()
		select {
		case <-expired:
			return 0, st.orClosed(os.ErrDeadlineExceeded)
		default:
		}
		n, update, err := st.take(b)
		if update > 0 {
			st.session.queue(frame{kind: kindWindow, stream: st.id, value: uint32(update)})
		}
		if n > 0 || err != nil {
			return n, err
		}
		select {
		case <-st.readable:
		case <-expired:
		}
	}
}

// take copies to b what has come, and says by how much the peer's window is to be updated. It does not wait.
func (st *Stream) take(b []byte) (n, update int, err error) {
	st.session.mu.Lock()
	defer st.session.mu.Unlock()
	if st.closed {
		return 0, 0, net.ErrClosed
	}
	for len(st.received) > 0 && n < len(b) {
		c := st.received[0]
		k := copy(b[n:], c.b[c.r:c.w])
		n += k
		c.r += k
		if c.r < c.w || c == st.filling {
			break
		}
		c.free()
		st.received = st.received[1:]
	}
	if len(st.received) == 0 {
		st.received = nil
	}
	_, wasReset := st.resetErr.(ResetError)
	switch {
	case n > 0:
		return n, st.consume(n), nil
	case st.peerEnded && st.filling == nil && !wasReset: // all has come, also if the session has ended since
		st.shrink()
		return 0, 0, io.EOF
	case st.resetErr != nil:
		return 0, 0, st.resetErr
	}
	return 0, 0, nil
}

// consume counts n bytes that were read and returns by how much the peer may send more, or 0 while that is
// less than half a window. The window doubles each time: a peer whose data is read needs it, and one whose
// data is not read never gets it.
func (st *Stream) consume(n int) (update int) {
	st.consumed += n
	if st.consumed < st.window/2 || st.peerEnded || st.resetErr != nil {
		return 0
	}
	update, st.consumed = st.consumed, 0
	if growth := min(st.window, MaxWindow-st.window); st.session.growth+growth <= maxGrowth {
		st.session.growth += growth
		st.window += growth
		update += growth
	}
	st.credit += update
	return update
}

// Write sends b, and waits while the peer's window is full.
func (st *Stream) Write(b []byte) (written int, err error) {
	st.writeMu.Lock()
	defer st.writeMu.Unlock()
	for len(b) > 0 {
		expired := st.writeDeadline.channel()
		select {
		case <-expired:
			return written, st.orClosed(os.ErrDeadlineExceeded)
		default:
		}
		n, err := st.reserve(min(len(b), maxPayload))
		if err != nil {
			return written, err
		}
		if n == 0 {
			select {
			case <-st.writable:
			case <-expired:
			}
			continue
		}
		if !st.sendData(b[:n], expired) {
			st.session.mu.Lock()
			st.sendable += int64(n)
			st.session.mu.Unlock()
			if err := st.session.Err(); err != nil {
				return written, err
			}
			continue // the deadline has passed, or was moved
		}
		written += n
		b = b[n:]
	}
	return written, nil
}

// sendData sends one frame of data. It reports false if the deadline passed or the session ended before.
func (st *Stream) sendData(b []byte, expired <-chan struct{}) bool {
	s := st.session
	f := frame{kind: kindData, stream: st.id, value: uint32(len(b))}
	return s.sender.send(f, b, st.id == 1, expired, s.done)
}

// reserve takes up to n bytes of the peer's window.
func (st *Stream) reserve(n int) (int, error) {
	st.session.mu.Lock()
	defer st.session.mu.Unlock()
	switch {
	case st.closed || st.ended:
		return 0, net.ErrClosed
	case st.resetErr != nil:
		return 0, st.resetErr
	case st.peerStops:
		return 0, syscall.EPIPE
	}
	n = int(min(int64(n), st.sendable))
	st.sendable -= int64(n)
	return n, nil
}

// CloseWrite tells the peer that no more data follows. It waits for a Write that is under way, whose data
// belongs before the end.
func (st *Stream) CloseWrite() error {
	st.writeMu.Lock()
	defer st.writeMu.Unlock()
	return st.end(flagEnd)
}

// Close ends both directions and wakes Read and Write.
func (st *Stream) Close() error { return st.end(flagEnd | flagStop) }

// end sends flags to the peer, unless it needs them no more.
func (st *Stream) end(flags uint8) error {
	s := st.session
	s.mu.Lock()
	if st.closed || st.ended && flags == flagEnd {
		s.mu.Unlock()
		return net.ErrClosed
	}
	known := s.streams[st.id] == st
	st.ended = true
	if flags&flagStop != 0 {
		st.closed = true
		st.discard()
		st.forget()
		st.readDeadline.stop()
		st.writeDeadline.stop()
	} else if st.peerEnded {
		st.forget()
	}
	st.wake()
	s.mu.Unlock()
	if known {
		s.queue(frame{kind: kindClose, flags: flags, stream: st.id})
	}
	return nil
}

// Reset ends the stream at once: the peer loses what it has not read.
func (st *Stream) Reset(code Code) {
	s := st.session
	s.mu.Lock()
	known := s.streams[st.id] == st
	if !st.closed {
		st.ended, st.closed = true, true
		st.discard()
		st.forget()
		st.wake()
	}
	s.mu.Unlock()
	if known {
		s.queue(frame{kind: kindReset, stream: st.id, value: uint32(code)})
	}
}

// orClosed returns net.ErrClosed for a stream that was closed, else err.
func (st *Stream) orClosed(err error) error {
	st.session.mu.Lock()
	defer st.session.mu.Unlock()
	if st.closed {
		return net.ErrClosed
	}
	return err
}

// LocalAddr and RemoteAddr are those of the session's connection.
func (st *Stream) LocalAddr() net.Addr  { return st.session.conn.LocalAddr() }
func (st *Stream) RemoteAddr() net.Addr { return st.session.conn.RemoteAddr() }

// SetDeadline, SetReadDeadline and SetWriteDeadline are those of net.Conn.
func (st *Stream) SetDeadline(t time.Time) error {
	if err := st.setDeadline(&st.readDeadline, t); err != nil {
		return err
	}
	return st.setDeadline(&st.writeDeadline, t)
}

func (st *Stream) SetReadDeadline(t time.Time) error { return st.setDeadline(&st.readDeadline, t) }

func (st *Stream) SetWriteDeadline(t time.Time) error { return st.setDeadline(&st.writeDeadline, t) }

func (st *Stream) setDeadline(d *deadline, t time.Time) error {
	st.session.mu.Lock()
	defer st.session.mu.Unlock()
	if st.closed {
		return net.ErrClosed
	}
	d.set(t)
	st.wake() // one that waits for the old deadline shall wait for the new one
	return nil
}

// deadline has a channel that is closed when the time has come. The zero value never comes.
type deadline struct {
	mu      sync.Mutex
	timer   *time.Timer
	expired chan struct{} // nil: no deadline
}

func (d *deadline) channel() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.expired
}

func (d *deadline) set(t time.Time) {
	d.stop()
	if t.IsZero() {
		return
	}
	expired := make(chan struct{})
	d.mu.Lock()
	defer d.mu.Unlock()
	d.expired = expired
	if wait := time.Until(t); wait > 0 {
		d.timer = time.AfterFunc(wait, func() { close(expired) })
	} else {
		close(expired)
	}
}

func (d *deadline) stop() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
	}
	d.timer, d.expired = nil, nil
}

// chunk holds data that has come: b[r:w] is to be read. Small data gets a small chunk, and the next data
// fills the rest of it, so that many small frames cost no more memory than their window and two chunks.
type chunk struct {
	b    []byte
	r, w int
}

const (
	smallChunk = 1 << 10
	largeChunk = 16 << 10
)

var (
	smallChunks = sync.Pool{New: func() any { return &chunk{b: make([]byte, smallChunk)} }}
	largeChunks = sync.Pool{New: func() any { return &chunk{b: make([]byte, largeChunk)} }}
)

func newChunk(n int) *chunk {
	pool := &largeChunks
	if n <= smallChunk {
		pool = &smallChunks
	}
	c := pool.Get().(*chunk)
	c.r, c.w = 0, 0
	return c
}

func (c *chunk) free() {
	if len(c.b) == smallChunk {
		smallChunks.Put(c)
	} else {
		largeChunks.Put(c)
	}
}
