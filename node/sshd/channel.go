package sshd

import (
	"context"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/dial"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/node/forward"
	"github.com/threshold-access/threshold/node/process"
	"github.com/threshold-access/threshold/node/pty"
)

const (
	// maxCommand bounds the command of an exec request, in bytes. The kernel accepts at most 128 KiB for one
	// argument of a program.
	maxCommand = 120 << 10
	// refusedStatus is the exit status of a program that was refused. Shells use it for a command that exists
	// and may not be run.
	refusedStatus = 126
	// refusalWait bounds how long the refusal of a subsystem waits until the client has read the message that
	// was sent before it.
	refusalWait = time.Second
)

// sessionChannel serves the protocol of one session channel (RFC 4254 section 6). The client first sends
// requests that prepare a program (environment, terminal, SSH agent), then one request that starts a program,
// and then requests that change the program (window size, signals). At most one program runs on a channel.
//
// The fields belong to the goroutine of serve. It must not wait for the client: while it does, the channel's
// requests are not received, and x/crypto then stops reading the whole connection. What may wait for the
// client runs on a goroutine of pending.
type sessionChannel struct {
	conn     *connection
	ch       ssh.Channel
	messages *messageWriter
	pending  sync.WaitGroup // goroutines that the channel waits for before it closes

	env         process.Env  // the variables that the client has set
	terminal    *pty.Request // nil: none was requested
	agentSocket string       // path of the socket of the client's SSH agent; empty: not requested
	// decided says that a program was started, or that the refusal of one has closed the channel. No further
	// program starts.
	decided bool
	program *program // the program that was started; it may have ended since. nil: none was started
}

// newSessionChannel returns the protocol of a channel that was accepted. It starts nothing.
func newSessionChannel(c *connection, ch ssh.Channel) *sessionChannel {
	s := &sessionChannel{conn: c, ch: ch, env: process.Env{}}
	s.messages = &messageWriter{
		ch:          ch,
		pending:     &s.pending,
		readsFaults: c.origin.readsFaults(),
	}
	return s
}

// serve serves every request, first the early ones, then those that arrive, until the client closes the
// channel or the connection is closed. Then it ends the program, and waits for it and for messages that are
// still being written. If ctx ends, the program ends.
func (s *sessionChannel) serve(
	ctx context.Context,
	early []dial.ChannelRequest,
	requests <-chan *ssh.Request,
) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for _, r := range early {
		s.handle(ctx, &ssh.Request{Type: r.Type, Payload: r.Payload}) // they want no reply
	}
	for r := range requests {
		s.handle(ctx, r)
	}
	cancel()
	s.pending.Wait()
}

// handle serves one request and replies to it. If it refuses a request that a user would miss, it also
// explains the refusal on stderr.
func (s *sessionChannel) handle(ctx context.Context, r *ssh.Request) {
	switch r.Type {
	case "shell", "exec", "subsystem":
		s.handleProgram(ctx, r)
		return
	}
	err := s.handleRequest(r)
	_ = r.Reply(err == nil, nil)
	if err == nil {
		return
	}
	switch r.Type {
	case "pty-req", "auth-agent-req@openssh.com", "x11-req":
		s.messages.explain(err, nil)
	}
}

// handleProgram starts the program that a request asks for, or refuses it, and replies. The program then runs
// on a goroutine of pending.
func (s *sessionChannel) handleProgram(ctx context.Context, r *ssh.Request) {
	started, err := s.startProgram(r)
	if err != nil {
		s.refuseProgram(r, err)
		return
	}
	s.decided, s.program = true, started
	_ = r.Reply(true, nil)
	s.pending.Go(func() {
		defer s.conn.srv.recoverPanic(s.conn.origin, s.conn.conn)
		started.runToEnd(ctx)
	})
}

