package sshd

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/dial"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/sshprofile"
	"github.com/threshold-access/threshold/node/forward"
	"github.com/threshold-access/threshold/node/process"
	"github.com/threshold-access/threshold/node/pty"
)

const (
	// maxCommand bounds the command of an exec request; the kernel takes 128 kB for one argument.
	maxCommand = 120 << 10
	// refusedStatus is the exit status of a command that was refused: what shells use for "found, and may not
	// be run".
	refusedStatus = 126
)

// sessionChannel is one session channel: requests first, then one program.
type sessionChannel struct {
	conn      *connection
	ch        ssh.Channel
	env       process.Env
	terminal  *pty.Request
	agentPath string           // path of the socket by which programs reach the client's agent; empty: none
	process   *process.Process // nil until something runs
	decided   bool             // something ran, or was refused: nothing else starts on this channel
	explained bool             // a refusal was put into words, which is done once

	pending      sync.WaitGroup // what still has bytes to move when the channel closes
	announceMu   sync.Mutex     // held while a line is on its way to the terminal
	outputMu     sync.Mutex     // held while words of ours go out, and by who ends the output: the library leaves that to its callers
	outputClosed bool           // the output has ended; guarded by speaking
}

// serve answers every request, first those that came with the channel's opening, until the client closes the
// channel, and ends what runs then.
func (t *sessionChannel) serve(ctx context.Context, asked []dial.ChannelRequest, reqs <-chan *ssh.Request) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for _, a := range asked {
		t.handle(ctx, &ssh.Request{Type: a.Type, Payload: a.Payload})
	}
	for r := range reqs {
		t.handle(ctx, r)
	}
	cancel()
	t.pending.Wait()
}

func (t *sessionChannel) handle(ctx context.Context, r *ssh.Request) {
	start, err := t.handleRequest(r)
	if err == nil && start != nil {
		err = t.startProgram(start)
	}
	t.reply(r, err)
	if err == nil && start != nil {
		t.superviseProgram(ctx, start)
	}
}

// handleRequest authorises one request and takes in what it says. It returns what to start, if anything.
func (t *sessionChannel) handleRequest(r *ssh.Request) (*program, error) {
	d := requestKey{channelRequest, r.Type}
	var sub struct{ Name string }
	if r.Type == "subsystem" {
		if err := ssh.Unmarshal(r.Payload, &sub); err != nil {
			return nil, malformed(r.Type, err)
		}
		d.name += " " + sub.Name
	}
	rule, err := t.conn.authorize(d)
	if err != nil {
		if d.needsGrant() {
			t.conn.auditRefusal(rule, d.name, err)
		}
		return nil, err
	}
	switch r.Type {
	case "shell":
		return t.newProgram(rule, process.Shell, "")
	case "subsystem":
		return t.newProgram(rule, process.SFTP, "")
	case "exec":
		var m struct{ Command string }
		if err := ssh.Unmarshal(r.Payload, &m); err != nil {
			return nil, malformed(r.Type, err)
		}
		if len(m.Command) > maxCommand {
			return nil, fault.New(
				fault.Invalid,
				"node",
				fmt.Sprintf("the command has %d bytes, more than %d", len(m.Command), maxCommand),
				"copy a script and run that",
			)
		}
		return t.newProgram(rule, process.Exec, m.Command)
	case forward.AgentRequest:
		return nil, t.forwardAgent(rule)
	}
	return nil, t.handleDetail(r)
}

// forwardAgent has the session's program find the client's agent.
func (t *sessionChannel) forwardAgent(rule string) (err error) {
	if t.decided {
		return fault.New(fault.Conflict, "node", "this session has begun", "ask for the agent first")
	}
	t.agentPath, err = t.conn.agentSocket(rule)
	return err
}

// handleDetail handles the requests that are part of a session.
func (t *sessionChannel) handleDetail(r *ssh.Request) error {
	switch r.Type {
	case "pty-req":
		req, err := pty.ParseRequest(r.Payload)
		if err != nil {
			return malformed(r.Type, err)
		}
		if t.decided || t.terminal != nil {
			return fault.New(
				fault.Conflict,
				"node",
				"this session has begun, or has a terminal",
				"ask for the terminal first, and once",
			)
		}
		t.terminal = &req
	case "window-change":
		size, err := pty.ParseSize(r.Payload)
		if err != nil {
			return malformed(r.Type, err)
		}
		if t.process != nil {
			return t.process.Resize(size)
		}
		if t.terminal != nil {
			t.terminal.Size = size
		}
	case "env":
		var m struct{ Name, Value string }
		if err := ssh.Unmarshal(r.Payload, &m); err != nil {
			return malformed(r.Type, err)
		}
		if t.decided || !t.env.Set(m.Name, m.Value) {
			return fault.New(
				fault.Denied,
				"node",
				"the variable "+printable(m.Name)+" is not one that clients may set",
				"set it on the node",
			)
		}
	case "signal":
		var m struct{ Name string }
		if err := ssh.Unmarshal(r.Payload, &m); err != nil {
			return malformed(r.Type, err)
		}
		sig, known := process.ParseSignal(m.Name)
		if !known || t.process == nil {
			return fault.New(
				fault.Invalid,
				"node",
				"no such signal, or nothing to send it to",
				"use a signal of RFC 4254",
			)
		}
		return t.process.Signal(sig)
	case "break": // RFC 4335; its length is the terminal's own affair, as with OpenSSH
		if t.process == nil {
			return fault.New(
				fault.Invalid,
				"node",
				"nothing runs that a break could be sent to",
				"start a shell first",
			)
		}
		return t.process.Break()
	}
	return nil
}

