package sshd

import (
	"net/netip"
	"sync"
)

// places bounds how many of something there are, in all and for each client address, so that one client leaves room for the others.
type places struct {
	all, each int

	mu    sync.Mutex // guards what follows
	taken int
	by    map[netip.Addr]int
}

func newPlaces(all, each int) *places { return &places{all: all, each: each, by: map[netip.Addr]int{}} }

// take reports whether there was a place, and returns how to give it back. Clients without an address share one's.
func (p *places) take(from netip.Addr) (leave func(), ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.taken >= p.all || p.by[from] >= p.each {
		return nil, false
	}
	p.taken++
	p.by[from]++
	return func() { p.leave(from) }, true
}

func (p *places) leave(from netip.Addr) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.taken--
	if p.by[from]--; p.by[from] == 0 {
		delete(p.by, from)
	}
}
