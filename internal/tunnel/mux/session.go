// Package mux answers: how do many streams share the one connection of a tunnel?
//
// A session costs one goroutine, a stream costs none. Windows begin at InitialWindow and grow with what is
// read. A peer that breaks the protocol loses the session: see DESIGN.md.
package mux

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/threshold-access/threshold/internal/coalesce"
)

// Bounds in bytes.
const (
	// InitialWindow is what a peer may send on a new stream before any of it is read.
	InitialWindow = 16 << 10
	// MaxWindow is what a peer may have in flight on a stream that is read as fast as it comes. Distant peers
	// need it; 4 MiB gains nothing more (measured).
	MaxWindow = 1 << 20
	// maxGrowth bounds what all windows of a session have grown beyond InitialWindow.
	maxGrowth = 32 << 20
)

// backlog is how many streams may wait for Accept; further ones are refused.
const backlog = 256

// A peer may send maxPings in a pingPeriod.
const (
	maxPings   = 32
	pingPeriod = 10 * time.Second
)

// Code says why a stream was reset.
type Code uint32

// Codes, append-only.
const (
	Refused     Code = iota + 1 // the peer may open no more streams now
	Canceled                    // the owner gave the stream up
	Unsupported                 // the peer does not know what the stream is for
)

// ResetError is what a stream returns after the peer reset it.
type ResetError struct{ Code Code }

func (e ResetError) Error() string {
	return fmt.Sprintf("mux: the peer reset the stream (code %d)", e.Code)
}

// Config is a session's configuration.
type Config struct {
	// Dialer is set at the end that opened the connection. Its streams have odd numbers.
	Dialer bool
	// PeerTotal is how many streams the peer may open in the session's life. Zero: any number.
	PeerTotal uint32
	// MaxStreams is how many streams may be open at once. Open refuses to open more, and those that the peer
	// opens are reset with the code Refused. The peer need not know the bound.
	MaxStreams int
	// KeepAlive is the time between two pings. Zero: none.
	KeepAlive time.Duration
	// Timeout bounds the sending of a frame and the wait for a pong.
	Timeout time.Duration
}

// Session is one end of a connection with many streams. It is safe for concurrent use.
type Session struct {
	conn     net.Conn
	config   Config
	sender   sender
	accepted chan *Stream
	done     chan struct{}
	receiver sync.WaitGroup
	pongs    atomic.Uint32 // the value of the last pong

	// Only the receiver uses these.
	pings       int
	periodBegan time.Time
	opened      uint32 // how many streams the peer has opened

	mu       sync.Mutex // guards the fields below and the state of all streams; taken before sender.mu
	err      error      // why the session ended
	streams  map[uint32]*Stream
	lastOwn  uint32 // the number of the last stream that we opened
	lastPeer uint32 // the number of the last stream that the peer opened
	growth   int    // what windows have grown beyond InitialWindow
	pinged   uint32 // the value of our last ping
	timer    *time.Timer
}

// New starts a session over conn and owns it. Close must be called.
func New(conn net.Conn, c Config) *Session {
	waiting := backlog
	if c.PeerTotal > 0 {
		waiting = min(waiting, int(c.PeerTotal))
	}
	s := &Session{
		conn:     conn,
		config:   c,
		accepted: make(chan *Stream, waiting),
		done:     make(chan struct{}),
		streams:  make(map[uint32]*Stream),
	}
	s.sender = sender{conn: coalesce.Conn(conn), timeout: c.Timeout, fail: s.fail}
	s.lastOwn, s.lastPeer = 0, 0
	if c.Dialer {
		s.lastOwn-- // wraps: the first is 1
	} else {
		s.lastPeer-- // likewise
	}
	s.receiver.Go(s.receive)
	if c.KeepAlive > 0 {
		s.mu.Lock()
		s.timer = time.AfterFunc(c.KeepAlive, s.ping)
		s.mu.Unlock()
	}
	return s
}

// Open begins a stream. It does not wait for the peer.
func (s *Session) Open() (*Stream, error) {
	st, err := s.open()
	if st == nil {
		return nil, err
	}
	if err != nil {
		s.fail(err)
		return nil, err
	}
	return st, nil
}

// open does the work of Open. After an error with a stream the caller must end the session.
func (s *Session) open() (*Stream, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.err != nil:
		return nil, s.err
	case len(s.streams) >= s.config.MaxStreams:
		return nil, errors.New("mux: too many open streams")
	case s.lastOwn != ^uint32(0) && s.lastOwn >= ^uint32(0)-3:
		return nil, errors.New("mux: the session has no more stream numbers")
	}
	s.lastOwn += 2
	st := s.newStream(s.lastOwn)
	// under mu, so that streams are opened in the order of their numbers
	return st, s.sender.queue(frame{kind: kindOpen, stream: st.id})
}

// Accept waits for a stream of the peer.
func (s *Session) Accept(ctx context.Context) (*Stream, error) {
	select {
	case st := <-s.accepted:
		return st, nil
	case <-s.done:
		return nil, s.Err()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Done is closed when the session has ended.
func (s *Session) Done() <-chan struct{} { return s.done }

// Err is why the session has ended, or nil.
func (s *Session) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Streams counts the open streams.
func (s *Session) Streams() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.streams)
}

