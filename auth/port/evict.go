package port

import (
	"container/list"
	"io"
	"sync"
	"sync/atomic"
)

// evictingSet is the connections of strangers, a bounded number of them. Whoever comes is let in; when there
// are too many, the one who has been there longest goes. A flood therefore keeps an honest caller out only if
// it renews itself whole in the moment the caller needs, where a fixed number of places would be taken for as
// long as the flood likes.
type evictingSet struct {
	max     int
	evicted *atomic.Uint64 // how many had to go

	mu    sync.Mutex // guards all
	conns list.List  // of io.Closer, in the order they came
}

// add takes conn in, until leave is called. It closes the oldest where that makes one too many.
func (c *evictingSet) add(conn io.Closer) (leave func()) {
	c.mu.Lock()
	place := c.conns.PushBack(conn)
	var oldest io.Closer
	if c.conns.Len() > c.max {
		oldest = c.conns.Remove(c.conns.Front()).(io.Closer)
	}
	c.mu.Unlock()
	if oldest != nil {
		c.evicted.Add(1)
		_ = oldest.Close() // its owner finds out
	}
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.conns.Remove(place) // does nothing for one that had to go
	}
}
