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
	"github.com/threshold-access/threshold/node/forward"
	"github.com/threshold-access/threshold/node/pty"
	"github.com/threshold-access/threshold/node/session"
)

const (
	// maxCommand bounds the command of an exec request; the kernel takes 128 kB for one argument.
	maxCommand = 120 << 10
	// refusedStatus is the exit status of a command that was refused: what shells use for "found, and may not be run".
	refusedStatus = 126
)

// talk is one session channel: requests first, then one program.
type talk struct {
	conn  *connection
	ch    ssh.Channel
	env   session.Env
	term  *pty.Request
	agent string           // path of the socket by which programs reach the client's agent; empty: none
	proc  *session.Process // nil until something runs
	done  bool             // something ran, or was refused: nothing else starts on this channel
	told  bool             // a refusal was put into words, which is done once

	running    sync.WaitGroup // what still has bytes to move when the channel closes
	announcing sync.Mutex     // held while a line is on its way to the terminal
	speaking   sync.Mutex     // held while words of ours go out, and by who ends the output: the library leaves that to its callers
	silent     bool           // the output has ended; guarded by speaking
}

// serve answers every request, first those that came with the channel's opening, until the client closes the channel, and ends what
// runs then.
func (t *talk) serve(ctx context.Context, asked []dial.Asked, reqs <-chan *ssh.Request) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for _, a := range asked {
		t.handle(ctx, &ssh.Request{Type: a.Type, Payload: a.Payload})
	}
	for r := range reqs {
		t.handle(ctx, r)
	}
	cancel()
	t.running.Wait()
}

func (t *talk) handle(ctx context.Context, r *ssh.Request) {
	start, err := t.request(r)
	if err == nil && start != nil {
		err = t.start(start)
	}
	t.answer(r, err)
	if err == nil && start != nil {
		t.attend(ctx, start)
	}
}

// request authorises one request and takes in what it says. It returns what to start, if anything.
func (t *talk) request(r *ssh.Request) (*starting, error) {
	d := door{atSession, r.Type}
	var sub struct{ Name string }
	if r.Type == "subsystem" {
		if err := ssh.Unmarshal(r.Payload, &sub); err != nil {
			return nil, malformed(r.Type, err)
		}
		d.name += " " + sub.Name
	}
	rule, err := t.conn.authorize(d)
	if err != nil {
		if doors[d].needs != "" {
			t.conn.refused(rule, d.name, err)
		}
		return nil, err
	}
	switch r.Type {
	case "shell":
		return t.starting(rule, session.Shell, "")
	case "subsystem":
		return t.starting(rule, session.SFTP, "")
	case "exec":
		var m struct{ Command string }
		if err := ssh.Unmarshal(r.Payload, &m); err != nil {
			return nil, malformed(r.Type, err)
		}
		if len(m.Command) > maxCommand {
			return nil, fault.New(fault.Invalid, "node", fmt.Sprintf("the command has %d bytes, more than %d", len(m.Command), maxCommand), "copy a script and run that")
		}
		return t.starting(rule, session.Exec, m.Command)
	case forward.AskAgent:
		return nil, t.forwardAgent(rule)
	}
	return nil, t.detail(r)
}

// forwardAgent has the session's program find the client's agent.
func (t *talk) forwardAgent(rule string) (err error) {
	if t.done {
		return fault.New(fault.Conflict, "node", "this session has begun", "ask for the agent first")
	}
	t.agent, err = t.conn.askAgent(rule)
	return err
}

// detail handles the requests that are part of a session.
func (t *talk) detail(r *ssh.Request) error {
	switch r.Type {
	case "pty-req":
		req, err := pty.ParseRequest(r.Payload)
		if err != nil {
			return malformed(r.Type, err)
		}
		if t.done || t.term != nil {
			return fault.New(fault.Conflict, "node", "this session has begun, or has a terminal", "ask for the terminal first, and once")
		}
		t.term = &req
	case "window-change":
		size, err := pty.ParseSize(r.Payload)
		if err != nil {
			return malformed(r.Type, err)
		}
		if t.proc != nil {
			return t.proc.Resize(size)
		}
		if t.term != nil {
			t.term.Size = size
		}
	case "env":
		var m struct{ Name, Value string }
		if err := ssh.Unmarshal(r.Payload, &m); err != nil {
			return malformed(r.Type, err)
		}
		if t.done || !t.env.Set(m.Name, m.Value) {
			return fault.New(fault.Denied, "node", "the variable "+shown(m.Name)+" is not one that clients may set", "set it on the node")
		}
	case "signal":
		var m struct{ Name string }
		if err := ssh.Unmarshal(r.Payload, &m); err != nil {
			return malformed(r.Type, err)
		}
		sig, known := session.SignalNamed(m.Name)
		if !known || t.proc == nil {
			return fault.New(fault.Invalid, "node", "no such signal, or nothing to send it to", "use a signal of RFC 4254")
		}
		return t.proc.Signal(sig)
	case "break": // RFC 4335; its length is the terminal's own affair, as with OpenSSH
		if t.proc == nil {
			return fault.New(fault.Invalid, "node", "nothing runs that a break could be sent to", "start a shell first")
		}
		return t.proc.Break()
	}
	return nil
}

