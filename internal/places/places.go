// Package places answers: how much may one client take, so that the others find room?
//
// A client is the network its address lies in: one host has as many IPv6 addresses as it likes.
package places

import (
	"context"
	"net/netip"
	"slices"
	"sync"
)

// Network is what counts as one client: an IPv4 address, or the /64 of an IPv6 address. It takes addresses with and without a port,
// and is the zero Prefix for anything else.
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

// Places bounds how many of something there are, in all and for each client.
type Places struct {
	all, each int

	mu      sync.Mutex // guards what follows
	taken   int
	by      map[netip.Prefix]int
	waiting []*waiter // in the order they came
}

type waiter struct {
	who   netip.Prefix
	place chan struct{} // closed when a place is there
}

// New makes as many places as all, of which one client may take each.
func New(all, each int) *Places { return &Places{all: all, each: each, by: map[netip.Prefix]int{}} }

// Take returns how to give the place back, which may be done more than once; ok is false when there is none. Clients without an IP
// address count as one.
func (p *Places) Take(addr string) (leave func(), ok bool) {
	who := Network(addr)
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.take(who) {
		return nil, false
	}
	return sync.OnceFunc(func() { p.leave(who) }), true
}

// Wait is Take for one who can wait, until ctx ends at the latest. It bounds how many do something at once, not how many may come: the
// caller bounds those who wait. Each client's come in order, and one client's do not hold up another's.
func (p *Places) Wait(ctx context.Context, addr string) (leave func(), ok bool) {
	w := &waiter{who: Network(addr), place: make(chan struct{})}
	p.mu.Lock()
	p.waiting = append(p.waiting, w)
	p.admit()
	p.mu.Unlock()
	select {
	case <-w.place:
	case <-ctx.Done():
		if p.forget(w) {
			return nil, false
		}
	}
	return sync.OnceFunc(func() { p.leave(w.who) }), true
}

// take, with mu held, takes a place if there is one.
func (p *Places) take(who netip.Prefix) bool {
	if p.taken >= p.all || p.by[who] >= p.each {
		return false
	}
	p.taken++
	p.by[who]++
	return true
}

// admit, with mu held, gives what is free to those who wait.
func (p *Places) admit() {
	p.waiting = slices.DeleteFunc(p.waiting, func(w *waiter) bool {
		if !p.take(w.who) {
			return false
		}
		close(w.place)
		return true
	})
}

// forget reports whether w was still waiting.
func (p *Places) forget(w *waiter) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := slices.Index(p.waiting, w)
	if i >= 0 {
		p.waiting = slices.Delete(p.waiting, i, i+1)
	}
	return i >= 0
}

func (p *Places) leave(who netip.Prefix) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.taken--
	if p.by[who]--; p.by[who] == 0 {
		delete(p.by, who)
	}
	p.admit()
}