// program is a program that was allowed.
type program struct {
	rule string
	spec process.Spec
}

func (t *sessionChannel) newProgram(rule string, kind process.Kind, command string) (*program, error) {
	if t.decided {
		return nil, fault.New(
			fault.Conflict,
			"node",
			"this session runs a program already",
			"open another session",
		)
	}
	c := t.conn
	return &program{
		rule,
		process.Spec{
			Kind:       kind,
			Command:    command,
			Terminal:   t.terminal,
			Env:        t.env,
			Agent:      t.agentPath,
			ID:         newSessionID(),
			User:       c.who.Name,
			Node:       c.srv.cfg.Identity().Name,
			ClientAddr: c.origin.From,
			LocalAddr:  c.conn.LocalAddr().String(),
		},
	}, nil
}

// startProgram makes the session's start durable, and only then starts the program.
func (t *sessionChannel) startProgram(st *program) error {
	c := t.conn
	if st.spec.Kind == process.SFTP {
		st.spec.Terminal = nil
	}
	acc, err := c.srv.cfg.Accounts.Admit(c.login)
	if err != nil {
		c.auditRefusal(st.rule, string(st.spec.Kind), err)
		return err
	}
	if rule, err := c.admitProgram(t); err != nil {
		c.auditRefusal(rule, string(st.spec.Kind), err)
		return err
	}
	running := false
	defer func() {
		if !running { // it was refused, has failed, or met a defect
			c.releaseQuota(t)
			c.removeLive(t)
		}
	}()
	if err := c.srv.cfg.Audit(t.newEvent(audit.SessionStarted, st)); err != nil {
		c.auditRefusal(st.rule, string(st.spec.Kind), err)
		return err
	}
	if t.process, err = process.Start(c.srv.cfg.Accounts, acc, st.spec); err != nil {
		t.auditEnd(st, process.Exit{Code: refusedStatus}, err)
		return err
	}
	running = true
	return nil
}

func (t *sessionChannel) newEvent(code audit.Code, st *program) audit.Event {
	c := t.conn
	e := c.newEvent(code, st.rule)
	e.Session = st.spec.ID
	e.Fields = map[string]string{"kind": string(st.spec.Kind), "by": c.origin.Protocol}
	if st.spec.Kind == process.Exec {
		e.Fields["command"] = audit.Truncate(sshprofile.Clean(st.spec.Command))
	}
	if st.spec.Terminal != nil {
		e.Fields["terminal"] = "yes"
	}
	return e
}

// reply replies to a request, and where a person waits for a program that was refused, says why on stderr. It
// waits for nobody to read that: requests that pile up here would hold up everything else on the connection,
// its end included.
func (t *sessionChannel) reply(r *ssh.Request, err error) {
	program := r.Type == "shell" || r.Type == "exec" || r.Type == "subsystem"
	if err == nil {
		t.decided = t.decided || program
		_ = r.Reply(true, nil)
		return
	}
	switch {
	case t.decided || !program:
		_ = r.Reply(false, nil)
		if program || r.Type == "pty-req" || r.Type == "auth-agent-req@openssh.com" || r.Type == "x11-req" {
			t.explain(err, func() {})
		}
	case r.Type == "subsystem" && r.WantReply: // its client hangs up on the refusal
		t.explain(err, func() {
			t.awaitClient()
			_ = r.Reply(false, nil)
		})
	default: // a refused request would make OpenSSH print its own words after ours; a program that says why and ends does not
		t.decided, t.explained = true, false // whatever was refused before, this is why nothing runs
		_ = r.Reply(true, nil)
		t.explain(err, func() {
			t.sendExitStatus(process.Exit{Code: refusedStatus})
			_ = t.ch.Close()
		})
	}
}

// explain puts the first refusal of the channel into words on stderr, and calls then.
func (t *sessionChannel) explain(err error, then func()) {
	say := !t.explained
	t.explained = true
	newline := t.lineEnd()
	t.pending.Go(func() {
		if say {
			t.writeStderr(sshprofile.Message(err, newline))
		}
		then()
	})
}

// writeStderr puts words on stderr, unless the output has ended.
func (t *sessionChannel) writeStderr(text string) {
	t.outputMu.Lock()
	defer t.outputMu.Unlock()
	if !t.outputClosed {
		_, _ = t.ch.Stderr().Write([]byte(text))
	}
}

