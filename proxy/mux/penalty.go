package mux

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/threshold-access/threshold/internal/fault"
)

// What a connection costs its network whose peer never became known, in time that the network is in debt, as
// OpenSSH's PerSourcePenalties. Debts end by themselves: a second is paid each second.
const (
	costHungUp  = time.Second      // hung up half-way: a scanner does, and so does ssh-keyscan; or has not logged in, or not today
	costGarbage = 3 * time.Second  // spoke nothing that belongs here
	costRefused = 5 * time.Second  // showed a certificate that is not good
	costTimeout = 10 * time.Second // held a place until the deadline
)

const (
	// toleratedDebt is the debt that is not minded: nobody is turned away for an expired certificate or two.
	toleratedDebt = 15 * time.Second
	// maxDebt bounds what many connections at once can cost, and so how long after its last offence a network
	// may be turned away.
	maxDebt = 5 * time.Minute
	// maxNetworks bounds each table, about 100 bytes an entry. What does not fit is not noted: the places
	// still hold.
	maxNetworks = 1 << 16
)

// penalties turn networks away that only cost. A network from which somebody came whose certificate was
// accepted is never turned away as long as that certificate lives: many people share an address, and one of
// them, or a machine there that has gone bad, must not be able to lock the others out.
type penalties struct {
	exempt []netip.Prefix

	mu        sync.Mutex                 // guards what follows
	debts     map[netip.Prefix]time.Time // when each is paid
	known     map[netip.Prefix]time.Time // until when
	lastSweep time.Time
}

func newPenalties(exempt []netip.Prefix) *penalties {
	return &penalties{
		exempt: exempt,
		debts:  map[netip.Prefix]time.Time{},
		known:  map[netip.Prefix]time.Time{},
	}
}

// applyTo reports whether offences of the network count at all.
func (p *penalties) applyTo(who netip.Prefix) bool {
	return who.IsValid() && !slices.ContainsFunc(p.exempt, who.Overlaps)
}

// blocks reports whether the network is to be turned away now.
func (p *penalties) blocks(who netip.Prefix) bool {
	if !p.applyTo(who) {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	return p.debts[who].Sub(now) > toleratedDebt && !p.known[who].After(now)
}

// charge adds to the debt of the network, and reports whether it is turned away from now on and was not
// before.
func (p *penalties) charge(who netip.Prefix, cost time.Duration) bool {
	if cost == 0 || !p.applyTo(who) {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	before := max(0, p.debts[who].Sub(now))
	after := min(before+cost, maxDebt)
	p.record(p.debts, who, now.Add(after), now)
	return before <= toleratedDebt && after > toleratedDebt && !p.known[who].After(now)
}

// markKnown notes that a certificate which lives for life was accepted from the network.
func (p *penalties) markKnown(who netip.Prefix, life time.Duration) {
	if life <= 0 || !p.applyTo(who) {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if until := now.Add(life); until.After(p.known[who]) {
		p.record(p.known, who, until, now)
	}
}

// sweepEvery bounds the work of a table that is full.
const sweepEvery = time.Second

// record is called with mu held.
func (p *penalties) record(table map[netip.Prefix]time.Time, who netip.Prefix, until, now time.Time) {
	if _, there := table[who]; !there && len(table) >= maxNetworks {
		if now.Sub(p.lastSweep) < sweepEvery {
			return
		}
		p.lastSweep = now
		for other, end := range table {
			if !end.After(now) {
				delete(table, other)
			}
		}
		if len(table) >= maxNetworks {
			return
		}
	}
	table[who] = until
}

// countBlocked counts the networks that are turned away unless they are known.
func (p *penalties) countBlocked() (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	for _, end := range p.debts {
		if end.Sub(now) > toleratedDebt {
			n++
		}
	}
	return n
}

// certificateError marks that a certificate was looked at and is not good.
type certificateError struct {
	error
	expired bool // that is all that is wrong with it
}

func (e certificateError) Unwrap() error { return e.error }

// costOf says what a connection costs that ended with err before its peer was known. Browsers hang up as they
// like, and before the first byte so does whoever only looks whether the port is open: anonymous connections
// pay for nonsense and for time alone. A program that goes on with the certificate of yesterday, or none,
// must not keep its person from the page where they get today's.
func costOf(err error, anonymous bool) time.Duration {
	var refused certificateError
	shown := errors.As(err, &refused)
	switch {
	case err == nil:
		return 0
	case timedOut(err):
		return costTimeout
	case refused.expired, fault.Is(err, fault.Expired), fault.Is(err, fault.Unauthenticated):
		return costHungUp
	case shown, fault.Is(err, fault.Denied):
		return costRefused
	case peerClosed(err):
		if anonymous {
			return 0
		}
		return costHungUp
	}
	return costGarbage
}

func timedOut(err error) bool {
	var slow net.Error
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.As(err, &slow) && slow.Timeout()
}

// peerClosed reports whether it was the peer who ended, also with a TLS alert.
func peerClosed(err error) bool {
	var op *net.OpError
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) ||
		errors.Is(err, net.ErrClosed) || errors.Is(err, io.ErrClosedPipe) ||
		errors.As(err, &op) && strings.HasPrefix(op.Op, "remote error")
}
