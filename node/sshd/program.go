package sshd

import (
	"context"
	"errors"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/sshprofile"
	"github.com/threshold-access/threshold/node/account"
	"github.com/threshold-access/threshold/node/process"
)

// program is one program of a session channel. It passes through these phases, each of which is a method:
//
//	authorize  asks the rules whether the user may run it
//	admit      looks up the account, and counts one more session
//	record     writes its start to the audit log: nothing runs before the event is safe on disk
//	start      starts the process
//	run        copies its input and output until it has exited or the session must end
//	end        tells the client how it ended, and then writes its end to the audit log
//
// If one of the first four fails, the program is refused and none of the later phases happens. The first four
// run on the goroutine of the channel, the last two on a goroutine of their own.
type program struct {
	conn     *connection
	ch       ssh.Channel
	messages *messageWriter

	rule        string           // the rule that allows it; set by authorize
	spec        process.Spec     // what to run; set between authorize and admit
	hasTerminal bool             // the client requested a terminal; spec has none if the program is sftp
	account     account.Account  // as whom it runs; set by admit
	process     *process.Process // set by start
	open        *opened          // what makes the program known to the registry of what is open

	// reported is closed when the client was told how the program ended, or if it never ran. Set by admit.
	reported chan struct{}
}

// authorize is the phase that asks the rules. It sets p.rule, and audits a refusal. The error is that of
// connection.authorize.
func (p *program) authorize(key requestKey) (err error) {
	p.rule, err = p.conn.authorize(key)
	if err != nil && key.needsGrant() { // a subsystem that the node does not have is refused without an event
		p.conn.auditRefusal(p.rule, key.name, err)
	}
	return err
}

// launch takes an authorized program through the phases admit, record and start. If it fails, it has released
// what admit acquired, and the error is the fault for the client.
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

// admit is the phase that looks up the account and counts the session. It audits a refusal. Each success
// needs exactly one releaseQuota, and one markReported.
func (p *program) admit() (err error) {
	if p.account, err = p.conn.srv.cfg.Accounts.Admit(p.conn.login); err != nil {
		return p.refuse(p.rule, err)
	}
	if rule, err := p.conn.addProgram(p); err != nil {
		return p.refuse(rule, err)
	}
	return nil
}

// record is the phase that writes the start of the session to the audit log. If the event cannot be stored,
// the program is refused.
func (p *program) record() error {
	start := audit.SessionStart{
		Session:  p.spec.ID,
		Login:    p.conn.login,
		Program:  string(p.spec.Kind),
		Terminal: p.spec.Terminal != nil,
		Protocol: p.conn.origin.Protocol,
		Rule:     p.rule,
	}
	if p.spec.Kind == process.Exec {
		start.Command = audit.Truncate(sshprofile.Clean(p.spec.Command))
	}
	if err := p.conn.srv.cfg.Audit(p.conn.newEvent(start)); err != nil {
		return p.refuse(p.rule, err)
	}
	return nil
}

// start is the phase that starts the process. If that fails, it also audits the end of the session, because
// the audit log has its start already.
func (p *program) start() (err error) {
	p.process, err = process.Start(p.conn.srv.cfg.Accounts, p.account, p.spec)
	if err != nil {
		p.auditEnd(process.Exit{Code: refusedStatus}, err)
	}
	return err
}

// refuse audits that the program was refused for err, by a rule if one decided, and returns err.
func (p *program) refuse(rule string, err error) error {
	p.conn.auditRefusal(rule, string(p.spec.Kind), err)
	return err
}

// runToEnd takes a program that was started through the phases run and end, and returns when both are over.
// If ctx ends, or the rules do not allow it any more, the program is ended.
func (p *program) runToEnd(ctx context.Context) {
	ctx, stop := p.open.during(ctx)
	defer stop()
	defer p.open.Remove()
	defer p.markReported() // also after a panic
	p.end(ctx, p.run(ctx))
}

