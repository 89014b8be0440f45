// Package limit answers: how much may one client take, so that others get their share?
//
// A client is the network that its address is in: one host has as many IPv6 addresses as it likes. Quota
// bounds how many of something exist at once, RandomDrop drops connections at random before a limit is
// reached, and PerKey counts by any key.
package limit

import (
	"context"
	"net/netip"
	"slices"
	"sync"
)

// Network is what counts as one client: an IPv4 address, or the /64 of an IPv6 address. It takes addresses
// with and without a port. Anything else is the zero Prefix.
func Network(addr string) netip.Prefix {
	a, err := netip.ParseAddr(addr)
	if err != nil {
		ap, err := netip.ParseAddrPort(addr)
		if err != nil {
			return netip.Prefix{}
		}
		a = ap.Addr()
	}
	return NetworkOf(a)
}

// NetworkOf is Network for an address. An address that is not valid is the zero Prefix.
func NetworkOf(a netip.Addr) netip.Prefix {
	a = a.Unmap().WithZone("")
	bits := 64
	if a.Is4() {
		bits = 32
	}
	p, _ := a.Prefix(bits) // both lengths are valid; of the zero address the result is zero
	return p
}

// Quota bounds how many of something may exist at once, in all and for each client. It is safe for concurrent
// use.
type Quota struct {
	total, perClient int // fixed by NewQuota

	mu      sync.Mutex           // guards what follows
	used    int                  // at most total
	usedBy  map[netip.Prefix]int // by client, each at most perClient; no entry is zero
	waiting []*waiter            // in order of arrival; each is blocked by one of the bounds
}

// waiter is a call of Acquire that waits.
type waiter struct {
	client   netip.Prefix
	admitted chan struct{} // closed once the quota counts this waiter
}

// NewQuota makes a quota of total in all, of which one client may hold perClient.
func NewQuota(total, perClient int) *Quota {
	return &Quota{total: total, perClient: perClient, usedBy: map[netip.Prefix]int{}}
}

// TryAcquire counts one more for the client at addr. If a bound is reached, ok is false and nothing was
// counted; release is nil then. Otherwise the caller calls release when the thing no longer exists; further
// calls do nothing. All clients without an IP address count as one.
func (q *Quota) TryAcquire(addr string) (release func(), ok bool) {
	client := Network(addr)
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.tryTake(client) {
		return nil, false
	}
	return sync.OnceFunc(func() { q.release(client) }), true
}

// Acquire is TryAcquire, but waits while a bound is reached. ok is false only if ctx ended first. Calls for
// one client are admitted in the order in which they came. A client that has reached its own bound does not
// hold up others. Acquire does not bound how many calls wait: the caller must do that.
func (q *Quota) Acquire(ctx context.Context, addr string) (release func(), ok bool) {
	w := &waiter{client: Network(addr), admitted: make(chan struct{})}
	q.mu.Lock()
	q.waiting = append(q.waiting, w)
	q.admitWaiting()
	q.mu.Unlock()
	select {
	case <-w.admitted:
	case <-ctx.Done():
		if q.removeWaiter(w) {
			return nil, false
		}
		// w was admitted at the same moment, and counts.
	}
	return sync.OnceFunc(func() { q.release(w.client) }), true
}

// tryTake counts one more for the client, and returns true, unless a bound is reached. It is called with mu
// held.
func (q *Quota) tryTake(client netip.Prefix) bool {
	if q.used >= q.total || q.usedBy[client] >= q.perClient {
		return false
	}
	q.used++
	q.usedBy[client]++
	return true
}

// admitWaiting admits all waiting calls that the bounds allow, the oldest first. It is called with mu held,
// and whenever something was released.
func (q *Quota) admitWaiting() {
	q.waiting = slices.DeleteFunc(q.waiting, func(w *waiter) bool {
		if !q.tryTake(w.client) {
			return false
		}
		close(w.admitted)
		return true
	})
}

// removeWaiter removes w from those who wait, and returns true. It returns false if w was admitted meanwhile.
func (q *Quota) removeWaiter(w *waiter) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	i := slices.Index(q.waiting, w)
	if i >= 0 {
		q.waiting = slices.Delete(q.waiting, i, i+1)
	}
	return i >= 0
}

func (q *Quota) release(client netip.Prefix) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.used--
	if q.usedBy[client]--; q.usedBy[client] == 0 {
		delete(q.usedBy, client)
	}
	q.admitWaiting()
}
