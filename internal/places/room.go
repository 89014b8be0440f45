package places

import (
	"math/rand/v2"
	"net/netip"
	"sync"
)

// Limit says how crowded a Room may get, as OpenSSH's MaxStartups does: up to Start guests nobody has to go; from there on a newcomer
// costs somebody the place with a probability that rises from Rate percent to certainty at Full guests.
type Limit struct{ Start, Rate, Full int }

// costs reports whether one more among n guests costs somebody the place.
func (l Limit) costs(n int, draw func(int) int) bool {
	switch {
	case n >= l.Full:
		return true
	case n < l.Start:
		return false
	}
	return draw(100) < l.Rate+(100-l.Rate)*(n-l.Start)/(l.Full-l.Start)
}

// Room holds guests who have not shown yet who they are. A newcomer always gets in. Who has to go instead is drawn at random, among the
// guests of the newcomer's own network first: whoever brings many loses many, and a guest who is quick is gone before the draw hits.
type Room struct {
	all, each Limit
	draw      func(n int) int // in [0, n)

	mu     sync.Mutex // guards what follows, and the places in the guests
	guests []*guest
	by     map[netip.Prefix][]*guest
}

type guest struct {
	who  netip.Prefix
	out  func()
	at   int // in Room.guests; -1 once gone
	near int // in Room.by
}

// NewRoom makes a room with a limit for all guests together, and one for the guests of each network.
func NewRoom(all, each Limit) *Room {
	return &Room{all: all, each: each, draw: rand.IntN, by: map[netip.Prefix][]*guest{}}
}

// Enter lets a guest in and returns how to leave, which may be done more than once. out is called at most once, by somebody else's Enter,
// when the place is lost before that. Guests of the zero Prefix have only the limit of all.
func (r *Room) Enter(who netip.Prefix, out func()) (leave func()) {
	g := &guest{who: who, out: out}
	for _, v := range r.enter(g) {
		v.out()
	}
	return func() { r.leave(g) }
}

// enter returns who lost the place.
func (r *Room) enter(g *guest) (lost []*guest) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if near := r.by[g.who]; g.who.IsValid() && r.each.costs(len(near), r.draw) {
		lost = append(lost, r.remove(near[r.draw(len(near))]))
	}
	if r.all.costs(len(r.guests), r.draw) {
		lost = append(lost, r.remove(r.guests[r.draw(len(r.guests))]))
	}
	g.at, g.near = len(r.guests), len(r.by[g.who])
	r.guests = append(r.guests, g)
	r.by[g.who] = append(r.by[g.who], g)
	return lost
}

func (r *Room) leave(g *guest) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if g.at >= 0 {
		r.remove(g)
	}
}

// remove puts the last guest in the place of g, in both lists.
func (r *Room) remove(g *guest) *guest {
	n := len(r.guests) - 1
	r.guests[g.at] = r.guests[n]
	r.guests[g.at].at = g.at
	r.guests[n], r.guests = nil, r.guests[:n]
	near := r.by[g.who]
	n = len(near) - 1
	near[g.near] = near[n]
	near[g.near].near = g.near
	near[n] = nil
	if r.by[g.who] = near[:n]; n == 0 {
		delete(r.by, g.who)
	}
	g.at = -1
	return g
}

// Guests counts who is inside.
func (r *Room) Guests() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.guests)
}
