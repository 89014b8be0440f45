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
	// limitsEvery is how often a connection that goes on is measured by the rules of the moment, and so how late a role that became
	// stricter is noticed. A limit that is known ends the connection when it is reached.
	limitsEvery = 10 * time.Second
	// warnBefore is how long before a limit is reached people at terminals are told, unless the limit itself is less than two of these.
	warnBefore = time.Minute
)

// leash measures a connection by the limits of its user's roles. Durations count real time, whatever the injected clock says; only the
// certificate's end is a matter of that clock.
type leash struct {
	since     time.Time    // the login
	active    atomic.Int64 // when the user was last heard of, in nanoseconds after since
	terminals atomic.Int32 // sessions with a terminal that are open
	expires   time.Time    // of the certificate
}

func newLeash(expires time.Time) *leash { return &leash{since: time.Now(), expires: expires} }

// typed notes that the user did something in a session: typed, sent a program its input, or started one. Nothing else that a client
// sends counts: no keepalive, no new window size, no signal, no room for more output.
func (l *leash) typed() { l.active.Store(int64(time.Since(l.since))) }

// forwarded notes data that the client sent on a connection it had forwarded. While there is a terminal, only what is typed counts: else a page that
// refreshes itself would keep the shell beside it open.
func (l *leash) forwarded() {
	if l.terminals.Load() == 0 {
		l.typed()
	}
}

// next says which limit is reached first, and how long from now. Without any limit it returns nil.
func (l *leash) next(limits access.Limits, now time.Time) (end *ending, left time.Duration) {
	lasted := time.Since(l.since)
	sooner := func(in time.Duration, by, rule, reason, remedy string, whole time.Duration) {
		if end == nil || in < left {
			end, left = &ending{by: by, rule: rule, warn: whole >= 2*warnBefore, err: fault.New(fault.Expired, "node", reason+" ("+rule+")", remedy)}, in
		}
	}
	if idle := limits.IdleTimeout; idle.Rule != "" {
		sooner(idle.At-(lasted-time.Duration(l.active.Load())), "idle_timeout", idle.Rule,
			fmt.Sprintf("the session has ended: nothing was typed for %s", access.Duration(idle.At)), "connect again", idle.At)
	}
	if most := limits.MaxSession; most.Rule != "" {
		sooner(most.At-lasted, "max_session", most.Rule, fmt.Sprintf("the session has ended: it may last %s", access.Duration(most.At)), "connect again", most.At)
	}
	if with := limits.EndWithCertificate; with.Rule != "" {
		left := l.expires.Sub(now)
		sooner(left, "end_with_certificate", with.Rule, "the session has ended with its certificate", "run: tsh login", lasted+left)
	}
	return end, left
}

// watch returns when the connection must end, and why; nil when it has ended.
func (c *connection) watch(ctx context.Context) *ending {
	timer := time.NewTimer(0)
	defer timer.Stop()
	warned, draining := "", c.srv.draining
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-c.srv.over:
			return c.srv.stop
		case <-draining:
			draining = nil
			c.announce(stopNotice)
		case <-c.changed:
		case <-timer.C:
		}
		if draining == nil && c.unused() {
			return c.srv.stop
		}
		end, left := c.leash.next(c.limits(), c.srv.cfg.Now())
		if end == nil {
			timer.Reset(limitsEvery)
			continue
		}
		if left <= 0 {
			return end
		}
		wait := min(left, limitsEvery)
		switch {
		case left > warnBefore:
			warned, wait = "", min(wait, left-warnBefore)
		case end.warn && warned != end.by:
			warned = end.by
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

// heard is a channel on which the client's data says that its user is there.
type heard struct {
	ssh.Channel
	note func()
}

func (h heard) Read(b []byte) (int, error) {
	n, err := h.Channel.Read(b)
	if n > 0 {
		h.note()
	}
	return n, err
}
