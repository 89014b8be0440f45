package limit

import (
	"math/rand/v2"
	"net/netip"
	"sync"
)

// DropLimit says when a RandomDrop drops an entry, as MaxStartups of OpenSSH does. While there are fewer than
// Start entries, a new one drops none. From Start entries on it drops one with a probability of Rate percent,
// which rises with their number and reaches 100 percent at Full.
type DropLimit struct{ Start, Rate, Full int }

// drops decides at random whether a new entry, beside n others, drops one. draw returns a random number in
// [0, its argument).
func (l DropLimit) drops(n int, draw func(int) int) bool {
	switch {
	case n >= l.Full:
		return true
	case n < l.Start:
		return false
	}
	return draw(100) < l.Rate+(100-l.Rate)*(n-l.Start)/(l.Full-l.Start)
}

// RandomDrop has an entry for each connection that is not authenticated yet, and drops some at random when
// there are many (random early drop). A new connection is always admitted: it is an older one that is
// dropped.
//
// One draw is among the connections of the new one's own network, if that has many, and one among all. So a
// network that opens many connections loses many, and a connection that authenticates quickly is released
// before a draw hits it. RandomDrop is safe for concurrent use.
type RandomDrop struct {
	total, perNetwork DropLimit       // fixed by NewRandomDrop
	draw              func(n int) int // a random number in [0, n)

	mu        sync.Mutex                // guards what follows, and index and networkIndex of the entries
	entries   []*entry                  // in no order
	byNetwork map[netip.Prefix][]*entry // the same entries; no list is empty
}

// entry is one connection in a RandomDrop.
type entry struct {
	network      netip.Prefix
	drop         func() // closes the connection
	index        int    // in RandomDrop.entries; -1 once the entry is removed
	networkIndex int    // in its list of RandomDrop.byNetwork
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

// Admit adds an entry for a connection from the network. The caller calls release when the connection is
// authenticated or closed; further calls do nothing. If the entry is dropped before that, a later Admit calls
// drop, once, on its own goroutine and without a lock held. Entries of the zero Prefix, whose network is not
// known, count only against the limit for all.
func (r *RandomDrop) Admit(network netip.Prefix, drop func()) (release func()) {
	e := &entry{network: network, drop: drop}
	for _, dropped := range r.admit(e) {
		dropped.drop()
	}
	return func() { r.release(e) }
}

// admit adds e, and removes and returns the entries that e drops: at most one for each limit.
func (r *RandomDrop) admit(e *entry) (dropped []*entry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	sameNetwork := r.byNetwork[e.network]
	if e.network.IsValid() && r.perNetwork.drops(len(sameNetwork), r.draw) {
		dropped = append(dropped, r.remove(sameNetwork[r.draw(len(sameNetwork))]))
	}
	if r.total.drops(len(r.entries), r.draw) {
		dropped = append(dropped, r.remove(r.entries[r.draw(len(r.entries))]))
	}
	e.index, e.networkIndex = len(r.entries), len(r.byNetwork[e.network])
	r.entries = append(r.entries, e)
	r.byNetwork[e.network] = append(r.byNetwork[e.network], e)
	return dropped
}

// release removes e, unless it was dropped or released already.
func (r *RandomDrop) release(e *entry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e.index >= 0 {
		r.remove(e)
	}
}

// remove removes e from both lists and returns it. It takes constant time, because it moves the last entry of
// each list to the position of e. It is called with mu held, for an entry that is in the lists.
func (r *RandomDrop) remove(e *entry) *entry {
	last := len(r.entries) - 1
	r.entries[e.index] = r.entries[last]
	r.entries[e.index].index = e.index
	r.entries[last], r.entries = nil, r.entries[:last]

	sameNetwork := r.byNetwork[e.network]
	lastOfNetwork := len(sameNetwork) - 1
	sameNetwork[e.networkIndex] = sameNetwork[lastOfNetwork]
	sameNetwork[e.networkIndex].networkIndex = e.networkIndex
	sameNetwork[lastOfNetwork] = nil // so that the memory can be freed
	r.byNetwork[e.network] = sameNetwork[:lastOfNetwork]
	if lastOfNetwork == 0 {
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
