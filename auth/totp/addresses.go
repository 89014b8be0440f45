package totp

import (
	"net/netip"
	"sync"
	"time"

	"github.com/threshold-access/threshold/internal/places"
)

// Bounds of the lock-out by address. An office shares one, so more is free than for a person.
const (
	freeTriesAddress = 20
	forgiveEvery     = 5 * time.Minute // one wrong code of an address is forgiven, so that an office's slips of a day do not add up
	forgetAfter      = 2 * time.Hour   // longer than any pause
	maxAddresses     = 10_000
)

// addresses locks out addresses that wrong codes come from, in the memory of this replica. The lock-out by person, which is stored, is
// the one that guards; this one slows a stranger who tries many people.
type addresses struct {
	mu   sync.Mutex // guards seen
	seen map[netip.Prefix]offence
}

type offence struct {
	wrong int
	last  time.Time // up to when wrong codes are forgiven
	until time.Time
}

func (o *offence) forgive(now time.Time) {
	n := int(now.Sub(o.last) / forgiveEvery)
	if n >= o.wrong {
		o.wrong, o.last = 0, now
		return
	}
	o.wrong -= n
	o.last = o.last.Add(time.Duration(n) * forgiveEvery)
}

// locked returns how long the address still has to wait.
func (a *addresses) locked(from string, now time.Time) time.Duration {
	n := places.Network(from)
	if !n.IsValid() { // a proxy that knows no address gives none, and then there is nothing to lock
		return 0
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.seen[n].until.Sub(now)
}

func (a *addresses) wrong(from string, now time.Time) {
	n := places.Network(from)
	if !n.IsValid() {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	o, known := a.seen[n]
	if !known {
		a.makeRoom(now)
	}
	o.forgive(now)
	o.wrong++
	if pause := pauseAfter(o.wrong - freeTriesAddress + freeTries); pause > 0 {
		o.until = now.Add(pause)
	}
	a.seen[n] = o
}

// makeRoom forgets what is old, and when that is not enough, somebody.
func (a *addresses) makeRoom(now time.Time) {
	if a.seen == nil {
		a.seen = map[netip.Prefix]offence{}
	}
	if len(a.seen) < maxAddresses {
		return
	}
	for n, o := range a.seen {
		if now.Sub(o.last) > forgetAfter {
			delete(a.seen, n)
		}
	}
	for n := range a.seen {
		if len(a.seen) < maxAddresses {
			return
		}
		delete(a.seen, n)
	}
}
