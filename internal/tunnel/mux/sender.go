package mux

import (
	"fmt"
	"net"
	"slices"
	"sync"
	"time"
)

// maxControl bounds the frames without data that wait to be sent. A peer that causes more does not read.
const maxControl = 64 << 10

// sender lets one goroutine at a time write to the connection: first the frames without data, then the
// control stream, then the other streams, each for one frame in the order of their coming. There is no
// goroutine of its own: callers write, and a short-lived goroutine where nobody does.
type sender struct {
	conn    net.Conn // its TLS records of one Write leave together
	timeout time.Duration
	fail    func(error) // called without mu

	goroutines sync.WaitGroup

	mu      sync.Mutex
	ended   bool
	busy    bool            // someone may write
	urgent  []chan struct{} // who waits for the control stream; closed to hand over the turn
	normal  []chan struct{} // who waits for another stream
	control []byte          // frames without data
}

// send writes a frame of data, unless cancel is closed before its turn comes. sent says whether it was.
func (s *sender) send(f frame, data []byte, urgent bool, cancel, done <-chan struct{}) (sent bool) {
	if !s.acquire(urgent, cancel, done) {
		return false
	}
	buffer := wholeFrames.Get().(*wholeFrame)
	s.write(append(f.append(buffer[:0]), data...))
	wholeFrames.Put(buffer)
	s.release()
	return true
}

// wholeFrame is room for a frame of data, which leaves in one write.
type wholeFrame [headerBytes + maxPayload]byte

var wholeFrames = sync.Pool{New: func() any { return new(wholeFrame) }}

// acquire waits for a turn. After true the caller must call release.
func (s *sender) acquire(urgent bool, cancel, done <-chan struct{}) bool {
	s.mu.Lock()
	if s.ended {
		s.mu.Unlock()
		return false
	}
	if !s.busy {
		s.busy = true
		s.mu.Unlock()
		return true
	}
	turn := make(chan struct{})
	queue := &s.normal
	if urgent {
		queue = &s.urgent
	}
	*queue = append(*queue, turn)
	s.mu.Unlock()
	select {
	case <-turn:
		return true
	case <-cancel:
	case <-done:
	}
	s.mu.Lock()
	i := slices.Index(*queue, turn)
	if i >= 0 {
		*queue = slices.Delete(*queue, i, i+1)
	}
	s.mu.Unlock()
	if i < 0 { // the turn was handed over meanwhile
		s.release()
	}
	return false
}

// release writes the frames without data and hands the turn to whoever is next.
func (s *sender) release() {
	s.mu.Lock()
	for len(s.control) > 0 && !s.ended {
		b := s.control
		s.control = nil
		s.mu.Unlock()
		s.write(b)
		s.mu.Lock()
	}
	defer s.mu.Unlock()
	for _, queue := range []*[]chan struct{}{&s.urgent, &s.normal} {
		if len(*queue) > 0 {
			close((*queue)[0])
			*queue = slices.Delete(*queue, 0, 1)
			return
		}
	}
	s.busy = false
}

// queue sends a frame without data as soon as possible. It never waits, so the receiver may call it: two
// receivers that waited for each other's peer would wait for ever.
// After an error, which says that too many frames wait, the caller must end the session.
func (s *sender) queue(f frame) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return nil
	}
	if len(s.control) >= maxControl {
		return fmt.Errorf("mux: the peer does not read: %d bytes of replies wait", maxControl)
	}
	s.control = f.append(s.control)
	if !s.busy {
		s.busy = true
		s.goroutines.Go(s.release)
	}
	return nil
}

// write writes b whole, or ends the session: half a frame would make the rest unreadable.
func (s *sender) write(b []byte) {
	_ = s.conn.SetWriteDeadline(time.Now().Add(s.timeout)) // Write reports a broken connection
	if _, err := s.conn.Write(b); err != nil {
		s.fail(fmt.Errorf("mux: %w", err))
	}
}

// end makes further calls do nothing.
func (s *sender) end() {
	s.mu.Lock()
	s.ended, s.control = true, nil
	s.mu.Unlock()
}
