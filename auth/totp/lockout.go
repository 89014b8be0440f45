package totp

import (
	"net/netip"
	"sync"
	"time"

	"github.com/threshold-access/threshold/internal/limit"
)

// The lockout of an address. Many users of an office share one address, so more wrong codes are free than for
// a user, and they are forgiven over time: otherwise the mistakes of a whole day would add up.
const (
	freeAttemptsAddress = 20
	forgiveInterval     = 5 * time.Minute // one wrong code is forgiven per interval
	forgetAfter         = 2 * time.Hour   // longer than any lockout
	maxAddresses        = 10_000
)

// addressLockout locks out networks from which wrong codes come, in the memory of this replica. It slows down
// an attacker who tries many users. The stored lockout of each user is what protects a user.
type addressLockout struct {
	mu        sync.Mutex // guards byNetwork
	byNetwork map[netip.Prefix]addressRecord
}

// addressRecord counts the wrong codes from one network.
type addressRecord struct {
	wrongCodes    int       // those not forgiven yet
	forgivenUntil time.Time // up to when forgive has counted
	lockedUntil   time.Time
}

// forgive takes one wrong code off for each forgiveInterval since it was last called.
func (r *addressRecord) forgive(now time.Time) {
	n := int(now.Sub(r.forgivenUntil) / forgiveInterval)
	if n >= r.wrongCodes {
		r.wrongCodes, r.forgivenUntil = 0, now
		return
	}
	r.wrongCodes -= n
	r.forgivenUntil = r.forgivenUntil.Add(time.Duration(n) * forgiveInterval)
}

// lockedFor returns how long the address must still wait. An address that the proxy does not know is never
// locked out.
func (l *addressLockout) lockedFor(from string, now time.Time) time.Duration {
	network := limit.Network(from)
	if !network.IsValid() {
		return 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.byNetwork[network].lockedUntil.Sub(now)
}

// recordWrongCode counts a wrong code from the address.
func (l *addressLockout) recordWrongCode(from string, now time.Time) {
	network := limit.Network(from)
	if !network.IsValid() {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	r, known := l.byNetwork[network]
	if !known {
		l.evict(now)
	}
	r.forgive(now)
	r.wrongCodes++
	if wait := lockoutAfter(r.wrongCodes - freeAttemptsAddress + freeAttempts); wait > 0 {
		r.lockedUntil = now.Add(wait)
	}
	l.byNetwork[network] = r
}

// evict makes room for one more network: it removes old records, and if that is not enough, arbitrary ones.
// The caller holds mu.
func (l *addressLockout) evict(now time.Time) {
	if l.byNetwork == nil {
		l.byNetwork = map[netip.Prefix]addressRecord{}
	}
	if len(l.byNetwork) < maxAddresses {
		return
	}
	for n, r := range l.byNetwork {
		if now.Sub(r.forgivenUntil) > forgetAfter {
			delete(l.byNetwork, n)
		}
	}
	for n := range l.byNetwork {
		if len(l.byNetwork) < maxAddresses {
			return
		}
		delete(l.byNetwork, n)
	}
}
