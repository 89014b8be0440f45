package sshd

import (
	"context"
	"fmt"
	"time"

	"github.com/threshold-access/threshold/internal/dial"
	"github.com/threshold-access/threshold/internal/fault"
)

const (
	// endedStatus is the exit status of a session that the node ended: what timeout(1) uses for a program whose time was over.
	endedStatus = 124
	// endGrace is what sessions get to end once they must: programs have three seconds between SIGHUP and SIGKILL, and clients need
	// a moment to take what they are told. Then the connection is closed whether they did or not.
	endGrace = 5 * time.Second
	// partGrace is how long a client whose sessions have all ended has to hang up by itself.
	partGrace = time.Second
)

// ending is why the node ends a connection. It travels as the cause of its sessions' context.
type ending struct {
	by   string // for the audit log: a role's option, or "stop"
	rule string // empty for "stop"
	warn bool   // people at terminals are told beforehand
	err  error  // what they are told
}

func (e *ending) Error() string { return e.err.Error() }
func (e *ending) Unwrap() error { return e.err }

// warning tells what is to come in left.
func (e *ending) warning(left time.Duration) string {
	what := map[string]string{"idle_timeout": "unless something is typed", "end_with_certificate": "with its certificate"}[e.by]
	if what != "" {
		what = " " + what
	}
	return fmt.Sprintf("threshold: this session ends in %s%s (%s)", left.Round(time.Second), what, e.rule)
}

const stopNotice = "threshold: this node is about to stop: end what you do"

// endingOf is why a session's context ended, if the node ended the session; nil where the client hung up.
func endingOf(ctx context.Context) *ending {
	e, _ := context.Cause(ctx).(*ending)
	return e
}

// begin counts a session that is about to start, and refuses one too many, and any on a connection that is about to end.
func (c *connection) begin(t *talk) (rule string, err error) {
	limit := c.limits().MaxSessions
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ending != nil {
		return c.ending.rule, c.ending.err
	}
	if c.srv.stopping() {
		return "", c.srv.stop.err
	}
	if err := c.srv.people.enter(c.who.Identity, limit, c.srv.cfg.Identity().Name); err != nil {
		return limit.Rule, err
	}
	if t.term != nil {
		c.leash.terminals.Add(1)
	}
	c.leash.typed()
	c.live[t] = make(chan struct{})
	return "", nil
}

// free lets the person have another session in place of the one that has ended.
func (c *connection) free(t *talk) {
	if t.term != nil {
		c.leash.terminals.Add(-1)
	}
	c.srv.people.leave(c.who.Identity)
}

// part takes a session off the list of those that must be told and waited for.
func (c *connection) part(t *talk) {
	c.mu.Lock()
	defer c.mu.Unlock()
	close(c.live[t])
	delete(c.live, t)
}

// unused reports whether nothing is open on the connection.
func (c *connection) unused() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sessions == 0 && c.forwards.Open() == 0
}

// announce puts a line on every terminal of the connection. A client that takes no output misses it.
func (c *connection) announce(line string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for t := range c.live {
		if t.term != nil {
			t.announce(line)
		}
	}
}

// end ends every session by ending their context with the cause, and returns when they are gone and the client has hung up, or has had
// its time for that.
func (c *connection) end(ctx context.Context, why *ending, sessions context.CancelCauseFunc) {
	c.srv.cfg.Log.Info("connection ended", "user", c.who.Name, "login", c.login, "from", c.visit.from, "by", why.by, "reason", fault.Message(why.err))
	c.mu.Lock()
	c.ending = why
	var live []chan struct{}
	for _, gone := range c.live {
		live = append(live, gone)
	}
	c.mu.Unlock()
	sessions(why)
	if len(live) == 0 && dial.ReadsReasons(c.conn.ClientVersion()) {
		go func() { // ends with the connection, which does not wait for a client that reads nothing
			_, _, _ = c.conn.SendRequest(dial.EndNotice, false, []byte(words(why.err, "\n")))
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
	timer.Reset(partGrace)
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
