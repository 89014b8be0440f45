package tsh

import (
	"context"
	"errors"
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

// session is what tsh ssh does over its connection. app.ssh calls one of three methods: run runs a program,
// forwardStdio connects standard input and output to an address, and keepForwarding only keeps the forwarded
// ports open.
type session struct {
	app     *app
	opts    sshOptions
	client  *sshclient.Client
	remote  *sshclient.Session // the program and its channel; run sets it
	tty     *os.File           // the local terminal whose keys and size the program gets; nil: none
	signals chan os.Signal     // the signals that tsh receives
}

// program returns the request that starts the program: a subsystem with -s, else a command, or a shell if
// command is empty.
func (s *session) program(command string) dial.ChannelRequest {
	switch {
	case s.opts.subsystem:
		return sshclient.SubsystemRequest(command)
	case command == "":
		return sshclient.ShellRequest()
	}
	return sshclient.ExecRequest(command)
}

// run runs a shell, a command or a subsystem on the node until it ends. It requests a terminal (a PTY) for
// the program with -t, and also for a shell if standard input is a terminal, unless -T or -n is given. If it
// requested a PTY and reads from a terminal, it keeps that in raw mode while the program runs, so that every
// key reaches the program.
//
// It returns nil if the program ended with status 0, and an exitStatus if it ended otherwise or a signal
// ended tsh. If the node refuses the program, it prints the node's reason to standard error and returns a
// Denied fault. It returns an Unavailable fault if the connection was lost or the user closed it (~.).
func (s *session) run(ctx context.Context, command string) error {
	a, opts := s.app, s.opts
	stdin, stdinIsTerminal := terminal.File(a.Stdin)
	interactive := stdinIsTerminal && !opts.noInput
	isShell := command == ""
	wantPTY := opts.tty || (isShell && interactive && !opts.noTTY)
	requests := a.envRequests(opts.env)
	if wantPTY {
		if interactive {
			s.tty = stdin
		}
		requests = append(requests, a.ptyRequest(s.tty))
	}
	if opts.agent {
		requests = append(requests, sshclient.AgentRequest())
	}
	remote, err := s.client.OpenSession(requests, s.program(command))
	var refused *sshclient.ProgramRefusedError
	if errors.As(err, &refused) {
		refused.Session.CopyReason(a.Stderr)
		return commandRefused.Wrap(err, "")
	}
	if err != nil {
		return err
	}
	s.remote = remote
	if s.tty != nil {
		// Without raw mode, keys reach the program a line at a time: that is no reason to give up.
		if restore, err := terminal.MakeRaw(s.tty); err == nil {
			defer restore()
		}
	}
	return s.serve(ctx)
}

// serve copies input and output and sends signals and new terminal sizes to the program until it has ended or
// the user has disconnected. It returns how the program ended, as exitError describes it. After a
// disconnection it returns the reason: an exitStatus for a signal, or an Unavailable fault for the escape
// sequence.
func (s *session) serve(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var tasks sync.WaitGroup
	defer tasks.Wait()
	defer cancel()
	if s.tty != nil {
		tasks.Go(func() { terminal.WatchSize(ctx, s.tty, s.remote.Resize) })
	}
	disconnected := make(chan error, 1) // holds the reason of the first disconnect
	disconnect := func(reason error) {
		select {
		case disconnected <- reason:
		default: // a signal and the escape sequence came at once
		}
		_ = s.client.Close()
	}
	tasks.Go(func() { s.forwardSignals(ctx, disconnect) })
	// Reading a terminal cannot be interrupted, so nobody waits for this goroutine: it ends with its input or
	// with the process.
	go s.copyInput(func() {
		disconnect(connectionEscaped.New("", fault.Args{"escape": s.opts.escape + "."}))
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

// copyInput sends standard input to the program. At its end it half-closes the channel, so that the program
// reads the end of its input and can still print. It calls disconnect if the user types the escape sequence
// that ends the connection.
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

// keepForwarding waits until a signal arrives, and returns its exitStatus, or until the connection is lost,
// and returns an Unavailable fault with the node's reason.
func (s *session) keepForwarding() error {
	lost := make(chan error, 1)
	go func() { lost <- s.client.Wait() }() // ends with the connection, which app.ssh closes
	select {
	case sig := <-s.signals:
		return signalExit(sig)
	case <-lost:
		return s.client.LostError()
	}
}

// forwardStdio connects standard input and output to an address that the node reaches (-W). It returns nil
// when the other side has closed the connection, whether or not standard input has ended, and an exitStatus
// when a signal arrives. If the node does not open the connection, it returns a Denied fault with the node's
// reason; if the connection breaks, an Unavailable fault.
func (s *session) forwardStdio(ctx context.Context) error {
	target, err := forward.ParseTarget(s.opts.stdio)
	if err != nil {
		return err
	}
	ch, reqs, err := forward.OpenTo(s.client, target, nil /* tsh itself is the client */)
	if err != nil {
		refusal := sshclient.ChannelRefusal(err)
		return stdioForwardRefused.Wrap(refusal.Err, "", fault.Args{
			"target": s.opts.stdio,
			"why":    refusal.Why,
			"hint":   refusal.HintOr(sshclient.HintAskForRole),
		})
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
		return connectionInterrupted.Wrap(err, "")
	case sig := <-s.signals:
		return signalExit(sig)
	}
}

// drain waits until all forwarded connections have ended, as OpenSSH does, or a signal arrives. The caller
// has closed the listeners, so no connection is added.
func (s *session) drain(ctx context.Context, forwards *forward.Forwarder) {
	open := forwards.Open()
	if open == 0 {
		return
	}
	if !s.opts.quiet {
		const format = "tsh: waiting for forwarded connections to end (%d); Ctrl-C ends them\n"
		fmt.Fprintf(s.app.Stderr, format, open)
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

// maxExitStatus is the largest exit code of a process on this machine: exit codes have 8 bits.
const maxExitStatus = 255

// exitError returns the result of tsh for the end of a program: nil for status 0, an exitStatus for another
// status or a signal, or ErrLost if the node did not report how the program ended.
func exitError(exit sshclient.Exit) error {
	switch {
	case !exit.Received:
		return sshclient.ErrLost
	case exit.Signal != "":
		return exitStatus(128 + signalNumber(exit.Signal))
	case exit.Status == 0:
		return nil
	}
	return exitStatus(min(exit.Status, maxExitStatus)) // so 256 does not become 0
}
