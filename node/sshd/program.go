package sshd

import (
	"context"
	"errors"
	"strconv"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/sshprofile"
	"github.com/threshold-access/threshold/node/account"
	"github.com/threshold-access/threshold/node/process"
)

// program is one program of a session channel. It passes through these phases, each of which is a method:
//
//	authorize  do the rules allow it?
//	admit      is there an account, and quota for one more session?
//	record     is its start in the audit log? Nothing runs before the event is safe on disk.
//	start      the process exists
//	run        its bytes move, until it has exited or the session must end
//	end        the client is told how it ended; then the end is recorded
//
// A phase that fails refuses the program, and none of the later phases happens. The first four run on the
// goroutine of the channel, the last two on one of their own.
type program struct {
	conn     *connection
	ch       ssh.Channel
	messages *messageWriter

	rule        string          // the rule that allows it
	spec        process.Spec    // what to run
	hasTerminal bool            // the client requested a terminal, though spec may have none
	account     account.Account // as whom
	process     *process.Process

	// reported is closed once the client was told how the program ended.
	reported chan struct{}
}

// authorize is the phase that asks the rules.
func (p *program) authorize(key requestKey) (err error) {
	p.rule, err = p.conn.authorize(key)
	if err != nil && key.needsGrant() {
		p.conn.auditRefusal(p.rule, key.name, err)
	}
	return err
}

// launch takes an authorized program through the phases admit, record and start.
func (p *program) launch() error {
	if err := p.admit(); err != nil {
		return err
	}
	started := false
	defer func() {
		if !started { // also after a panic
			p.releaseQuota()
			p.markReported()
		}
	}()
	if err := p.record(); err != nil {
		return err
	}
	if err := p.start(); err != nil {
		return err
	}
	started = true
	return nil
}

// admit is the phase that looks up the account and counts the session. A success must be followed by exactly
// one releaseQuota, and by markReported.
func (p *program) admit() (err error) {
	if p.account, err = p.conn.srv.cfg.Accounts.Admit(p.conn.login); err != nil {
		return p.refuse(p.rule, err)
	}
	if rule, err := p.conn.addProgram(p); err != nil {
		return p.refuse(rule, err)
	}
	return nil
}

// record is the phase that makes the start of the session durable.
func (p *program) record() error {
	if err := p.conn.srv.cfg.Audit(p.newEvent(audit.SessionStarted)); err != nil {
		return p.refuse(p.rule, err)
	}
	return nil
}

// start is the phase that starts the process. A failure is the end of a session that was recorded as started.
func (p *program) start() (err error) {
	p.process, err = process.Start(p.conn.srv.cfg.Accounts, p.account, p.spec)
	if err != nil {
		p.auditEnd(process.Exit{Code: refusedStatus}, err)
	}
	return err
}

// refuse audits the refusal of the program, and returns it.
func (p *program) refuse(rule string, err error) error {
	p.conn.auditRefusal(rule, string(p.spec.Kind), err)
	return err
}

// runToEnd takes a program that was started through the phases run and end. When ctx ends, so does the
// program.
func (p *program) runToEnd(ctx context.Context) {
	defer p.markReported() // also after a panic
	p.end(ctx, p.run(ctx))
}

// run is the phase that moves the program's bytes until it has exited.
func (p *program) run(ctx context.Context) process.Exit {
	defer p.releaseQuota()
	return p.process.Run(ctx, process.Streams{
		In:  activityReader{p.ch, p.conn.clock.markActive},
		Out: p.ch,
		Err: p.ch.Stderr(),
	})
}

// end is the phase that tells the client how the program ended, closes the channel, and records the end. If
// the node ended the program, by ending ctx with a reason, the client and the audit log are told the reason.
func (p *program) end(ctx context.Context, exit process.Exit) {
	var err error
	if reason := endReasonOf(ctx); reason != nil {
		exit.Code, exit.Signal, err = endedStatus, "", reason
		p.messages.writeEndReason(reason)
	}
	// The status goes before the end of the output: OpenSSH closes the channel at that end if its input has
	// ended, and then receives nothing more.
	sendExitStatus(p.ch, exit)
	p.messages.closeOutput()
	_ = p.ch.Close()
	p.markReported()
	p.auditEnd(exit, err) // last, because a durable write takes a while and nobody waits for it
}

// auditEnd records the end of the session. Nothing can be refused any more, so a failure is only logged.
func (p *program) auditEnd(exit process.Exit, err error) {
	e := p.newEvent(audit.SessionEnded)
	delete(e.Fields, "command")
	e.Fields["bytes_in"] = strconv.FormatInt(exit.In, 10)
	e.Fields["bytes_out"] = strconv.FormatInt(exit.Out, 10)
	if exit.Signal != "" {
		e.Fields["signal"] = exit.Signal
	} else {
		e.Fields["status"] = strconv.Itoa(exit.Code)
	}
	if err != nil {
		e.Reason = audit.Truncate(sshprofile.Clean(fault.Message(err)))
	}
	var reason *endReason
	if errors.As(err, &reason) {
		e.Fields["ended_by"] = reason.cause
	}
	if err := p.conn.srv.cfg.Audit(e); err != nil {
		p.conn.srv.cfg.Log.Error("the end of a session could not be recorded",
			"session", p.spec.ID, "err", err)
	}
}

// newEvent starts an audit event about the session.
func (p *program) newEvent(code audit.Code) audit.Event {
	e := p.conn.newEvent(code, p.rule)
	e.Session = p.spec.ID
	e.Fields = map[string]string{"kind": string(p.spec.Kind), "by": p.conn.origin.Protocol}
	if p.spec.Kind == process.Exec {
		e.Fields["command"] = audit.Truncate(sshprofile.Clean(p.spec.Command))
	}
	if p.spec.Terminal != nil {
		e.Fields["terminal"] = "yes"
	}
	return e
}

// addProgram counts a program that is about to start. It refuses one more than the user may have, and any on
// a connection or node that is about to end.
func (c *connection) addProgram(p *program) (rule string, err error) {
	limit := c.limits().MaxSessions
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.endReason != nil {
		return c.endReason.rule, c.endReason.err
	}
	if c.srv.isDraining() {
		return "", c.srv.stopReason.err
	}
	if err := c.srv.acquireSession(c.who.Identity, limit); err != nil {
		return limit.Rule, err
	}
	if p.hasTerminal {
		c.clock.terminals.Add(1)
	}
	c.clock.markActive()
	p.reported = make(chan struct{})
	c.live[p] = struct{}{}
	return "", nil
}

// releaseQuota gives back what addProgram counted, so that the user may start another program.
func (p *program) releaseQuota() {
	if p.hasTerminal {
		p.conn.clock.terminals.Add(-1)
	}
	p.conn.srv.sessionsPerUser.Release(p.conn.who.UserKey())
}

// markReported says that the client was told how the program ended, or that it never ran: the end of the
// connection need not wait for it. Further calls do nothing.
func (p *program) markReported() {
	p.conn.mu.Lock()
	defer p.conn.mu.Unlock()
	if _, ok := p.conn.live[p]; ok {
		close(p.reported)
		delete(p.conn.live, p)
	}
}
