// Package places answers: how much may one client take, so that the others find room?
//
// A client is the network its address lies in: one host has as many IPv6 addresses as it likes.
package places

import (
	"net/netip"
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

	mu    sync.Mutex // guards what follows
	taken int
	by    map[netip.Prefix]int
}

// New makes as many places as all, of which one client may take each.
func New(all, each int) *Places { return &Places{all: all, each: each, by: map[netip.Prefix]int{}} }

// Take returns how to give the place back, which may be done more than once; ok is false when there is none. Clients without an IP
// address count as one.
func (p *Places) Take(addr string) (leave func(), ok bool) {
	who := Network(addr)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.taken >= p.all || p.by[who] >= p.each {
		return nil, false
	}
	p.taken++
	p.by[who]++
	return sync.OnceFunc(func() { p.leave(who) }), true
}

func (p *Places) leave(who netip.Prefix) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.taken--
	if p.by[who]--; p.by[who] == 0 {
		delete(p.by, who)
	}
}
