package tsh

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"sync"

	"github.com/spf13/cobra"
	"golang.org/x/crypto/ssh"
	"golang.org/x/term"

	"github.com/threshold-access/threshold/internal/fault"
)

// sshOptions are the flags of tsh ssh.
type sshOptions struct {
	login           string
	tty, noTTY, log bool
}

func (a *app) sshCmd() *cobra.Command {
	var o sshOptions
	c := &cobra.Command{
		Use:     "ssh [LOGIN@]NODE [COMMAND…]",
		Short:   "Open a shell on a node, or run a command there",
		GroupID: everyday,
		Long: `Open a shell on a node, or run a command there. The exit code is the command's own; 255 if it could not be run.
In a terminal, a line that begins with ~. ends the connection; ~? lists such escapes.`,
		Example: `  tsh ssh web-1
  tsh ssh ubuntu@web-1 uptime
  tsh ssh -t web-1 top`,
		Args:              needs(1, -1, "a node: tsh ssh [LOGIN@]NODE"),
		ValidArgsFunction: a.completeNode("", true),
		RunE:              func(c *cobra.Command, args []string) error { return a.runSSH(c.Context(), o, args[0], args[1:]) },
	}
	f := c.Flags()
	f.SetInterspersed(false) // what follows the node is the command, flags and all
	f.StringVarP(&o.login, "login", "l", "", "`LOGIN` on the node")
	f.BoolVarP(&o.tty, "tty", "t", false, "a terminal for the command too")
	f.BoolVarP(&o.noTTY, "no-tty", "T", false, "no terminal")
	f.BoolVarP(&o.log, "verbose", "v", false, "say what is done")
	return c
}

func (a *app) runSSH(ctx context.Context, o sshOptions, dest string, command []string) error {
	if o.tty && o.noTTY {
		return fault.New(fault.Invalid, "", "-t and -T contradict each other", "give one of them, or none")
	}
	d, err := parseDestination(dest, o.login)
	if err != nil {
		return err
	}
	if len(command) > 0 && strings.HasPrefix(command[0], "-") && command[0] != "--" {
		return fault.New(fault.Invalid, "", fmt.Sprintf("%s stands after the node, where the command begins", command[0]), "write flags before the node: tsh ssh [FLAGS] NODE [COMMAND…]")
	}
	return a.ssh(ctx, o, d, command)
}

func (a *app) ssh(ctx context.Context, o sshOptions, d destinationOf, command []string) error {
	p, err := a.login()
	if err != nil {
		return err
	}
	if o.log {
		fmt.Fprintf(a.Stderr, "tsh: %s of %s by way of %s, certificate until %s\n", clean(p.User), p.Cluster, p.Proxy, p.Expires.Local().Format("15:04"))
	}
	client, err := a.connect(ctx, p, d)
	if err != nil {
		return err
	}
	if o.log {
		fmt.Fprintf(a.Stderr, "tsh: connected as %s, server %s\n", client.User(), clean(string(client.ServerVersion())))
	}
	// From here on signals are for the remote command, and the connection ends with it.
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var tasks sync.WaitGroup
	tasks.Go(func() { keepalive(ctx, client) })
	defer tasks.Wait()
	defer cancel()
	defer client.Close()
	if len(command) > 0 && command[0] == "--" {
		command = command[1:]
	}
	return a.runSession(ctx, o, client, strings.Join(command, " "))
}

// session is a running shell or command.
type session struct {
	*ssh.Session
	client  *ssh.Client
	stdin   io.WriteCloser
	in      *os.File // the terminal, if there is one
	signals chan os.Signal
}

func (a *app) runSession(ctx context.Context, o sshOptions, client *ssh.Client, command string) error {
	inner, err := client.NewSession()
	if err != nil {
		return refusedBy(err, "the node opens no session")
	}
	defer inner.Close()
	s := &session{Session: inner, client: client}
	s.Stdout, s.Stderr = a.Stdout, a.Stderr
	if s.stdin, err = inner.StdinPipe(); err != nil {
		return fmt.Errorf("session input: %w", err)
	}
	a.sendEnv(inner)
	in, isTerminal := terminal(a.Stdin)
	withTTY := o.tty || command == "" && isTerminal && !o.noTTY
	if withTTY {
		if isTerminal {
			s.in = in
		}
		if err := a.requestPTY(s); err != nil {
			return err
		}
	}
	s.signals = make(chan os.Signal, 4)
	signal.Notify(s.signals, forwarded...) // before the start: no signal for the command gets lost
	defer signal.Stop(s.signals)
	if err := start(inner, command); err != nil {
		return err
	}
	if s.in != nil {
		old, err := term.MakeRaw(int(s.in.Fd()))
		if err == nil {
			defer func() { _ = term.Restore(int(s.in.Fd()), old) }()
		}
	}
	return a.serve(ctx, s, withTTY)
}

// serve moves bytes, sizes and signals until the remote command ends.
func (a *app) serve(ctx context.Context, s *session, withTTY bool) error {
	ctx, cancel := context.WithCancel(ctx)
	var tasks sync.WaitGroup
	defer tasks.Wait()
	defer cancel()
	if s.in != nil {
		tasks.Go(func() { s.followSize(ctx) })
	}
	tasks.Go(func() { s.forwardSignals(ctx) })

	escaped := make(chan struct{})
	go func() { // a read from a terminal cannot be interrupted: this ends with the process, or with its input
		var in = a.Stdin
		if s.in != nil {
			in = newEscapes(a.Stdin, a.Stderr, func() { close(escaped); _ = s.client.Close() })
		}
		_, _ = io.Copy(s.stdin, in)
		_ = s.stdin.Close() // half-close: the command reads the end of its input and may still answer
	}()
	err := s.Wait()
	select {
	case <-escaped:
		fmt.Fprint(a.Stderr, "\r\n") // leave the remote prompt's line
		return fault.New(fault.Unavailable, "", "the connection was ended by ~.", "connect again when you like")
	default:
		return outcome(err)
	}
}

func start(s *ssh.Session, command string) error {
	if command == "" {
		return refusedBy(s.Shell(), "the node starts no shell")
	}
	return refusedBy(s.Start(command), "the node does not run the command")
}

// refusedBy words a refusal of a channel or request. A node says why on the session's standard error.
func refusedBy(err error, what string) error {
	var open *ssh.OpenChannelError
	if errors.As(err, &open) {
		what += ": " + clean(open.Message)
	}
	return fault.Wrap(err, fault.Denied, "", what, "see what your roles allow: tsh status; ask an administrator for more")
}

// outcome turns the end of a session into tsh's: the remote status, 128 and the number of the signal, or a lost connection.
func outcome(err error) error {
	var exit *ssh.ExitError
	var missing *ssh.ExitMissingError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &exit):
		if exit.Signal() != "" {
			return exitStatus(128 + signalNumber(exit.Signal()))
		}
		return exitStatus(min(exit.ExitStatus(), exitConnect)) // a process has 8 bits; what is more must not become 0
	case errors.As(err, &missing):
		return fault.Wrap(err, fault.Unavailable, "", "the connection to the node was lost", "connect again; if it was cut on purpose, tsh status says what you may still do")
	}
	return fault.Wrap(err, fault.Unavailable, "", "the session broke off: "+clean(fault.Network(err)), "connect again")
}