func malformed(what string, err error) error {
	return fault.Wrap(err, fault.Invalid, "node", "the request "+what+" could not be read", "update the SSH client")
}

// starting is a program that was allowed.
type starting struct {
	rule string
	spec session.Spec
}

func (t *talk) starting(rule string, kind session.Kind, command string) (*starting, error) {
	if t.done {
		return nil, fault.New(fault.Conflict, "node", "this session runs a program already", "open another session")
	}
	c := t.conn
	return &starting{rule, session.Spec{Kind: kind, Command: command, Terminal: t.term, Env: t.env, Agent: t.agent, ID: newSessionID(), User: c.who.Name,
		Node: c.srv.cfg.Identity().Name, From: c.visit.from, At: c.conn.LocalAddr().String()}}, nil
}

// start makes the session's start durable, and only then starts the program.
func (t *talk) start(st *starting) error {
	c := t.conn
	if st.spec.Kind == session.SFTP {
		st.spec.Terminal = nil
	}
	acc, err := c.srv.cfg.Accounts.Admit(c.login)
	if err != nil {
		c.refused(st.rule, string(st.spec.Kind), err)
		return err
	}
	if rule, err := c.begin(t); err != nil {
		c.refused(rule, string(st.spec.Kind), err)
		return err
	}
	running := false
	defer func() {
		if !running { // it was refused, has failed, or met a defect
			c.free(t)
			c.part(t)
		}
	}()
	if err := c.srv.cfg.Record(t.event(audit.SessionStarted, st)); err != nil {
		c.refused(st.rule, string(st.spec.Kind), err)
		return err
	}
	if t.proc, err = c.srv.cfg.Accounts.Start(acc, st.spec); err != nil {
		t.ended(st, session.Exit{Code: refusedStatus}, err)
		return err
	}
	running = true
	return nil
}

func (t *talk) event(code audit.Code, st *starting) audit.Event {
	c := t.conn
	e := c.srv.event(code, c.visit, c.who.Identity, c.login, st.rule)
	e.Session = st.spec.ID
	e.Fields = map[string]string{"kind": string(st.spec.Kind), "by": c.visit.by}
	if st.spec.Kind == session.Exec {
		e.Fields["command"] = audit.Cut(clean(st.spec.Command))
	}
	if st.spec.Terminal != nil {
		e.Fields["terminal"] = "yes"
	}
	return e
}

// answer replies to a request, and where a person waits for a program that was refused, says why on stderr. It waits for nobody to
// read that: requests that pile up here would hold up everything else on the connection, its end included.
func (t *talk) answer(r *ssh.Request, err error) {
	program := r.Type == "shell" || r.Type == "exec" || r.Type == "subsystem"
	if err == nil {
		t.done = t.done || program
		_ = r.Reply(true, nil)
		return
	}
	switch {
	case t.done || !program:
		_ = r.Reply(false, nil)
		if program || r.Type == "pty-req" || r.Type == "auth-agent-req@openssh.com" || r.Type == "x11-req" {
			t.tell(err, func() {})
		}
	case r.Type == "subsystem" && r.WantReply: // its client hangs up on the refusal
		t.tell(err, func() {
			t.await()
			_ = r.Reply(false, nil)
		})
	default: // a refused request would make OpenSSH print its own words after ours; a program that says why and ends does not
		t.done, t.told = true, false // whatever was refused before, this is why nothing runs
		_ = r.Reply(true, nil)
		t.tell(err, func() {
			t.status(session.Exit{Code: refusedStatus})
			_ = t.ch.Close()
		})
	}
}