// run is the phase that copies the program's input and output until it has exited. It returns how. The quota
// is released at once, so that a user may start another program before the client has read the output of this
// one.
func (p *program) run(ctx context.Context) process.Exit {
	defer p.releaseQuota()
	return p.process.Run(ctx, process.Streams{
		In:  activityReader{p.ch, p.conn.clock.markActive},
		Out: p.ch,
		Err: p.ch.Stderr(),
	})
}

// end is the phase that tells the client how the program ended, closes the channel, and records the end. exit
// is how the program exited. If the node ended the program, by ending ctx with a reason, the client gets the
// reason and endedStatus in place of the program's own status, and the audit log gets both too.
func (p *program) end(ctx context.Context, exit process.Exit) {
	var err error
	if reason := endReasonOf(ctx); reason != nil {
		exit.Code, exit.Signal, err = endedStatus, "", reason
		p.messages.writeEndReason(reason)
	}
	// The status is sent before the end of the output (EOF): when the input has ended too, OpenSSH closes the
	// channel as soon as it reads EOF, and ignores a status that comes after it.
	sendExitStatus(p.ch, exit)
	p.messages.closeOutput()
	_ = p.ch.Close()
	p.markReported()
	p.auditEnd(exit, err) // last, because a durable write takes a while and nobody waits for it
}

// auditEnd records the end of the session. err says why it ended, if it is not the program that exited: an
// endReason, or an error of start. The session cannot be refused any more, so a failure to record is only
// logged.
func (p *program) auditEnd(exit process.Exit, err error) {
	end := audit.SessionEnd{
		Session:  p.spec.ID,
		Login:    p.conn.login,
		Program:  string(p.spec.Kind),
		Terminal: p.spec.Terminal != nil,
		Protocol: p.conn.origin.Protocol,
		Rule:     p.rule,
		BytesIn:  exit.In,
		BytesOut: exit.Out,
		Signal:   exit.Signal,
	}
	if exit.Signal == "" {
		end.Status = &exit.Code
	}
	if err != nil {
		end.Reason = audit.Truncate(sshprofile.Clean(fault.Message(err)))
	}
	var reason *endReason
	if errors.As(err, &reason) {
		end.Cause = reason.cause
	}
	if err := p.conn.srv.cfg.Audit(p.conn.newEvent(end)); err != nil {
		p.conn.srv.cfg.Log.Error("the end of a session could not be recorded",
			"session", p.spec.ID, "err", err)
	}
}

// addProgram counts a program that is about to start: as a session of the user, as activity, and as one of
// the connection's live programs. The error is a fault that says why it may not start, and rule names the
// rule that decided, if one did: the user has as many sessions as their roles allow, or the connection or
// node is about to end.
func (c *connection) addProgram(p *program) (rule string, err error) {
	limit := c.limits().MaxSessions
	// mu is held from the check to the entry in live. So connection.end either finds the program there, or
	// the program is refused here.
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.endReason != nil {
		return c.endReason.rule, c.endReason.err
	}
	if c.srv.isDraining() {
		return "", c.srv.stopReason.err
	}
	if err := c.srv.acquireSession(c.who().Identity, limit); err != nil {
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

// releaseQuota undoes what addProgram counted of the user's sessions and of the connection's terminals.
func (p *program) releaseQuota() {
	if p.hasTerminal {
		p.conn.clock.terminals.Add(-1)
	}
	p.conn.srv.sessionsPerUser.Release(p.conn.who().UserKey())
}

// markReported removes the program from the connection's live programs, and closes p.reported: the client was
// told how the program ended, or it never ran. connection.end waits for that. Further calls do nothing.
func (p *program) markReported() {
	p.conn.mu.Lock()
	defer p.conn.mu.Unlock()
	if _, ok := p.conn.live[p]; ok {
		close(p.reported)
		delete(p.conn.live, p)
	}
}