// closeOutput ends the output. While words are still on their way it does not, for a client that takes no
// output: the end of the channel, which comes next, tells the same (RFC 4254 section 5.3).
func (t *sessionChannel) closeOutput() {
	if t.outputMu.TryLock() {
		t.outputClosed = true
		_ = t.ch.CloseWrite()
		t.outputMu.Unlock()
	}
}

// refusalWait is how long a refusal waits for the client to have read the words before it.
const refusalWait = time.Second

// awaitClient returns once the client has dealt with what it was sent so far: OpenSSH ends at once when a
// subsystem is refused, with words that came in the same moment unread. A client that does not answer is
// waited for no longer than patience.
func (t *sessionChannel) awaitClient() {
	answered := make(chan struct{})
	t.pending.Go(func() {
		defer close(answered)
		_, _ = t.ch.SendRequest(
			"keepalive@openssh.com",
			true,
			nil,
		) // refused as unknown, or the channel is gone
	})
	timer := time.NewTimer(refusalWait)
	defer timer.Stop()
	select {
	case <-answered:
	case <-timer.C:
	}
}

// lineEnd ends a line on the client's terminal, which is raw if there is one here.
func (t *sessionChannel) lineEnd() string {
	if t.terminal != nil {
		return "\r\n"
	}
	return "\n"
}

// lineStart begins a line of its own: on a terminal something may stand before the cursor.
func (t *sessionChannel) lineStart() string {
	if t.terminal != nil {
		return "\r\n"
	}
	return ""
}

// announce puts a line on the terminal, unless the one before is still waiting for a client that takes no
// output.
func (t *sessionChannel) announce(line string) {
	if !t.announceMu.TryLock() {
		return
	}
	t.pending.Go(func() {
		defer t.announceMu.Unlock()
		t.writeStderr(t.lineStart() + sshprofile.Clean(line) + t.lineEnd())
	})
}

// superviseProgram moves the program's bytes until it has ended, and tells the client and the audit log how.
func (t *sessionChannel) superviseProgram(ctx context.Context, st *program) {
	t.pending.Go(func() {
		defer t.conn.srv.recoverPanic(t.conn.origin, t.conn.conn)
		exit, why := t.awaitExit(ctx)
		t.auditEnd(st, exit, why) // after the person has their prompt back: making it durable takes a while
	})
}

// awaitExit stays with the program to its end and tells the client. Where the node ended it, the person reads
// why.
func (t *sessionChannel) awaitExit(ctx context.Context) (exit process.Exit, why error) {
	defer t.conn.removeLive(t)
	exit = t.runProcess(ctx)
	if end := endReasonOf(ctx); end != nil {
		exit.Code, exit.Signal, why = endedStatus, "", end
		_, _ = t.ch.Stderr().Write([]byte(t.lineStart() + sshprofile.Message(end.err, t.lineEnd())))
	}
	// The status goes before the end of the output: a client that sees that end may close the channel at
	// once, and then hears no more.
	t.sendExitStatus(exit)
	t.closeOutput()
	_ = t.ch.Close()
	return exit, why
}

func (t *sessionChannel) runProcess(ctx context.Context) process.Exit {
	defer t.conn.releaseQuota(t)
	return t.process.Run(
		ctx,
		process.Streams{In: activityReader{t.ch, t.conn.clock.markActive}, Out: t.ch, Err: t.ch.Stderr()},
	)
}

// auditEnd records the end. It cannot be refused any more, so what goes wrong is logged.
func (t *sessionChannel) auditEnd(st *program, exit process.Exit, err error) {
	e := t.newEvent(audit.SessionEnded, st)
	delete(e.Fields, "command")
	e.Fields["bytes_in"], e.Fields["bytes_out"] = strconv.FormatInt(
		exit.In,
		10,
	), strconv.FormatInt(
		exit.Out,
		10,
	)
	if exit.Signal != "" {
		e.Fields["signal"] = exit.Signal
	} else {
		e.Fields["status"] = strconv.Itoa(exit.Code)
	}
	if err != nil {
		e.Reason = audit.Truncate(sshprofile.Clean(fault.Message(err)))
	}
	var end *endReason
	if errors.As(err, &end) {
		e.Fields["ended_by"] = end.cause
	}
	if err := t.conn.srv.cfg.Audit(e); err != nil {
		t.conn.srv.cfg.Log.Error(
			"the end of a session could not be recorded",
			"session",
			st.spec.ID,
			"err",
			err,
		)
	}
}

// sendExitStatus sends exit-status or exit-signal (RFC 4254 section 6.10).
func (t *sessionChannel) sendExitStatus(e process.Exit) {
	if e.Signal == "" {
		_, _ = t.ch.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{uint32(e.Code)}))
		return
	}
	_, _ = t.ch.SendRequest("exit-signal", false, ssh.Marshal(struct {
		Signal     string
		CoreDumped bool
		Message    string
		Language   string
	}{e.Signal, e.CoreDumped, "", ""}))
}