// tell puts the first refusal of the channel into words on stderr, and calls then.
func (t *talk) tell(err error, then func()) {
	say := !t.told
	t.told = true
	newline := t.newline()
	t.running.Go(func() {
		if say {
			t.say(words(err, newline))
		}
		then()
	})
}

// say puts words on stderr, unless the output has ended.
func (t *talk) say(text string) {
	t.speaking.Lock()
	defer t.speaking.Unlock()
	if !t.silent {
		_, _ = t.ch.Stderr().Write([]byte(text))
	}
}

// hush ends the output. While words are still on their way it does not, for a client that takes no output: the end of the channel, which
// comes next, tells the same (RFC 4254 section 5.3).
func (t *talk) hush() {
	if t.speaking.TryLock() {
		t.silent = true
		_ = t.ch.CloseWrite()
		t.speaking.Unlock()
	}
}

// patience is how long a refusal waits for the client to have read the words before it.
const patience = time.Second

// await returns once the client has dealt with what it was sent so far: OpenSSH ends at once when a subsystem is refused, with words that
// came in the same moment unread. A client that does not answer is waited for no longer than patience.
func (t *talk) await() {
	answered := make(chan struct{})
	t.running.Go(func() {
		defer close(answered)
		_, _ = t.ch.SendRequest("keepalive@openssh.com", true, nil) // refused as unknown, or the channel is gone
	})
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-answered:
	case <-timer.C:
	}
}

// newline ends a line on the client's terminal, which is raw if there is one here.
func (t *talk) newline() string {
	if t.term != nil {
		return "\r\n"
	}
	return "\n"
}

// line begins a line of its own: on a terminal something may stand before the cursor.
func (t *talk) line() string {
	if t.term != nil {
		return "\r\n"
	}
	return ""
}

// announce puts a line on the terminal, unless the one before is still waiting for a client that takes no output.
func (t *talk) announce(line string) {
	if !t.announcing.TryLock() {
		return
	}
	t.running.Go(func() {
		defer t.announcing.Unlock()
		t.say(t.line() + clean(line) + t.newline())
	})
}

// attend moves the program's bytes until it has ended, and tells the client and the audit log how.
func (t *talk) attend(ctx context.Context, st *starting) {
	t.running.Go(func() {
		defer t.conn.srv.rescue(t.conn.visit, t.conn.conn)
		exit, why := t.see(ctx)
		t.ended(st, exit, why) // after the person has their prompt back: making it durable takes a while
	})
}

// see stays with the program to its end and tells the client. Where the node ended it, the person reads why.
func (t *talk) see(ctx context.Context) (exit session.Exit, why error) {
	defer t.conn.part(t)
	exit = t.run(ctx)
	if end := endingOf(ctx); end != nil {
		exit.Code, exit.Signal, why = endedStatus, "", end
		_, _ = t.ch.Stderr().Write([]byte(t.line() + words(end.err, t.newline())))
	}
	// The status goes before the end of the output: a client that sees that end may close the channel at once, and then hears no more.
	t.status(exit)
	t.hush()
	_ = t.ch.Close()
	return exit, why
}

func (t *talk) run(ctx context.Context) session.Exit {
	defer t.conn.free(t)
	return t.proc.Run(ctx, session.Streams{In: heard{t.ch, t.conn.leash.typed}, Out: t.ch, Err: t.ch.Stderr()})
}

// ended records the end. It cannot be refused any more, so what goes wrong is logged.
func (t *talk) ended(st *starting, exit session.Exit, err error) {
	e := t.event(audit.SessionEnded, st)
	delete(e.Fields, "command")
	e.Fields["bytes_in"], e.Fields["bytes_out"] = strconv.FormatInt(exit.In, 10), strconv.FormatInt(exit.Out, 10)
	if exit.Signal != "" {
		e.Fields["signal"] = exit.Signal
	} else {
		e.Fields["status"] = strconv.Itoa(exit.Code)
	}
	if err != nil {
		e.Reason = audit.Cut(clean(fault.Message(err)))
	}
	var end *ending
	if errors.As(err, &end) {
		e.Fields["ended_by"] = end.by
	}
	if err := t.conn.srv.cfg.Record(e); err != nil {
		t.conn.srv.cfg.Log.Error("the end of a session could not be recorded", "session", st.spec.ID, "err", err)
	}
}

// status sends exit-status or exit-signal (RFC 4254 section 6.10).
func (t *talk) status(e session.Exit) {
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
