package sshd

import (
	"context"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/fault"
)

const (
	// limitsInterval is how often the limits of an open connection are computed anew from the rules in force,
	// and so how late a role that became stricter takes effect. Limits that have not changed end the
	// connection on time.
	limitsInterval = 10 * time.Second
)

// warnings are how long before the end of a connection its terminals are warned, the longest first. There is
// no warning if the limit is shorter than twice that time. Before an idle timeout only the last one counts:
// the user can avert it at any time.
var warnings = []time.Duration{15 * time.Minute, 5 * time.Minute, time.Minute}

// limitClock measures how long a connection lasts and how long its user has done nothing. It measures real
// time; only the end of the certificate is compared with the time of Config.Now.
type limitClock struct {
	start      time.Time    // when the client logged in
	lastActive atomic.Int64 // when the user was last active, in nanoseconds after start
	terminals  atomic.Int32 // open sessions that have a terminal
}

func newLimitClock() *limitClock { return &limitClock{start: time.Now()} }

// markActive notes that the user started a program, or sent input to one. Nothing else that a client sends
// counts as activity: no keepalive, window size, signal or window adjustment.
func (l *limitClock) markActive() { l.lastActive.Store(int64(time.Since(l.start))) }

// markForwarded notes that the client sent data on a forwarded connection. It counts as activity unless the
// connection has a terminal: a web page that refreshes itself must not keep the shell beside it open.
func (l *limitClock) markForwarded() {
	if l.terminals.Load() == 0 {
		l.markActive()
	}
}

// next returns, as the reason to end the connection, which of the limits will be reached first, and how much
// time is left until then. That time is negative if the limit was reached already. Without any limit the
// reason is nil. expires is the end of the certificate, and now is the time of Config.Now.
func (l *limitClock) next(
	limits access.Limits, expires, now time.Time,
) (first *endReason, left time.Duration) {
	lasted := time.Since(l.start)
	// consider makes a limit the first one if less time is left until it than until the first one so far.
	// length is how long the limit lets the connection last in all, if the user does nothing.
	consider := func(cause, rule string, remaining, length time.Duration, err error) {
		if first != nil && remaining >= left {
			return
		}
		first = &endReason{cause: cause, rule: rule, length: length, err: err}
		left = remaining
	}
	if idle := limits.IdleTimeout; idle.Rule != "" {
		err := sessionIdle.New("node", fault.Args{"limit": access.Duration(idle.Value), "rule": idle.Rule})
		idleFor := lasted - time.Duration(l.lastActive.Load())
		consider(causeIdle, idle.Rule, idle.Value-idleFor, idle.Value, err)
	}
	if longest := limits.MaxSession; longest.Rule != "" {
		err := sessionTooLong.New("node", fault.Args{
			"limit": access.Duration(longest.Value),
			"rule":  longest.Rule,
		})
		consider(causeMaxSession, longest.Rule, longest.Value-lasted, longest.Value, err)
	}
	if withCertificate := limits.EndWithCertificate; withCertificate.Value {
		err := sessionEndedWithCertificate.New("node", fault.Args{"rule": withCertificate.Rule})
		validFor := expires.Sub(now)
		consider(causeCertificate, withCertificate.Rule, validFor, lasted+validFor, err)
	}
	return first, left
}

// watch waits until the node must end the connection, and returns why: the rules do not allow it any more, a
// limit of the user's roles is reached, or the node stops and the connection is idle or the time to drain is
// over. Before that it warns clients with a terminal. It returns nil when ctx ends first. It runs on one
// goroutine of serve.
func (c *connection) watch(ctx context.Context) *endReason {
	timer := time.NewTimer(0) // fires at once, for the limits at the start
	defer timer.Stop()
	draining := c.srv.draining // nil while the node drains: from a nil channel nothing is received
	var last warning           // of the present limit
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-c.srv.ended:
			return c.srv.stopReason
		case <-draining:
			draining = nil
			c.announce(stopNotice)
		case <-c.wakeups:
		case <-timer.C:
		}
		if reason := c.denial.Load(); reason != nil {
			return reason
		}
		nodeDrains := draining == nil
		if nodeDrains && c.idle() {
			return c.srv.stopReason
		}
		reason, left := c.clock.next(c.limits(), c.who().Expires, c.srv.cfg.Now())
		if reason == nil {
			timer.Reset(limitsInterval)
			continue
		}
		if left <= 0 {
			return reason
		}
		due, until := reason.nextWarning(left)
		if due.before != 0 && due != last {
			c.announce(reason.warning(left, c.origin))
		}
		last = due
		timer.Reset(min(left, limitsInterval, until))
	}
}

// warning is one of the warnings before the end of a connection. The zero value is that none is due.
type warning struct {
	cause  string
	before time.Duration
}

// nextWarning returns the warning that is due when left remains until the end, and the time until the next
// one.
func (e *endReason) nextWarning(left time.Duration) (due warning, until time.Duration) {
	until = left
	for _, before := range warnings {
		switch {
		case e.length < 2*before, e.cause == causeIdle && before != warnings[len(warnings)-1]:
		case left > before:
			return due, left - before
		default:
			due = warning{e.cause, before}
		}
	}
	return due, until
}

// limits returns the limits that the rules in force set for the connection's user. Rules that are too old for
// a new login still limit the connections that are open. Without rules there are no limits.
func (c *connection) limits() access.Limits {
	trust := c.srv.cfg.Rules.Current()
	if trust == nil {
		return access.Limits{}
	}
	return access.LimitsOf(trust.Policy, c.who().Identity)
}

// activityReader is a channel that calls onRead whenever the client has sent data.
type activityReader struct {
	ssh.Channel
	onRead func()
}

func (r activityReader) Read(b []byte) (int, error) {
	n, err := r.Channel.Read(b)
	if n > 0 {
		r.onRead()
	}
	return n, err
}
