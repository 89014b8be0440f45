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
	// limitsInterval is how often a connection that goes on is measured by the rules of the moment, and so
	// how late a role that became stricter is noticed. A limit that is known ends the connection when it is
	// reached.
	limitsInterval = 10 * time.Second
	// warnBefore is how long before a limit is reached people at terminals are told, unless the limit itself
	// is less than two of these.
	warnBefore = time.Minute
)

// limitClock measures a connection by the limits of its user's roles. Durations count real time, whatever the
// injected clock says; only the certificate's end is a matter of that clock.
type limitClock struct {
	start      time.Time    // the login
	lastActive atomic.Int64 // when the user was last heard of, in nanoseconds after since
	terminals  atomic.Int32 // sessions with a terminal that are open
	expires    time.Time    // of the certificate
}

func newLimitClock(expires time.Time) *limitClock {
	return &limitClock{start: time.Now(), expires: expires}
}

// markActive notes that the user did something in a session: typed, sent a program its input, or started one.
// Nothing else that a client sends counts: no keepalive, no new window size, no signal, no room for more
// output.
func (l *limitClock) markActive() { l.lastActive.Store(int64(time.Since(l.start))) }

// markForwarded notes data that the client sent on a connection it had forwarded. While there is a terminal,
// only what is typed counts: else a page that refreshes itself would keep the shell beside it open.
func (l *limitClock) markForwarded() {
	if l.terminals.Load() == 0 {
		l.markActive()
	}
}

// next says which limit is reached first, and how long from now. Without any limit it returns nil.
func (l *limitClock) next(limits access.Limits, now time.Time) (end *endReason, left time.Duration) {
	lasted := time.Since(l.start)
	sooner := func(in time.Duration, by, rule, reason, remedy string, whole time.Duration) {
		if end == nil || in < left {
			end, left = &endReason{
				cause:     by,
				rule:      rule,
				warnFirst: whole >= 2*warnBefore,
				err:       fault.New(fault.Expired, "node", reason+" ("+rule+")", remedy),
			}, in
		}
	}
	if idle := limits.IdleTimeout; idle.Rule != "" {
		sooner(
			idle.Value-(lasted-time.Duration(l.lastActive.Load())),
			"idle_timeout",
			idle.Rule,
			fmt.Sprintf(
				"the session has ended: nothing was typed for %s",
				access.Duration(idle.Value),
			),
			"connect again",
			idle.Value,
		)
	}
	if most := limits.MaxSession; most.Rule != "" {
		sooner(
			most.Value-lasted,
			"max_session",
			most.Rule,
			fmt.Sprintf("the session has ended: it may last %s", access.Duration(most.Value)),
			"connect again",
			most.Value,
		)
	}
	if with := limits.EndWithCertificate; with.Rule != "" {
		left := l.expires.Sub(now)
		sooner(
			left,
			"end_with_certificate",
			with.Rule,
			"the session has ended with its certificate",
			"run: tsh login",
			lasted+left,
		)
	}
	return end, left
}

// watch returns when the connection must end, and why; nil when it has ended.
func (c *connection) watch(ctx context.Context) *endReason {
	timer := time.NewTimer(0)
	defer timer.Stop()
	warned, draining := "", c.srv.draining
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
		end, left := c.clock.next(c.limits(), c.srv.cfg.Now())
		if end == nil {
			timer.Reset(limitsInterval)
			continue
		}
		if left <= 0 {
			return end
		}
		wait := min(left, limitsInterval)
		switch {
		case left > warnBefore:
			warned, wait = "", min(wait, left-warnBefore)
		case end.warnFirst && warned != end.cause:
			warned = end.cause
			c.announce(end.warning(left))
		}
		timer.Reset(wait)
	}
}

// limits are those of this moment. Rules that are too old to let anybody in still bound who is in.
func (c *connection) limits() access.Limits {
	t := c.srv.cfg.Rules()
	if t == nil {
		return access.Limits{}
	}
	return t.Policy.Limits(c.who.Identity)
}

// activityReader is a channel on which the client's data says that its user is there.
type activityReader struct {
	ssh.Channel
	onRead func()
}

func (h activityReader) Read(b []byte) (int, error) {
	n, err := h.Channel.Read(b)
	if n > 0 {
		h.onRead()
	}
	return n, err
}
