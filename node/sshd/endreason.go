package sshd

import (
	"context"
	"time"

	"github.com/threshold-access/threshold/internal/dial"
	"github.com/threshold-access/threshold/internal/fault"
)

const (
	// endedStatus is the exit status of a program that the node ended. timeout(1) uses the same.
	endedStatus = 124
	// endGrace is how long the node waits for the sessions of a connection to end before it closes the
	// connection. A program has three seconds of it between SIGHUP and SIGKILL, and the client needs a moment
	// to read the reason.
	endGrace = 5 * time.Second
	// closeGrace is how long a client whose sessions have all ended has to close the connection by itself.
	closeGrace = time.Second
)

// The causes for which a node ends a connection, or something on it, as audit events name them: its own stop,
// an option of a role, or that the rules do not allow it any more.
const (
	causeStop        = "stop"
	causeDenied      = "denied"
	causeIdle        = "idle_timeout"
	causeMaxSession  = "max_session"
	causeCertificate = "end_with_certificate"
)

// endReason is why the node ends a connection or something on it: an error that is the cancellation cause of
// a context. It never changes.
type endReason struct {
	cause  string        // for the audit log: one of the constants above
	rule   string        // what decided, as "role ops, idle_timeout"; empty for the stop of the node
	length time.Duration // of a limit: how long it lets the connection last in all
	err    error         // the fault that the client is told
}

func (e *endReason) Error() string { return e.err.Error() }
func (e *endReason) Unwrap() error { return e.err }

// denialReason returns the reason to end what the rules do not allow any more, for the error of
// openConnection.Decide.
func denialReason(err error) *endReason {
	cause := causeDenied
	if fault.Is(err, fault.Expired) { // watch has not noticed it yet
		cause = causeCertificate
	}
	return &endReason{cause: cause, err: sessionDenied.Wrap(err, "node", fault.Args{
		"reason": fault.Message(err),
		"hint":   fault.Remedy(err),
	})}
}

// endReasonOf returns why the node ended the sessions' context ctx. It returns nil if ctx has not ended, or
// ended because the client hung up.
func endReasonOf(ctx context.Context) *endReason {
	reason, _ := context.Cause(ctx).(*endReason)
	return reason
}

// end ends every session of the connection, by ending their context with the reason, and tells the client the
// reason. ctx is the connection's context: the caller closes the connection after end returns. end returns
// when the client has closed the connection, at the latest closeGrace after all sessions have ended, or after
// endGrace if one does not end. It is called at most once, by the goroutine of watch.
func (c *connection) end(ctx context.Context, reason *endReason, endSessions context.CancelCauseFunc) {
	c.srv.cfg.Log.Info("connection ended", "user", c.who().Name, "login", c.login, "from", c.origin.From,
		"connection", c.origin.Connection, "cause", reason.cause, "reason", fault.Message(reason.err))
	c.mu.Lock()
	c.endReason = reason         // from now on no program starts, so that the list below is complete
	var reported []chan struct{} // each is closed when the client was told how a program ended
	for p := range c.live {
		reported = append(reported, p.reported)
	}
	c.mu.Unlock()
	endSessions(reason)
	if len(reported) == 0 && c.origin.readsFaults() {
		// Without a session there is no stderr for the reason. Nobody waits for this goroutine, because the
		// client may read nothing; it ends at the latest when the connection is closed.
		go func() {
			_, _, _ = c.conn.SendRequest(dial.EndNotice, false, faultObject(reason.err))
		}()
	}
	timer := time.NewTimer(endGrace) // for all programs together
	defer timer.Stop()
	for _, ch := range reported {
		select {
		case <-ch:
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
