package totp

import (
	"net/netip"
	"sync"
	"time"

	"github.com/threshold-access/threshold/internal/limit"
)

// Bounds of the lock-out by address. An office shares one, so more is free than for a person.
const (
	freeAttemptsAddress = 20
	forgiveInterval     = 5 * time.Minute // one wrong code of an address is forgiven, so that an office's slips of a day do not add up
	forgetAfter         = 2 * time.Hour   // longer than any pause
	maxAddresses        = 10_000
)

// addressLockout locks out addresses that wrong codes come from, in the memory of this replica. The lock-out
// by person, which is stored, is the one that guards; this one slows a stranger who tries many people.
type addressLockout struct {
	mu        sync.Mutex // guards seen
	byNetwork map[netip.Prefix]addressRecord
}

type addressRecord struct {
	wrongCodes    int
	forgivenUntil time.Time // up to when wrong codes are forgiven
	lockedUntil   time.Time
}

func (o *addressRecord) forgive(now time.Time) {
	n := int(now.Sub(o.forgivenUntil) / forgiveInterval)
	if n >= o.wrongCodes {
		o.wrongCodes, o.forgivenUntil = 0, now
		return
	}
	o.wrongCodes -= n
	o.forgivenUntil = o.forgivenUntil.Add(time.Duration(n) * forgiveInterval)
}

// lockedFor returns how long the address still has to wait.
func (a *addressLockout) lockedFor(from string, now time.Time) time.Duration {
	n := limit.Network(from)
	if !n.IsValid() { // a proxy that knows no address gives none, and then there is nothing to lock
		return 0
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.byNetwork[n].lockedUntil.Sub(now)
}

func (a *addressLockout) recordWrong(from string, now time.Time) {
	n := limit.Network(from)
	if !n.IsValid() {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	o, known := a.byNetwork[n]
	if !known {
		a.evict(now)
	}
	o.forgive(now)
	o.wrongCodes++
	if pause := lockoutAfter(o.wrongCodes - freeAttemptsAddress + freeAttempts); pause > 0 {
		o.lockedUntil = now.Add(pause)
	}
	a.byNetwork[n] = o
}

// evict forgets what is old, and when that is not enough, somebody.
func (a *addressLockout) evict(now time.Time) {
	if a.byNetwork == nil {
		a.byNetwork = map[netip.Prefix]addressRecord{}
	}
	if len(a.byNetwork) < maxAddresses {
		return
	}
	for n, o := range a.byNetwork {
		if now.Sub(o.forgivenUntil) > forgetAfter {
			delete(a.byNetwork, n)
		}
	}
	for n := range a.byNetwork {
		if len(a.byNetwork) < maxAddresses {
			return
		}
		delete(a.byNetwork, n)
	}
}