// startProgram makes a program for the request and takes it through the phases up to its start (see program).
// The program that it returns has been started, and the caller must call its runToEnd. The error is a fault
// that says why the program was refused.
func (s *sessionChannel) startProgram(r *ssh.Request) (*program, error) {
	key := requestKey{channelRequest, r.Type}
	if r.Type == "subsystem" {
		var payload struct{ Name string }
		if err := ssh.Unmarshal(r.Payload, &payload); err != nil {
			return nil, malformedFault(r.Type, err)
		}
		key.name += " " + payload.Name
	}
	p := &program{conn: s.conn, ch: s.ch, messages: s.messages}
	p.open = s.conn.track(requirements[key].action)
	started := false
	defer func() {
		if !started { // also after a panic
			p.open.Remove()
		}
	}()
	if err := p.authorize(key); err != nil {
		return nil, err
	}
	if err := s.specify(p, r); err != nil {
		return nil, err
	}
	if err := p.launch(); err != nil {
		return nil, err
	}
	started = true
	return p, nil
}

// specify sets p.spec to what the request asks for, with the environment, terminal and SSH agent of the
// requests before it. p is authorized. The error is a fault: Invalid for a request that cannot be read or is
// too long, Conflict if the channel has had its program.
func (s *sessionChannel) specify(p *program, r *ssh.Request) error {
	p.spec = process.Spec{
		Kind:       process.Shell,
		Terminal:   s.terminal,
		Env:        s.env,
		Agent:      s.agentSocket,
		ID:         newSessionID(),
		User:       s.conn.who().Name,
		Node:       s.conn.srv.cfg.Identity().Name,
		ClientAddr: s.conn.origin.From.String(),
		LocalAddr:  s.conn.conn.LocalAddr().String(),
	}
	p.hasTerminal = s.terminal != nil // also if the program, as sftp, does not get it
	switch r.Type {
	case "subsystem":
		p.spec.Kind = process.SFTP // authorize refuses every other subsystem
		p.spec.Terminal = nil
	case "exec":
		var payload struct{ Command string }
		if err := ssh.Unmarshal(r.Payload, &payload); err != nil {
			return malformedFault(r.Type, err)
		}
		if len(payload.Command) > maxCommand {
			return commandTooLong.New("node", fault.Args{"bytes": len(payload.Command), "most": maxCommand})
		}
		p.spec.Kind, p.spec.Command = process.Exec, payload.Command
	}
	if s.decided {
		return programRunning.New("node")
	}
	return nil
}

// refuseProgram replies to a request for a program that was refused, and explains the error on stderr. It
// does not wait until this is written. Clients differ in whether they show the message after a refusal, so
// the order depends on the request:
//
//   - A further program on the channel is only refused: the first one goes on.
//   - The client of a subsystem closes the connection when it reads the refusal. So the message is sent
//     first, and the refusal when the client has read it.
//   - OpenSSH prints a line of its own after a refused exec or shell request. So the request succeeds, and
//     the "program" prints why and exits with refusedStatus.
func (s *sessionChannel) refuseProgram(r *ssh.Request, err error) {
	switch {
	case s.decided:
		_ = r.Reply(false, nil)
		s.messages.explain(err, nil)
	case r.Type == "subsystem" && r.WantReply:
		s.messages.explain(err, func() {
			s.awaitClient()
			_ = r.Reply(false, nil)
		})
	default:
		s.decided = true
		s.messages.explained = false // this reason is shown even if another refusal was explained before
		_ = r.Reply(true, nil)
		s.messages.explain(err, func() {
			sendExitStatus(s.ch, process.Exit{Code: refusedStatus})
			_ = s.ch.Close()
		})
	}
}

// awaitClient returns when the client has processed what it was sent so far, or after refusalWait: clients
// process messages in order, so its answer to a keepalive comes after that. OpenSSH ends as soon as it reads
// the refusal of a subsystem, and does not print a message that arrived at the same moment.
func (s *sessionChannel) awaitClient() {
	answered := make(chan struct{})
	s.pending.Go(func() {
		defer close(answered)
		_, _ = s.ch.SendRequest("keepalive@openssh.com", true, nil) // a refusal is an answer too
	})
	timer := time.NewTimer(refusalWait)
	defer timer.Stop()
	select {
	case <-answered:
	case <-timer.C:
	}
}

