package sshd

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/fault"
)

const (
	// limitsInterval is how often an open connection is compared with the rules in force, and so how late a
	// role that became stricter takes effect. A limit that is known already ends the connection on time.
	limitsInterval = 10 * time.Second
	// warnBefore is how long before a limit is reached clients with a terminal are warned. A limit of less
	// than twice this time gives no warning.
	warnBefore = time.Minute
)

// limitClock measures how long a connection lasts and how long its user has done nothing. It measures real
// time; only the end of the certificate is compared with the time of Config.Now.
type limitClock struct {
	start      time.Time    // when the client logged in
	expires    time.Time    // when the certificate does
	lastActive atomic.Int64 // when the user was last active, in nanoseconds after start
	terminals  atomic.Int32 // open sessions that have a terminal
}

func newLimitClock(expires time.Time) *limitClock {
	return &limitClock{start: time.Now(), expires: expires}
}

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

// next returns the limit that will be reached first, and the time that is left until then, which is negative
// if it has been reached. It returns nil if there is no limit. now is the time of Config.Now.
func (l *limitClock) next(limits access.Limits, now time.Time) (first *endReason, left time.Duration) {
	lasted := time.Since(l.start)
	// consider takes a limit into account: the time left until it is reached, and how long it lets the
	// connection last in all.
	consider := func(cause, rule string, in, whole time.Duration, msg, remedy string) {
		if first != nil && in >= left {
			return
		}
		err := fault.New(fault.Expired, "node", msg+" ("+rule+")", remedy)
		first = &endReason{cause: cause, rule: rule, warnFirst: whole >= 2*warnBefore, err: err}
		left = in
	}
	if idle := limits.IdleTimeout; idle.Rule != "" {
		msg := fmt.Sprintf("the session has ended: nothing was typed for %s", access.Duration(idle.Value))
		idleFor := lasted - time.Duration(l.lastActive.Load())
		consider(causeIdle, idle.Rule, idle.Value-idleFor, idle.Value, msg, "connect again")
	}
	if longest := limits.MaxSession; longest.Rule != "" {
		msg := fmt.Sprintf("the session has ended: it may last %s", access.Duration(longest.Value))
		consider(causeMaxSession, longest.Rule, longest.Value-lasted, longest.Value, msg, "connect again")
	}
	if with := limits.EndWithCertificate; with.Rule != "" {
		const msg = "the session has ended with its certificate"
		valid := l.expires.Sub(now)
		consider(causeCertificate, with.Rule, valid, lasted+valid, msg, "run: tsh login")
	}
	return first, left
}

// watch waits until the connection must end, and returns why. It warns clients with a terminal before. It
// returns nil when ctx ends first. It runs on one goroutine of serve.
func (c *connection) watch(ctx context.Context) *endReason {
	timer := time.NewTimer(0)
	defer timer.Stop()
	draining := c.srv.draining // nil once it was seen closed
	warned := ""               // the cause of the last warning, while the limit is near
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
		if draining == nil && c.idle() {
			return c.srv.stopReason
		}
		reason, left := c.clock.next(c.limits(), c.srv.cfg.Now())
		if reason == nil {
			timer.Reset(limitsInterval)
			continue
		}
		if left <= 0 {
			return reason
		}
		wait := min(left, limitsInterval)
		switch {
		case left > warnBefore:
			warned, wait = "", min(wait, left-warnBefore)
		case reason.warnFirst && warned != reason.cause:
			warned = reason.cause
			c.announce(reason.warning(left))
		}
		timer.Reset(wait)
	}
}

// limits are the limits in force for the connection's user. Rules that are too old for a login still limit
// the connections that are open.
func (c *connection) limits() access.Limits {
	t := c.srv.cfg.Rules()
	if t == nil {
		return access.Limits{}
	}
	return t.Policy.Limits(c.who.Identity)
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
