package limit

import (
	"math/rand/v2"
	"net/netip"
	"sync"
)

// DropLimit says how crowded a Room may get, as OpenSSH's MaxStartups does: up to Start guests nobody has to
// go; from there on a newcomer costs somebody the place with a probability that rises from Rate percent to
// certainty at Full guests.
type DropLimit struct{ Start, Rate, Full int }

// drops reports whether one more among n guests costs somebody the place.
func (l DropLimit) drops(n int, draw func(int) int) bool {
	switch {
	case n >= l.Full:
		return true
	case n < l.Start:
		return false
	}
	return draw(100) < l.Rate+(100-l.Rate)*(n-l.Start)/(l.Full-l.Start)
}

// RandomDrop holds guests who have not shown yet who they are. A newcomer always gets in. Who has to go
// instead is drawn at random, among the guests of the newcomer's own network first: whoever brings many loses
// many, and a guest who is quick is gone before the draw hits.
type RandomDrop struct {
	total, perNetwork DropLimit
	draw              func(n int) int // in [0, n)

	mu        sync.Mutex // guards what follows, and the places in the guests
	entries   []*entry
	byNetwork map[netip.Prefix][]*entry
}

type entry struct {
	network      netip.Prefix
	drop         func()
	index        int // in Room.guests; -1 once gone
	networkIndex int // in Room.by
}

// NewRandomDrop makes a room with a limit for all guests together, and one for the guests of each network.
func NewRandomDrop(all, each DropLimit) *RandomDrop {
	return &RandomDrop{total: all, perNetwork: each, draw: rand.IntN, byNetwork: map[netip.Prefix][]*entry{}}
}

// Admit lets a guest in and returns how to leave, which may be done more than once. out is called at most
// once, by somebody else's Enter, when the place is lost before that. Guests of the zero Prefix have only the
// limit of all.
func (r *RandomDrop) Admit(who netip.Prefix, out func()) (leave func()) {
	g := &entry{network: who, drop: out}
	for _, v := range r.admit(g) {
		v.drop()
	}
	return func() { r.release(g) }
}

// admit returns who lost the place.
func (r *RandomDrop) admit(g *entry) (lost []*entry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if near := r.byNetwork[g.network]; g.network.IsValid() && r.perNetwork.drops(len(near), r.draw) {
		lost = append(lost, r.remove(near[r.draw(len(near))]))
	}
	if r.total.drops(len(r.entries), r.draw) {
		lost = append(lost, r.remove(r.entries[r.draw(len(r.entries))]))
	}
	g.index, g.networkIndex = len(r.entries), len(r.byNetwork[g.network])
	r.entries = append(r.entries, g)
	r.byNetwork[g.network] = append(r.byNetwork[g.network], g)
	return lost
}

func (r *RandomDrop) release(g *entry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if g.index >= 0 {
		r.remove(g)
	}
}

// remove puts the last guest in the place of g, in both lists.
func (r *RandomDrop) remove(g *entry) *entry {
	n := len(r.entries) - 1
	r.entries[g.index] = r.entries[n]
	r.entries[g.index].index = g.index
	r.entries[n], r.entries = nil, r.entries[:n]
	near := r.byNetwork[g.network]
	n = len(near) - 1
	near[g.networkIndex] = near[n]
	near[g.networkIndex].networkIndex = g.networkIndex
	near[n] = nil
	if r.byNetwork[g.network] = near[:n]; n == 0 {
		delete(r.byNetwork, g.network)
	}
	g.index = -1
	return g
}

// Count counts who is inside.
func (r *RandomDrop) Count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.entries)
}
