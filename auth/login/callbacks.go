package login

import (
	"sync"
	"time"
)

const (
	// maxCallbacks is how often the provider is asked about one attempt. A browser that is sent back once
	// loads the callback once, or twice if the user reloads the page.
	maxCallbacks = 3
	// maxCounted bounds how many attempts are counted at the same time.
	maxCounted = 50_000
)

// callbackCounts counts the callbacks of each attempt, in the memory of this replica. Without it, one cookie
// of a stranger would suffice to send any number of invented codes to the provider. It is safe for concurrent
// use.
type callbackCounts struct {
	mu        sync.Mutex // guards byAttempt
	byAttempt map[string]callbackCount
}

// callbackCount is the count of one attempt, until the attempt expires.
type callbackCount struct {
	n       int
	expires time.Time
}

// take counts a callback of the attempt, and reports false if there were maxCallbacks before it. When
// maxCounted attempts are counted, expired ones are forgotten, and if that is not enough, arbitrary ones: a
// stranger who begins so many attempts gains at most maxCallbacks for each.
func (c *callbackCounts) take(id string, expires, now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.byAttempt == nil {
		c.byAttempt = map[string]callbackCount{}
	}
	count, known := c.byAttempt[id]
	if !known && len(c.byAttempt) >= maxCounted {
		c.evict(now)
	}
	if count.n >= maxCallbacks {
		return false
	}
	c.byAttempt[id] = callbackCount{count.n + 1, expires}
	return true
}

// evict makes room for one more attempt. The caller holds mu.
func (c *callbackCounts) evict(now time.Time) {
	for id, count := range c.byAttempt {
		if now.After(count.expires) {
			delete(c.byAttempt, id)
		}
	}
	for id := range c.byAttempt {
		if len(c.byAttempt) < maxCounted {
			return
		}
		delete(c.byAttempt, id)
	}
}
