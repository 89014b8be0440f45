// Package places answers: how much may one client take, so that the others find room?
//
// A client is the network its address lies in: one host has as many IPv6 addresses as it likes.
package limit

import (
	"context"
	"net/netip"
	"slices"
	"sync"
)

// Network is what counts as one client: an IPv4 address, or the /64 of an IPv6 address. It takes addresses
// with and without a port, and is the zero Prefix for anything else.
func Network(addr string) netip.Prefix {
	a, err := netip.ParseAddr(addr)
	if err != nil {
		ap, err := netip.ParseAddrPort(addr)
		if err != nil {
			return netip.Prefix{}
		}
		a = ap.Addr()
	}
	a = a.Unmap().WithZone("")
	bits := 64
	if a.Is4() {
		bits = 32
	}
	p, _ := a.Prefix(bits) // both lengths fit
	return p
}

// Quota bounds how many of something there are, in all and for each client.
type Quota struct {
	total, perClient int

	mu      sync.Mutex // guards what follows
	used    int
	usedBy  map[netip.Prefix]int
	waiting []*waiter // in the order they came
}

type waiter struct {
	client   netip.Prefix
	admitted chan struct{} // closed when a place is there
}

// NewQuota makes as many places as all, of which one client may take each.
func NewQuota(all, each int) *Quota {
	return &Quota{total: all, perClient: each, usedBy: map[netip.Prefix]int{}}
}

// TryAcquire returns how to give the place back, which may be done more than once; ok is false when there is
// none. Clients without an IP address count as one.
func (p *Quota) TryAcquire(addr string) (leave func(), ok bool) {
	who := Network(addr)
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.tryTake(who) {
		return nil, false
	}
	return sync.OnceFunc(func() { p.release(who) }), true
}

// Acquire is Take for one who can wait, until ctx ends at the latest. It bounds how many do something at
// once, not how many may come: the caller bounds those who wait. Each client's come in order, and one
// client's do not hold up another's.
func (p *Quota) Acquire(ctx context.Context, addr string) (leave func(), ok bool) {
	w := &waiter{client: Network(addr), admitted: make(chan struct{})}
	p.mu.Lock()
	p.waiting = append(p.waiting, w)
	p.admitWaiting()
	p.mu.Unlock()
	select {
	case <-w.admitted:
	case <-ctx.Done():
		if p.removeWaiter(w) {
			return nil, false
		}
	}
	return sync.OnceFunc(func() { p.release(w.client) }), true
}

// tryTake, with mu held, takes a place if there is one.
func (p *Quota) tryTake(who netip.Prefix) bool {
	if p.used >= p.total || p.usedBy[who] >= p.perClient {
		return false
	}
	p.used++
	p.usedBy[who]++
	return true
}

// admitWaiting, with mu held, gives what is free to those who wait.
func (p *Quota) admitWaiting() {
	p.waiting = slices.DeleteFunc(p.waiting, func(w *waiter) bool {
		if !p.tryTake(w.client) {
			return false
		}
		close(w.admitted)
		return true
	})
}

// removeWaiter reports whether w was still waiting.
func (p *Quota) removeWaiter(w *waiter) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := slices.Index(p.waiting, w)
	if i >= 0 {
		p.waiting = slices.Delete(p.waiting, i, i+1)
	}
	return i >= 0
}

func (p *Quota) release(who netip.Prefix) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.used--
	if p.usedBy[who]--; p.usedBy[who] == 0 {
		delete(p.usedBy, who)
	}
	p.admitWaiting()
}
