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

// What a network is charged for a connection whose peer did not become known, as in OpenSSH's
// PerSourcePenalties. Charges add up to the debt of the network. The debt is a length of time, and shrinks by
// a second each second.
const (
	// costHungUp is for a peer that closes in the middle of the handshake, as scanners and ssh-keyscan do,
	// and for one with an expired certificate or none.
	costHungUp  = time.Second
	costGarbage = 3 * time.Second  // an unknown protocol
	costRefused = 5 * time.Second  // an invalid certificate
	costTimeout = 10 * time.Second // a pending slot was held until the deadline
)

const (
	// toleratedDebt is the debt up to which a network is served: a few refusals do no harm.
	toleratedDebt = 15 * time.Second
	// maxDebt bounds the debt, and so the time until a network is served again after its last refusal.
	maxDebt = 5 * time.Minute
	// maxNetworks bounds each table; an entry takes about 100 bytes. A network that does not fit is not
	// charged, but its connections are still bounded by the drop limits.
	maxNetworks = 1 << 16
	// sweepEvery is the least time between two searches for expired entries in a full table.
	sweepEvery = time.Second
)

// penalties decides which networks are penalised: their connections are closed at once.
//
// A network from which a valid certificate was shown is not penalised until that certificate expires. Many
// users may share an address, and one of them, or an infected machine there, must not lock the others out.
type penalties struct {
	exempt []netip.Prefix // networks that are never penalised

	mu        sync.Mutex                 // guards the fields below
	debts     map[netip.Prefix]time.Time // when the debt of a network will be zero
	known     map[netip.Prefix]time.Time // when the last certificate shown from a network expires
	lastSweep time.Time                  // when a full table was last searched for expired entries
}

func newPenalties(exempt []netip.Prefix) *penalties {
	return &penalties{
		exempt: exempt,
		debts:  map[netip.Prefix]time.Time{},
		known:  map[netip.Prefix]time.Time{},
	}
}

// applyTo reports whether the network can be penalised at all.
func (p *penalties) applyTo(network netip.Prefix) bool {
	return network.IsValid() && !slices.ContainsFunc(p.exempt, network.Overlaps)
}

// blocks reports whether the network is penalised now.
func (p *penalties) blocks(network netip.Prefix) bool {
	if !p.applyTo(network) {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	return p.debts[network].Sub(now) > toleratedDebt && !p.known[network].After(now)
}

// charge adds cost to the debt of the network, up to maxDebt. It reports true when the network is penalised
// from now on and was not before. It does nothing for a network that cannot be penalised.
func (p *penalties) charge(network netip.Prefix, cost time.Duration) bool {
	if cost == 0 || !p.applyTo(network) {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	before := max(0, p.debts[network].Sub(now))
	after := min(before+cost, maxDebt)
	p.record(p.debts, network, now.Add(after), now)
	return before <= toleratedDebt && after > toleratedDebt && !p.known[network].After(now)
}

// markKnown records that a certificate was accepted from the network. remaining is the time until it expires.
func (p *penalties) markKnown(network netip.Prefix, remaining time.Duration) {
	if remaining <= 0 || !p.applyTo(network) {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if until := now.Add(remaining); until.After(p.known[network]) {
		p.record(p.known, network, until, now)
	}
}

// record sets table[network] to until, where table is debts or known. When the table is full it first removes
// the entries whose time has passed, at most once every sweepEvery. A new entry that still does not fit is
// left out: maxNetworks says why that is safe. The caller holds mu.
func (p *penalties) record(table map[netip.Prefix]time.Time, network netip.Prefix, until, now time.Time) {
	if _, found := table[network]; !found && len(table) >= maxNetworks {
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
	table[network] = until
}

// countBlocked counts the networks with more than the tolerated debt, whether or not a known peer protects
// them.
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

// certificateError says that the peer showed a certificate that was refused.
type certificateError struct {
	error
	expired bool // the only defect of the certificate is that it has expired
}

func (e certificateError) Unwrap() error { return e.error }

// costOf returns the charge for a connection that ended with err before its peer was known. The error is one
// of TLS, of ServeSSH (a fault), or of reading the first bytes.
//
// Anonymous connections are charged only for garbage and for timeouts: browsers close connections as they
// like. An expired or missing certificate costs little, because a program that tries with it again and again
// must not lock its own user out of the login page.
func costOf(err error, anonymous bool) time.Duration {
	var certErr certificateError
	certRefused := errors.As(err, &certErr)
	switch {
	case err == nil:
		return 0
	case timedOut(err):
		return costTimeout
	case certErr.expired, fault.Is(err, fault.Expired), fault.Is(err, fault.Unauthenticated):
		return costHungUp
	case certRefused, fault.Is(err, fault.Denied):
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
	var netErr net.Error
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.As(err, &netErr) && netErr.Timeout()
}

// peerClosed reports whether the peer ended the connection: by EOF, by a reset, or by a TLS alert.
func peerClosed(err error) bool {
	ended := []error{
		io.EOF, io.ErrUnexpectedEOF, syscall.ECONNRESET, syscall.EPIPE, net.ErrClosed, io.ErrClosedPipe,
	}
	if slices.ContainsFunc(ended, func(target error) bool { return errors.Is(err, target) }) {
		return true
	}
	var op *net.OpError
	return errors.As(err, &op) && strings.HasPrefix(op.Op, "remote error")
}
