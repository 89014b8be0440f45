package sshd

import (
	"context"
	"fmt"
	"time"

	"github.com/threshold-access/threshold/internal/dial"
	"github.com/threshold-access/threshold/internal/fault"
)

const (
	// endedStatus is the exit status of a session that the node ended: what timeout(1) uses for a program
	// whose time was over.
	endedStatus = 124
	// endGrace is what sessions get to end once they must: programs have three seconds between SIGHUP and
	// SIGKILL, and clients need a moment to take what they are told. Then the connection is closed whether
	// they did or not.
	endGrace = 5 * time.Second
	// closeGrace is how long a client whose sessions have all ended has to hang up by itself.
	closeGrace = time.Second
)

// endReason is why the node ends a connection. It travels as the cause of its sessions' context.
type endReason struct {
	cause     string // for the audit log: a role's option, or "stop"
	rule      string // empty for "stop"
	warnFirst bool   // people at terminals are told beforehand
	err       error  // what they are told
}

func (e *endReason) Error() string { return e.err.Error() }
func (e *endReason) Unwrap() error { return e.err }

// warning tells what is to come in left.
func (e *endReason) warning(left time.Duration) string {
	what := map[string]string{"idle_timeout": "unless something is typed", "end_with_certificate": "with its certificate"}[e.cause]
	if what != "" {
		what = " " + what
	}
	return fmt.Sprintf("threshold: this session ends in %s%s (%s)", left.Round(time.Second), what, e.rule)
}

const stopNotice = "threshold: this node is about to stop: end what you do"

// endReasonOf is why a session's context ended, if the node ended the session; nil where the client hung up.
func endReasonOf(ctx context.Context) *endReason {
	e, _ := context.Cause(ctx).(*endReason)
	return e
}

// admitProgram counts a session that is about to start, and refuses one too many, and any on a connection
// that is about to end.
func (c *connection) admitProgram(t *sessionChannel) (rule string, err error) {
	limit := c.limits().MaxSessions
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.endReason != nil {
		return c.endReason.rule, c.endReason.err
	}
	if c.srv.isDraining() {
		return "", c.srv.stopReason.err
	}
	if err := c.srv.sessionsPerUser.add(c.who.Identity, limit, c.srv.cfg.Identity().Name); err != nil {
		return limit.Rule, err
	}
	if t.terminal != nil {
		c.clock.terminals.Add(1)
	}
	c.clock.markActive()
	c.live[t] = make(chan struct{})
	return "", nil
}

// releaseQuota lets the person have another session in place of the one that has ended.
func (c *connection) releaseQuota(t *sessionChannel) {
	if t.terminal != nil {
		c.clock.terminals.Add(-1)
	}
	c.srv.sessionsPerUser.remove(c.who.Identity)
}

// removeLive takes a session off the list of those that must be told and waited for.
func (c *connection) removeLive(t *sessionChannel) {
	c.mu.Lock()
	defer c.mu.Unlock()
	close(c.live[t])
	delete(c.live, t)
}

// idle reports whether nothing is open on the connection.
func (c *connection) idle() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sessions == 0 && c.forwards.OpenCount() == 0
}

// announce puts a line on every terminal of the connection. A client that takes no output misses it.
func (c *connection) announce(line string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for t := range c.live {
		if t.terminal != nil {
			t.announce(line)
		}
	}
}

// end ends every session by ending their context with the cause, and returns when they are gone and the
// client has hung up, or has had its time for that.
func (c *connection) end(ctx context.Context, why *endReason, sessions context.CancelCauseFunc) {
	c.srv.cfg.Log.Info(
		"connection ended",
		"user",
		c.who.Name,
		"login",
		c.login,
		"from",
		c.attempt.from,
		"by",
		why.cause,
		"reason",
		fault.Message(why.err),
	)
	c.mu.Lock()
	c.endReason = why
	var live []chan struct{}
	for _, gone := range c.live {
		live = append(live, gone)
	}
	c.mu.Unlock()
	sessions(why)
	if len(live) == 0 && dial.ReadsRefusalReasons(c.conn.ClientVersion()) {
		go func() { // ends with the connection, which does not wait for a client that reads nothing
			_, _, _ = c.conn.SendRequest(dial.EndNotice, false, []byte(errorText(why.err, "\n")))
		}()
	}
	timer := time.NewTimer(endGrace)
	defer timer.Stop()
	for _, gone := range live {
		select {
		case <-gone:
		case <-timer.C:
			return
		case <-ctx.Done():
			return
		}
	}
	timer.Reset(closeGrace)
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