// handleRequest authorizes a request that starts no program, and does what it asks for. The error is a fault
// that says why it was refused or why it failed.
func (s *sessionChannel) handleRequest(r *ssh.Request) error {
	key := requestKey{channelRequest, r.Type}
	var entry *opened
	if key.needsGrant() { // only the client's SSH agent does
		entry = s.conn.track(requirements[key].action)
	}
	rule, err := s.conn.authorize(key)
	if err != nil {
		entry.Remove()
		if key.needsGrant() {
			s.conn.auditRefusal(rule, key.name, err)
		}
		return err
	}
	switch r.Type {
	case forward.AgentRequest:
		return s.forwardAgent(rule, entry)
	case "pty-req":
		return s.requestTerminal(r)
	case "window-change":
		return s.changeWindow(r)
	case "env":
		return s.setVariable(r)
	case "signal":
		return s.sendSignal(r)
	case "break":
		return s.sendBreak()
	}
	return nil // a keepalive: the client only waits for the reply
}

// forwardAgent makes the client's SSH agent available to the program that will start on this channel. The
// entry is the registration of the agent's socket, which forwardAgent removes if it makes none.
func (s *sessionChannel) forwardAgent(rule string, entry *opened) (err error) {
	if s.decided {
		entry.Remove()
		return agentRequestedLate.New("node")
	}
	s.agentSocket, err = s.conn.agentSocket(rule, entry)
	return err
}

// requestTerminal serves a pty request (RFC 4254 section 6.2).
func (s *sessionChannel) requestTerminal(r *ssh.Request) error {
	req, err := pty.ParseRequest(r.Payload)
	if err != nil {
		return malformedFault(r.Type, err)
	}
	if s.decided || s.terminal != nil {
		return terminalRequestedTwice.New("node")
	}
	s.terminal = &req
	s.messages.rawTerminal = true
	return nil
}

// changeWindow sets the size of the terminal (RFC 4254 section 6.7). If the program has not started yet, it
// will start with this size. Without a terminal the request has no effect.
func (s *sessionChannel) changeWindow(r *ssh.Request) error {
	size, err := pty.ParseSize(r.Payload)
	if err != nil {
		return malformedFault(r.Type, err)
	}
	if s.program != nil {
		return s.program.process.Resize(size)
	}
	if s.terminal != nil {
		s.terminal.Size = size
	}
	return nil
}

// setVariable sets an environment variable of the program that will start (RFC 4254 section 6.4). It refuses
// variables that process.Env does not accept from clients, and all of them after the program was requested.
func (s *sessionChannel) setVariable(r *ssh.Request) error {
	var variable struct{ Name, Value string }
	if err := ssh.Unmarshal(r.Payload, &variable); err != nil {
		return malformedFault(r.Type, err)
	}
	if s.decided || !s.env.Set(variable.Name, variable.Value) {
		return variableRefused.New("node", fault.Args{"variable": printable(variable.Name)})
	}
	return nil
}

// sendSignal delivers a signal to the program (RFC 4254 section 6.9).
func (s *sessionChannel) sendSignal(r *ssh.Request) error {
	var payload struct{ Name string }
	if err := ssh.Unmarshal(r.Payload, &payload); err != nil {
		return malformedFault(r.Type, err)
	}
	sig, known := process.ParseSignal(payload.Name)
	if !known || s.program == nil {
		return signalUnknown.New("node")
	}
	return s.program.process.Signal(sig)
}

// sendBreak sends a break to the program's terminal (RFC 4335). Like OpenSSH it ignores the length that the
// client asks for.
func (s *sessionChannel) sendBreak() error {
	if s.program == nil {
		return programNone.New("node")
	}
	return s.program.process.Break()
}

// sendExitStatus tells the client how a program ended: exit-signal if a signal ended it, otherwise
// exit-status (RFC 4254 section 6.10).
func sendExitStatus(ch ssh.Channel, e process.Exit) {
	if e.Signal == "" {
		status := struct{ Status uint32 }{uint32(e.Code)}
		_, _ = ch.SendRequest("exit-status", false, ssh.Marshal(status))
		return
	}
	signal := struct {
		Signal     string
		CoreDumped bool
		Message    string
		Language   string
	}{e.Signal, e.CoreDumped, "", ""}
	_, _ = ch.SendRequest("exit-signal", false, ssh.Marshal(signal))
}
