package mux

import (
	"net"
	"net/netip"
	"sync"
)

// limit bounds how many of something there are, in all and for each client address. An IPv6 client is its /64: one host has as many
// addresses as it likes.
type limit struct {
	total, each int

	mu    sync.Mutex // guards what follows
	taken int
	by    map[netip.Prefix]int
}

func newLimit(total, each int) *limit {
	return &limit{total: total, each: each, by: map[netip.Prefix]int{}}
}

// take returns how to give the place back, once; ok is false when there is none.
func (l *limit) take(addr net.Addr) (release func(), ok bool) {
	who := network(addr)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.taken >= l.total || l.by[who] >= l.each {
		return nil, false
	}
	l.taken++
	l.by[who]++
	return sync.OnceFunc(func() { l.release(who) }), true
}

func (l *limit) release(who netip.Prefix) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.taken--
	if l.by[who]--; l.by[who] == 0 {
		delete(l.by, who)
	}
}

func network(addr net.Addr) netip.Prefix {
	ap, err := netip.ParseAddrPort(addr.String())
	if err != nil {
		return netip.Prefix{} // no IP: all such share one place
	}
	a, bits := ap.Addr().Unmap(), 64
	if a.Is4() {
		bits = 32
	}
	p, err := a.WithZone("").Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}
