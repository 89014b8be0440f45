package tsh

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/dial"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/tsh/forward"
	"github.com/threshold-access/threshold/tsh/sshclient"
	"github.com/threshold-access/threshold/tsh/terminal"
)

// session is what tsh ssh does over its connection: run a program, connect standard input and output to an
// address, or only forward.
type session struct {
	app     *app
	opts    sshOptions
	client  *sshclient.Client
	remote  *sshclient.Session // set by run
	tty     *os.File           // the local terminal, if the program gets one; else nil
	signals chan os.Signal
}

// program returns the request for the program.
func (s *session) program(command string) dial.ChannelRequest {
	switch {
	case s.opts.subsystem:
		return sshclient.SubsystemRequest(command)
	case command == "":
		return sshclient.ShellRequest()
	}
	return sshclient.ExecRequest(command)
}

// run runs a shell, a command or a subsystem until it ends. It returns nil or the exit status of the program,
// or an error if the node refused the program or the connection was lost. While a local terminal is used, it
// is in raw mode.
func (s *session) run(ctx context.Context, command string) error {
	a, opts := s.app, s.opts
	in, isTerminal := terminal.File(a.Stdin)
	isTerminal = isTerminal && !opts.noInput
	requests := a.envRequests(opts.env)
	if opts.tty || command == "" && isTerminal && !opts.noTTY {
		if isTerminal {
			s.tty = in
		}
		requests = append(requests, a.ptyRequest(s.tty))
	}
	if opts.agent {
		requests = append(requests, sshclient.AgentRequest())
	}
	var err error
	s.remote, err = s.client.OpenSession(requests, s.program(command))
	if s.remote == nil {
		return err
	}
	if err != nil {
		_ = s.remote.CloseWrite()
		_ = s.remote.Close()
		_, _ = s.remote.CopyOutput(io.Discard, a.Stderr) // the node's reason
		msg := "the node refused to run the command"
		return fault.Wrap(err, fault.Denied, "", msg, sshclient.HintAskForRole)
	}
	if s.tty != nil {
		if restore, err := terminal.MakeRaw(s.tty); err == nil {
			defer restore()
		}
	}
	return s.serve(ctx)
}

// serve copies input and output and sends signals and terminal sizes until the program has ended or the user
// has disconnected. It returns the result of the program, or the reason of the disconnection: a signal's exit
// status, or an error for the escape sequence.
func (s *session) serve(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var tasks sync.WaitGroup
	defer tasks.Wait()
	defer cancel()
	if s.tty != nil {
		tasks.Go(func() { terminal.WatchSize(ctx, s.tty, s.remote.Resize) })
	}
	disconnected := make(chan error, 1) // the first reason
	disconnect := func(reason error) {
		select {
		case disconnected <- reason:
		default:
		}
		_ = s.client.Close()
	}
	tasks.Go(func() { s.forwardSignals(ctx, disconnect) })
	// Reading a terminal cannot be interrupted, so nobody waits for this goroutine: it ends with its input or
	// with the process.
	go s.copyInput(func() {
		msg := "the connection was ended by " + s.opts.escape + "."
		disconnect(fault.New(fault.Unavailable, "", msg, "connect again when you like"))
	})
	exit, err := s.remote.CopyOutput(s.app.Stdout, s.app.Stderr)
	select {
	case reason := <-disconnected:
		if s.tty != nil {
			fmt.Fprint(s.app.Stderr, "\r\n") // end the line of the remote prompt
		}
		return reason
	default:
	}
	if err != nil {
		return err
	}
	return exitError(exit)
}

// copyInput sends standard input to the program and then a half-close, so that the program reads the end of
// its input and can still answer. It calls disconnect if the user types the escape sequence for it.
func (s *session) copyInput(disconnect func()) {
	var in io.Reader = s.app.Stdin
	switch {
	case s.opts.noInput:
		in = strings.NewReader("")
	case s.tty != nil && s.opts.escape != "none":
		in = terminal.NewEscapes(in, s.app.Stderr, s.opts.escape[0], disconnect)
	}
	_, _ = io.Copy(s.remote, in)
	_ = s.remote.CloseWrite()
}

// keepForwarding waits until a signal arrives or the connection is lost.
func (s *session) keepForwarding(ctx context.Context) error {
	lost := make(chan error, 1)
	go func() { lost <- s.client.Wait() }() // ends with the connection, which ssh closes
	select {
	case sig := <-s.signals:
		return signalExit(sig)
	case <-lost:
		return s.client.LostError()
	}
}

// forwardStdio connects standard input and output to an address that the node reaches (-W). It returns when
// the other side has closed the connection or a signal arrives.
func (s *session) forwardStdio(ctx context.Context) error {
	to, err := forward.ParseTarget(s.opts.stdio)
	if err != nil {
		return err
	}
	ch, reqs, err := forward.OpenTo(s.client, to, nil)
	if err != nil {
		return sshclient.ChannelRefusedFault(err, "the node refused a connection to "+s.opts.stdio)
	}
	go ssh.DiscardRequests(reqs)
	go func() { // nobody waits, as in serve: reading standard input cannot be interrupted
		_, _ = io.Copy(ch, s.app.Stdin)
		_ = ch.CloseWrite()
	}()
	done := make(chan error, 1)
	go func() { _, err := io.Copy(s.app.Stdout, ch); done <- err }()
	select {
	case err := <-done:
		return fault.Wrap(err, fault.Unavailable, "", "the connection was interrupted", "connect again")
	case sig := <-s.signals:
		return signalExit(sig)
	}
}

// drain waits until all forwarded connections have ended, as OpenSSH does, or a signal arrives.
func (s *session) drain(ctx context.Context, forwards *forward.Forwarder) {
	n := forwards.Open()
	if n == 0 {
		return
	}
	if !s.opts.quiet {
		fmt.Fprintf(s.app.Stderr, "tsh: waiting for forwarded connections to end (%d); Ctrl-C ends them\n", n)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { // ends with ctx
		select {
		case <-s.signals:
			cancel()
		case <-ctx.Done():
		}
	}()
	forwards.Drain(ctx)
}

// exitError returns the result of tsh for the end of a program: nil or an exitStatus, or an error if the node
// reported nothing.
func exitError(e sshclient.Exit) error {
	switch {
	case !e.Received:
		return sshclient.ErrLost
	case e.Signal != "":
		return exitStatus(128 + signalNumber(e.Signal))
	case e.Status == 0:
		return nil
	}
	return exitStatus(min(e.Status, exitConnect)) // exit codes have 8 bits; 256 must not become 0
}
