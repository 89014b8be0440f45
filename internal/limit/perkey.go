package limit

import "sync"

// PerKey counts how many of something each key holds, such as the sessions of each user. The zero value is
// ready to use. Its methods may be called by several goroutines at once.
type PerKey[K comparable] struct {
	mu     sync.Mutex // guards counts
	counts map[K]int  // no entry is zero
}

// TryAcquire counts one more for key, unless key holds limit of them already; a negative limit bounds
// nothing. It returns how many key held before, and ok is false when nothing was counted. Each success needs
// one Release.
func (p *PerKey[K]) TryAcquire(key K, limit int) (held int, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	held = p.counts[key]
	if limit >= 0 && held >= limit {
		return held, false
	}
	if p.counts == nil {
		p.counts = map[K]int{}
	}
	p.counts[key] = held + 1
	return held, true
}

// Release counts one less for key.
func (p *PerKey[K]) Release(key K) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.counts[key]--; p.counts[key] <= 0 {
		delete(p.counts, key)
	}
}

// Held is how many key holds.
func (p *PerKey[K]) Held(key K) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.counts[key]
}
