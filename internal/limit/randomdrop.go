package limit

import (
	"math/rand/v2"
	"net/netip"
	"sync"
)

// DropLimit says when a RandomDrop drops, as MaxStartups of OpenSSH does. With fewer than Start entries
// nothing is dropped. From there on a new entry drops one with a probability that rises from Rate percent to
// certainty at Full.
type DropLimit struct{ Start, Rate, Full int }

// drops reports whether a new entry beside n others drops one. draw returns a random number in [0, its
// argument).
func (l DropLimit) drops(n int, draw func(int) int) bool {
	switch {
	case n >= l.Full:
		return true
	case n < l.Start:
		return false
	}
	return draw(100) < l.Rate+(100-l.Rate)*(n-l.Start)/(l.Full-l.Start)
}

// RandomDrop holds entries for connections that are not authenticated yet (random early drop). A new entry is
// always admitted. The entry that it may drop is drawn at random, first among those of its own network: a
// network that opens many connections loses many, and a connection that is authenticated quickly is released
// before a draw hits it. RandomDrop is safe for concurrent use.
type RandomDrop struct {
	total, perNetwork DropLimit       // fixed by NewRandomDrop
	draw              func(n int) int // a random number in [0, n)

	mu        sync.Mutex                // guards what follows, and index and networkIndex of the entries
	entries   []*entry                  // in no order
	byNetwork map[netip.Prefix][]*entry // the same entries; no list is empty
}

type entry struct {
	network      netip.Prefix
	drop         func()
	index        int // in RandomDrop.entries; -1 once the entry is removed
	networkIndex int // in its list of RandomDrop.byNetwork
}

// NewRandomDrop makes a RandomDrop with a limit for all entries together, and one for those of each network.
func NewRandomDrop(total, perNetwork DropLimit) *RandomDrop {
	return &RandomDrop{
		total:      total,
		perNetwork: perNetwork,
		draw:       rand.IntN,
		byNetwork:  map[netip.Prefix][]*entry{},
	}
}

// Admit adds an entry. release removes it; further calls of it do nothing. drop is called at most once, on
// the goroutine of a later Admit and without a lock held, when the entry is dropped before it is released.
// Entries of the zero Prefix have only the limit for all.
func (r *RandomDrop) Admit(network netip.Prefix, drop func()) (release func()) {
	e := &entry{network: network, drop: drop}
	for _, dropped := range r.admit(e) {
		dropped.drop()
	}
	return func() { r.release(e) }
}

// admit adds e and returns the entries that it drops: at most one for each limit.
func (r *RandomDrop) admit(e *entry) (dropped []*entry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if near := r.byNetwork[e.network]; e.network.IsValid() && r.perNetwork.drops(len(near), r.draw) {
		dropped = append(dropped, r.remove(near[r.draw(len(near))]))
	}
	if r.total.drops(len(r.entries), r.draw) {
		dropped = append(dropped, r.remove(r.entries[r.draw(len(r.entries))]))
	}
	e.index, e.networkIndex = len(r.entries), len(r.byNetwork[e.network])
	r.entries = append(r.entries, e)
	r.byNetwork[e.network] = append(r.byNetwork[e.network], e)
	return dropped
}

func (r *RandomDrop) release(e *entry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e.index >= 0 {
		r.remove(e)
	}
}

// remove moves the last entry to the position of e, in both lists. It is called with mu held.
func (r *RandomDrop) remove(e *entry) *entry {
	last := len(r.entries) - 1
	r.entries[e.index] = r.entries[last]
	r.entries[e.index].index = e.index
	r.entries[last], r.entries = nil, r.entries[:last]
	near := r.byNetwork[e.network]
	last = len(near) - 1
	near[e.networkIndex] = near[last]
	near[e.networkIndex].networkIndex = e.networkIndex
	near[last] = nil
	if r.byNetwork[e.network] = near[:last]; last == 0 {
		delete(r.byNetwork, e.network)
	}
	e.index = -1
	return e
}

// Count is how many entries there are.
func (r *RandomDrop) Count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.entries)
}
