package sshd

import (
	"context"
	"time"

	"github.com/threshold-access/threshold/internal/dial"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/sshprofile"
)

const (
	// endedStatus is the exit status of a program that the node ended: the one of timeout(1).
	endedStatus = 124
	// endGrace bounds how long sessions take to end once they must: a program has three seconds between
	// SIGHUP and SIGKILL, and the client needs a moment to read the reason. Then the connection is closed.
	endGrace = 5 * time.Second
	// closeGrace is how long a client whose sessions have all ended has to close the connection by itself.
	closeGrace = time.Second
)

// The causes for which a node ends a connection, as audit events name them: options of a role, or the stop of
// the node.
const (
	causeIdle        = "idle_timeout"
	causeMaxSession  = "max_session"
	causeCertificate = "end_with_certificate"
)

// endReason is why the node ends a connection. It is the cancellation cause of the sessions' context. It does
// not change once made.
type endReason struct {
	cause     string // for the audit log
	rule      string // the role and option, as "role ops, idle_timeout"; empty for the stop of the node
	warnFirst bool   // clients with a terminal are warned before
	err       error  // what the client is told
}

func (e *endReason) Error() string { return e.err.Error() }
func (e *endReason) Unwrap() error { return e.err }

// endReasonOf returns why the node ended the sessions of ctx, or nil if the client hung up or ctx has not
// ended.
func endReasonOf(ctx context.Context) *endReason {
	e, _ := context.Cause(ctx).(*endReason)
	return e
}

// end ends every session of the connection by endSessions. It returns when they have ended and the client has
// closed the connection, or when the time for that is over. It is called at most once, by the goroutine of
// watch.
func (c *connection) end(ctx context.Context, reason *endReason, endSessions context.CancelCauseFunc) {
	c.srv.cfg.Log.Info("connection ended", "user", c.who.Name, "login", c.login, "from", c.origin.From,
		"by", reason.cause, "reason", fault.Message(reason.err))
	c.mu.Lock()
	c.endReason = reason
	var live []chan struct{}
	for p := range c.live {
		live = append(live, p.reported)
	}
	c.mu.Unlock()
	endSessions(reason)
	if len(live) == 0 && dial.ReadsRefusalReasons(c.conn.ClientVersion()) {
		// Without a session there is no stderr for the reason. Nobody waits for this goroutine, because the
		// client may read nothing; it ends at the latest when the connection is closed.
		go func() {
			text := sshprofile.Message(reason.err, "\n")
			_, _, _ = c.conn.SendRequest(dial.EndNotice, false, []byte(text))
		}()
	}
	timer := time.NewTimer(endGrace)
	defer timer.Stop()
	for _, reported := range live {
		select {
		case <-reported:
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