// Close ends the session and all streams, and waits for its goroutines.
func (s *Session) Close() error {
	s.fail(net.ErrClosed)
	s.receiver.Wait()
	s.sender.goroutines.Wait()
	return nil
}

// fail ends the session; the first error counts.
func (s *Session) fail(err error) {
	if s.end(err) {
		s.conn.Close() // without mu: TLS sends a last alert, for which it may wait
	}
}

// end does the work of fail on the session and its streams. It reports false if the session has ended before.
func (s *Session) end(err error) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return false
	}
	s.err = err
	if s.timer != nil {
		s.timer.Stop()
	}
	s.sender.end()
	close(s.done)
	if err == io.EOF { // no stream has come to its end
		err = io.ErrUnexpectedEOF
	}
	for id, st := range s.streams {
		st.resetErr = err
		st.wake()
		delete(s.streams, id)
	}
	return true
}

// ping asks whether the peer still answers, every KeepAlive.
func (s *Session) ping() {
	s.mu.Lock()
	ended, lost := s.err != nil, s.pongs.Load() != s.pinged
	if !ended && !lost {
		s.pinged++
		s.timer.Reset(s.config.KeepAlive)
	}
	value := s.pinged
	s.mu.Unlock()
	switch {
	case ended:
	case lost:
		s.fail(errors.New("mux: the peer does not answer pings"))
	default:
		s.queue(frame{kind: kindPing, value: value})
	}
}

// receive reads frames until the session ends.
func (s *Session) receive() {
	var h [headerBytes]byte
	for {
		if _, err := io.ReadFull(s.conn, h[:]); err != nil {
			s.fail(err)
			return
		}
		f, err := parseFrame(h)
		if err == nil {
			err = s.handle(f)
		}
		if err != nil {
			s.fail(err)
			return
		}
	}
}

// handle carries out a frame of the peer. An error ends the session.
func (s *Session) handle(f frame) error {
	if f.kind >= firstIgnorable { // of a later version
		return s.skip(f.bodyBytes())
	}
	switch f.kind {
	case kindOpen:
		return s.takeOpen(f.stream)
	case kindPing:
		if now := time.Now(); now.Sub(s.periodBegan) > pingPeriod {
			s.periodBegan, s.pings = now, 0
		}
		if s.pings++; s.pings > maxPings {
			return fmt.Errorf("mux: the peer pings more than %d times in %s", maxPings, pingPeriod)
		}
		return s.sender.queue(frame{kind: kindPong, value: f.value})
	case kindPong:
		s.pongs.Store(f.value)
		return nil
	}
	st, err := s.find(f.stream)
	if err != nil {
		return err
	}
	if f.kind == kindData {
		return s.takeData(st, f.bodyBytes())
	}
	if st == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return st.takeFrame(f)
}

// find returns the stream with this number, and nil for one that has been closed at this end, of which frames
// may still be on their way. A number that was never used is an error.
func (s *Session) find(id uint32) (*Stream, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st, last := s.streams[id], s.lastPeer
	if own := id%2 == 1; own == s.config.Dialer {
		last = s.lastOwn
	}
	if st == nil && (last == ^uint32(0) || id > last) {
		return nil, fmt.Errorf("mux: frame for stream %d, which nobody has opened", id)
	}
	return st, nil
}

// takeOpen accepts a stream of the peer, or refuses it.
func (s *Session) takeOpen(id uint32) error {
	s.mu.Lock()
	if next := s.lastPeer + 2; id != next || next == 0 {
		s.mu.Unlock()
		return fmt.Errorf("mux: the peer opened stream %d out of order", id)
	}
	s.lastPeer = id
	s.opened++
	total := s.config.PeerTotal
	refused := total > 0 && s.opened > total ||
		len(s.streams) >= s.config.MaxStreams ||
		len(s.accepted) == cap(s.accepted) // only the receiver adds
	if !refused && s.err == nil {
		s.accepted <- s.newStream(id)
	}
	s.mu.Unlock()
	if refused {
		return s.sender.queue(frame{kind: kindReset, stream: id, value: uint32(Refused)})
	}
	return nil
}

// queue sends a frame without data, and ends the session if too many wait.
func (s *Session) queue(f frame) {
	if err := s.sender.queue(f); err != nil {
		s.fail(err)
	}
}

// takeData reads n bytes of data for st, which is nil if the stream has been closed.
func (s *Session) takeData(st *Stream, n int) error {
	if st != nil {
		if err := st.takeCredit(n); err != nil {
			return err
		}
	}
	for n > 0 {
		var c *chunk
		if st != nil {
			c = st.beginFill(n)
		}
		if c == nil { // nobody will read it
			return s.skip(n)
		}
		k := min(n, len(c.b)-c.w)
		_, err := io.ReadFull(s.conn, c.b[c.w:c.w+k])
		if err != nil {
			k = 0
		}
		n -= k
		st.endFill(k, n == 0 || err != nil)
		if err != nil {
			return err
		}
	}
	return nil
}

// skip reads n bytes that nobody wants.
func (s *Session) skip(n int) error {
	_, err := io.CopyN(io.Discard, s.conn, int64(n))
	return err
}
