package port

import (
	"container/list"
	"io"
	"sync"
	"sync/atomic"
)

// evictingSet holds a bounded number of connections of unknown clients. A new connection is always admitted;
// when there are too many, the oldest is closed. An honest client is therefore shut out only by a flood that
// replaces all of the set while that client is in it. With a fixed number of places a flood could hold all of
// them for as long as it likes.
type evictingSet struct {
	max     int
	evicted *atomic.Uint64 // counts the connections that were closed to make room

	mu    sync.Mutex // guards conns; nothing is called while it is held
	conns list.List  // of io.Closer, oldest first
}

// add admits conn and closes the oldest connection if there are now more than max. The caller calls remove
// when conn leaves the set: its handshake is over, or it is closed.
func (s *evictingSet) add(conn io.Closer) (remove func()) {
	s.mu.Lock()
	e := s.conns.PushBack(conn)
	var oldest io.Closer
	if s.conns.Len() > s.max {
		oldest = s.conns.Remove(s.conns.Front()).(io.Closer)
	}
	s.mu.Unlock()
	if oldest != nil {
		s.evicted.Add(1)
		_ = oldest.Close() // the goroutine that owns it gets an error from its next read or write
	}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.conns.Remove(e) // does nothing if e was evicted
	}
}
