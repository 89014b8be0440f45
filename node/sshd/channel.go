package sshd

import (
	"context"
	"fmt"
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
	// maxCommand bounds the command of an exec request, in bytes; the kernel takes 128 KiB for one argument.
	maxCommand = 120 << 10
	// refusedStatus is the exit status of a program that was refused: the one of shells for a command that
	// was found and may not be run.
	refusedStatus = 126
	// refusalWait is how long the refusal of a subsystem waits for the client to read the message before it.
	refusalWait = time.Second
)

// sessionChannel is the protocol of a session channel (RFC 4254 section 6): it takes the requests that
// prepare a program, then one request to start a program, and then requests to that program. At most one
// program runs on it. Its fields belong to the goroutine of serve, which must not block on the client: a
// request that waits here holds up everything else on the connection. What may block runs on a goroutine of
// pending.
type sessionChannel struct {
	conn     *connection
	ch       ssh.Channel
	messages *messageWriter
	pending  sync.WaitGroup // goroutines that the channel waits for before it closes

	env         process.Env  // the client's variables
	terminal    *pty.Request // nil: none was requested
	agentSocket string       // path of the socket of the client's SSH agent; empty: not requested
	// decided says that a program was started, or refused for good. No other starts on this channel.
	decided bool
	program *program // nil until one was started; it may have ended since
}

func newSessionChannel(c *connection, ch ssh.Channel) *sessionChannel {
	s := &sessionChannel{conn: c, ch: ch, env: process.Env{}}
	s.messages = &messageWriter{ch: ch, pending: &s.pending}
	return s
}

// serve answers every request, first those that came with the opening of the channel, until the client closes
// the channel. Then it ends the program that runs, and waits for it.
func (s *sessionChannel) serve(
	ctx context.Context,
	early []dial.ChannelRequest,
	requests <-chan *ssh.Request,
) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for _, r := range early {
		s.handle(ctx, &ssh.Request{Type: r.Type, Payload: r.Payload})
	}
	for r := range requests {
		s.handle(ctx, r)
	}
	cancel()
	s.pending.Wait()
}

// handle serves one request and replies to it.
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
	switch r.Type { // the requests of which a person notices that they were refused
	case "pty-req", "auth-agent-req@openssh.com", "x11-req":
		s.messages.explain(err, nil)
	}
}

// handleProgram starts the program that a request asks for.
func (s *sessionChannel) handleProgram(ctx context.Context, r *ssh.Request) {
	p, err := s.startProgram(r)
	if err != nil {
		s.refuseProgram(r, err)
		return
	}
	s.decided, s.program = true, p
	_ = r.Reply(true, nil)
	s.pending.Go(func() {
		defer s.conn.srv.recoverPanic(s.conn.origin, s.conn.conn)
		p.runToEnd(ctx)
	})
}

// startProgram takes a program through its phases up to its start.
func (s *sessionChannel) startProgram(r *ssh.Request) (*program, error) {
	key := requestKey{channelRequest, r.Type}
	if r.Type == "subsystem" {
		var m struct{ Name string }
		if err := ssh.Unmarshal(r.Payload, &m); err != nil {
			return nil, malformed(r.Type, err)
		}
		key.name += " " + m.Name
	}
	p := &program{conn: s.conn, ch: s.ch, messages: s.messages}
	if err := p.authorize(key); err != nil {
		return nil, err
	}
	if err := s.specify(p, r); err != nil {
		return nil, err
	}
	if err := p.launch(); err != nil {
		return nil, err
	}
	return p, nil
}

// specify fills in what to run, by the request and by those before it.
func (s *sessionChannel) specify(p *program, r *ssh.Request) error {
	p.spec = process.Spec{
		Kind:       process.Shell,
		Terminal:   s.terminal,
		Env:        s.env,
		Agent:      s.agentSocket,
		ID:         newSessionID(),
		User:       s.conn.who.Name,
		Node:       s.conn.srv.cfg.Identity().Name,
		ClientAddr: s.conn.origin.From,
		LocalAddr:  s.conn.conn.LocalAddr().String(),
	}
	p.hasTerminal = s.terminal != nil
	switch r.Type {
	case "subsystem":
		p.spec.Kind = process.SFTP // authorize knows no other subsystem
		p.spec.Terminal = nil
	case "exec":
		var m struct{ Command string }
		if err := ssh.Unmarshal(r.Payload, &m); err != nil {
			return malformed(r.Type, err)
		}
		if len(m.Command) > maxCommand {
			msg := fmt.Sprintf("the command has %d bytes, more than %d", len(m.Command), maxCommand)
			return fault.New(fault.Invalid, "node", msg, "copy a script to the node and run it")
		}
		p.spec.Kind, p.spec.Command = process.Exec, m.Command
	}
	if s.decided {
		const msg = "this session runs a program already"
		return fault.New(fault.Conflict, "node", msg, "open another session")
	}
	return nil
}

