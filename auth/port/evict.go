package port

import (
	"container/list"
	"io"
	"sync"
	"sync/atomic"
)

// evictingSet holds a bounded number of connections of unknown clients. A new connection is always admitted;
// when there are too many, the oldest is closed. An honest client is therefore shut out only by a flood that
// replaces all connections of the set while that client is in it. If new connections were refused instead, a
// flood could occupy the whole set for as long as it likes.
type evictingSet struct {
	max     int
	evicted *atomic.Uint64 // counts the connections that were closed to make room

	mu    sync.Mutex // guards conns; nothing is called while it is held
	conns list.List  // of io.Closer, oldest first
}

// add admits conn and closes the oldest connection if there are now more than max. The caller calls remove
// when conn leaves the set: its handshake is over, or it is closed. remove does nothing for a connection that
// was evicted.
func (s *evictingSet) add(conn io.Closer) (remove func()) {
	s.mu.Lock()
	element := s.conns.PushBack(conn)
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
		s.conns.Remove(element) // does nothing if the element was evicted
	}
}
