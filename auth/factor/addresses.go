package factor

import (
	"net/netip"
	"sync"
	"time"

	"github.com/threshold-access/threshold/internal/limit"
)

// The lockout of an address. Many users of an office share one address, so more wrong answers are free than
// for a user, and they are forgiven over time: otherwise the mistakes of a whole day would add up.
const (
	freeAttemptsAddress = 20
	forgiveInterval     = 5 * time.Minute // one wrong answer is forgiven per interval
	forgetAfter         = 2 * time.Hour   // longer than any lockout
	maxAddresses        = 10_000
)

// addressLockout locks out networks from which wrong answers come, in the memory of this replica. It slows
// down an attacker who tries many users. The stored lockout of each user is what protects a user.
type addressLockout struct {
	mu        sync.Mutex // guards byNetwork
	byNetwork map[netip.Prefix]addressRecord
}

// addressRecord counts the wrong answers from one network.
type addressRecord struct {
	wrongAnswers  int       // those not forgiven yet
	forgivenUntil time.Time // the time for which forgive has already taken wrong answers off
	lockedUntil   time.Time // zero: never locked out
}

// forgive takes one wrong answer off for each forgiveInterval since forgivenUntil.
func (r *addressRecord) forgive(now time.Time) {
	intervals := int(now.Sub(r.forgivenUntil) / forgiveInterval)
	if intervals >= r.wrongAnswers {
		r.wrongAnswers, r.forgivenUntil = 0, now
		return
	}
	r.wrongAnswers -= intervals
	// Not now: the part of an interval that has passed counts next time.
	r.forgivenUntil = r.forgivenUntil.Add(time.Duration(intervals) * forgiveInterval)
}

// lockedFor returns how long the address must still wait; zero or less means that it is not locked out. An
// address that is not valid, because the proxy does not know it, is never locked out.
func (l *addressLockout) lockedFor(from netip.Addr, now time.Time) time.Duration {
	network := limit.NetworkOf(from)
	if !network.IsValid() {
		return 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.byNetwork[network].lockedUntil.Sub(now)
}

// recordWrongAnswer counts a wrong answer from the address, and locks its network out if there were too many.
// An address that cannot be parsed is not counted.
func (l *addressLockout) recordWrongAnswer(from netip.Addr, now time.Time) {
	network := limit.NetworkOf(from)
	if !network.IsValid() {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	record, known := l.byNetwork[network]
	if !known {
		l.evict(now)
	}
	record.forgive(now)
	record.wrongAnswers++
	// The waits are those of a user, but they begin at freeAttemptsAddress in place of freeAttempts.
	asUserAttempts := record.wrongAnswers - freeAttemptsAddress + freeAttempts
	if wait := lockoutAfter(asUserAttempts); wait > 0 {
		record.lockedUntil = now.Add(wait)
	}
	l.byNetwork[network] = record
}

// evict makes room for one more network: it removes old records, and if that is not enough, arbitrary ones.
// Losing one is safe, because the stored lockout of each user protects the users. The caller holds mu.
func (l *addressLockout) evict(now time.Time) {
	if l.byNetwork == nil {
		l.byNetwork = map[netip.Prefix]addressRecord{}
	}
	if len(l.byNetwork) < maxAddresses {
		return
	}
	for network, record := range l.byNetwork {
		if now.Sub(record.forgivenUntil) > forgetAfter {
			delete(l.byNetwork, network)
		}
	}
	for network := range l.byNetwork {
		if len(l.byNetwork) < maxAddresses {
			return
		}
		delete(l.byNetwork, network)
	}
}