// refuseProgram replies to a request for a program that was refused, and explains why on stderr. Clients
// differ in what of it reaches the person, so it depends on the request:
//
//   - A further program on the channel is only refused: the first one goes on.
//   - The client of a subsystem hangs up on a refusal. So the message goes first and is given time to be
//     read.
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
		s.messages.explained = false // whatever was refused before, this is why nothing runs
		_ = r.Reply(true, nil)
		s.messages.explain(err, func() {
			sendExitStatus(s.ch, process.Exit{Code: refusedStatus})
			_ = s.ch.Close()
		})
	}
}

// awaitClient returns once the client has processed what it was sent so far, or after refusalWait. OpenSSH
// ends at once when a subsystem is refused, and drops a message that arrived at the same moment.
func (s *sessionChannel) awaitClient() {
	answered := make(chan struct{})
	s.pending.Go(func() {
		defer close(answered)
		_, _ = s.ch.SendRequest("keepalive@openssh.com", true, nil) // any answer will do
	})
	timer := time.NewTimer(refusalWait)
	defer timer.Stop()
	select {
	case <-answered:
	case <-timer.C:
	}
}

// handleRequest authorizes a request that starts no program, and does what it asks for.
func (s *sessionChannel) handleRequest(r *ssh.Request) error {
	key := requestKey{channelRequest, r.Type}
	rule, err := s.conn.authorize(key)
	if err != nil {
		if key.needsGrant() {
			s.conn.auditRefusal(rule, key.name, err)
		}
		return err
	}
	switch r.Type {
	case forward.AgentRequest:
		return s.forwardAgent(rule)
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
	return nil // a keepalive
}

// forwardAgent lets the program of the session find the client's SSH agent.
func (s *sessionChannel) forwardAgent(rule string) (err error) {
	if s.decided {
		const msg = "the program of this session was requested already"
		return fault.New(fault.Conflict, "node", msg, "request the agent before the program")
	}
	s.agentSocket, err = s.conn.agentSocket(rule)
	return err
}

// requestTerminal serves a pty request (RFC 4254 section 6.2).
func (s *sessionChannel) requestTerminal(r *ssh.Request) error {
	req, err := pty.ParseRequest(r.Payload)
	if err != nil {
		return malformed(r.Type, err)
	}
	if s.decided || s.terminal != nil {
		const msg = "this session has a terminal, or its program was requested already"
		return fault.New(fault.Conflict, "node", msg, "request the terminal once, before the program")
	}
	s.terminal = &req
	s.messages.rawTerminal = true
	return nil
}

// changeWindow sets the size of the terminal (RFC 4254 section 6.7), also of one whose program has not
// started.
func (s *sessionChannel) changeWindow(r *ssh.Request) error {
	size, err := pty.ParseSize(r.Payload)
	if err != nil {
		return malformed(r.Type, err)
	}
	if s.program != nil {
		return s.program.process.Resize(size)
	}
	if s.terminal != nil {
		s.terminal.Size = size
	}
	return nil
}

// setVariable sets an environment variable of the program (RFC 4254 section 6.4), if clients may set it.
func (s *sessionChannel) setVariable(r *ssh.Request) error {
	var m struct{ Name, Value string }
	if err := ssh.Unmarshal(r.Payload, &m); err != nil {
		return malformed(r.Type, err)
	}
	if s.decided || !s.env.Set(m.Name, m.Value) {
		msg := "the variable " + printable(m.Name) + " is not one that clients may set"
		return fault.New(fault.Denied, "node", msg, "set it on the node")
	}
	return nil
}

// sendSignal delivers a signal to the program (RFC 4254 section 6.9).
func (s *sessionChannel) sendSignal(r *ssh.Request) error {
	var m struct{ Name string }
	if err := ssh.Unmarshal(r.Payload, &m); err != nil {
		return malformed(r.Type, err)
	}
	sig, known := process.ParseSignal(m.Name)
	if !known || s.program == nil {
		const msg = "there is no such signal, or no program to send it to"
		return fault.New(fault.Invalid, "node", msg, "use a signal of RFC 4254")
	}
	return s.program.process.Signal(sig)
}

// sendBreak sends a break to the terminal (RFC 4335). Like OpenSSH it leaves the length to the terminal.
func (s *sessionChannel) sendBreak() error {
	if s.program == nil {
		const msg = "there is no program to send a break to"
		return fault.New(fault.Invalid, "node", msg, "start a shell first")
	}
	return s.program.process.Break()
}

// sendExitStatus sends exit-status or exit-signal (RFC 4254 section 6.10).
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
