package tsh

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"sync"

	"github.com/spf13/cobra"
	"golang.org/x/crypto/ssh"
	"golang.org/x/term"

	"github.com/threshold-access/threshold/internal/dial"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/tsh/forward"
)

// sshOptions are the flags of tsh ssh.
type sshOptions struct {
	login                  string
	tty, noTTY             bool
	verbose, quiet         bool
	noInput, noCommand     bool
	subsystem              bool
	agent, noAgent         bool // noAgent wins
	clear                  bool // no forwards, whatever else is said
	escape                 string
	stdio                  string
	local, remote, dynamic []string
	options                []string
	env                    []string // NAME=VALUE, by -o SetEnv
}

func (a *app) sshCmd() *cobra.Command {
	var o sshOptions
	c := &cobra.Command{
		Use:                   "ssh [FLAGS] [LOGIN@]NODE [COMMAND…]",
		DisableFlagsInUseLine: true,
		Short:                 "Open a shell on a node, or run a command there",
		GroupID:               everyday,
		Long: `Open a shell on a node, or run a command there. The exit code is the command's own; 255 if it could not be run.
In a terminal, a line that begins with ~. ends the connection; ~? lists such escapes.

The listeners of -L, -R and -D take connections from their own machine alone, unless an address stands in front of
the port, as in '*:8080:db:80'. The path of a Unix socket may stand for a port, or for a host with its port.`,
		Example: `  tsh ssh web-1
  tsh ssh ubuntu@web-1 uptime
  tsh ssh -t web-1 top
  tsh ssh -N -L 8080:localhost:80 web-1     # then open http://localhost:8080
  tsh ssh -D 1080 web-1                     # a SOCKS proxy by way of the node`,
		Args:              needs(1, -1, "a node: tsh ssh [LOGIN@]NODE"),
		ValidArgsFunction: a.completeNode("", true),
		RunE:              func(c *cobra.Command, args []string) error { return a.runSSH(c.Context(), o, args[0], args[1:]) },
	}
	f := c.Flags()
	f.SetInterspersed(false) // what follows the node is the command, flags and all
	f.SortFlags = false
	f.StringVarP(&o.login, "login", "l", "", "`LOGIN` on the node")
	f.BoolVarP(&o.tty, "tty", "t", false, "a terminal for the command too")
	f.BoolVarP(&o.noTTY, "no-tty", "T", false, "no terminal")
	f.BoolVarP(&o.noInput, "no-input", "n", false, "an empty standard input")
	f.BoolVarP(&o.noCommand, "no-command", "N", false, "run nothing: for forwarding alone")
	f.StringArrayVarP(
		&o.local,
		"forward-local",
		"L",
		nil,
		"`RULE` as 8080:db:80: port 8080 here leads to db:80, seen from the node",
	)
	f.StringArrayVarP(
		&o.remote,
		"forward-remote",
		"R",
		nil,
		"`RULE` as 8080:db:80: port 8080 there leads to db:80, seen from here",
	)
	f.StringArrayVarP(
		&o.dynamic,
		"forward-dynamic",
		"D",
		nil,
		"`PORT` of a SOCKS proxy here that leads to wherever the node does",
	)
	f.StringVarP(
		&o.stdio,
		"forward-stdio",
		"W",
		"",
		"`HOST:PORT`, seen from the node, to join with standard input and output",
	)
	f.BoolVarP(&o.agent, "forward-agent", "A", false, "let programs on the node use your ssh-agent")
	f.StringVarP(&o.escape, "escape-char", "e", "~", "`CHAR` that begins escapes, or none")
	f.BoolVarP(&o.subsystem, "subsystem", "s", false, "the command names a subsystem, as sftp")
	f.StringArrayVarP(
		&o.options,
		"option",
		"o",
		nil,
		"`OPTION=VALUE` of OpenSSH; what makes no difference here is ignored",
	)
	f.BoolVarP(&o.quiet, "quiet", "q", false, "errors alone, no notes")
	f.BoolVarP(&o.verbose, "verbose", "v", false, "say what is done")
	f.BoolVarP(&o.noAgent, "no-forward-agent", "a", false, "") // as things are anyway
	f.BoolP("no-x11", "x", false, "")
	_ = f.MarkHidden("no-forward-agent")
	_ = f.MarkHidden("no-x11")
	return c
}

func (a *app) runSSH(ctx context.Context, o sshOptions, dest string, command []string) error {
	if err := o.applyOptions(o.options); err != nil {
		return err
	}
	o.agent = o.agent && !o.noAgent
	if o.tty && o.noTTY {
		return fault.New(fault.Invalid, "", "-t and -T contradict each other", "give one of them, or none")
	}
	d, err := parseDestination(dest, o.login)
	if err != nil {
		return err
	}
	if len(command) > 0 && strings.HasPrefix(command[0], "-") && command[0] != "--" {
		return fault.New(
			fault.Invalid,
			"",
			fmt.Sprintf("%s stands after the node, where the command begins", command[0]),
			"write flags before the node: tsh ssh [FLAGS] NODE [COMMAND…]",
		)
	}
	if len(command) > 0 && command[0] == "--" {
		command = command[1:]
	}
	if err := o.check(command); err != nil {
		return err
	}
	return a.ssh(ctx, o, d, strings.Join(command, " "))
}

// check refuses flags that contradict each other.
func (o sshOptions) check(command []string) error {
	contradict := func(one, other string) error {
		return fault.New(fault.Invalid, "", one+" and "+other+" contradict each other", "give one of them")
	}
	switch {
	case o.noCommand && len(command) > 0:
		return contradict("-N", "a command")
	case o.stdio != "" && len(command) > 0:
		return contradict("-W", "a command")
	case o.stdio != "" && o.noCommand:
		return contradict("-W", "-N")
	case o.subsystem && len(command) != 1:
		return fault.New(fault.Invalid, "", "-s needs the name of one subsystem", "as: tsh ssh -s NODE sftp")
	case o.escape != "none" && len(o.escape) != 1:
		return fault.New(
			fault.Invalid,
			"",
			fmt.Sprintf("-e %s is no character", o.escape),
			"give one character, or none",
		)
	}
	return nil
}

func (a *app) ssh(ctx context.Context, o sshOptions, d destinationOf, command string) error {
	fw, err := a.forwards(o)
	if err != nil {
		return err
	}
	p, err := a.currentLogin()
	if err != nil {
		return err
	}
	if err := fw.Listen(); err != nil { // before anybody connects: there is no way without it
		return err
	}
	defer fw.Close()
	if o.verbose {
		fmt.Fprintf(
			a.Stderr,
			"tsh: %s of %s by way of %s, certificate until %s\n",
			clean(p.User),
			p.Cluster,
			p.Proxy,
			p.Expires.Local().Format("15:04"),
		)
	}
	client, err := a.connect(ctx, p, d, o.quiet)
	if err != nil {
		return err
	}
	if o.verbose {
		fmt.Fprintf(
			a.Stderr,
			"tsh: connected as %s, server %s%s\n",
			client.User(),
			clean(string(client.ServerVersion())),
			negotiated(client),
		)
	}
	// From here on signals are for the remote command, and the connection ends with it.
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var tasks sync.WaitGroup
	tasks.Go(func() { keepalive(ctx, client) })
	defer tasks.Wait()
	defer cancel()
	defer fw.Wait()
	defer client.Close()
	defer fw.Close()
	s := &session{app: a, opts: o, client: client, signals: make(chan os.Signal, 4)}
	signal.Notify(s.signals, forwarded...) // before the start: no signal for the command gets lost
	defer signal.Stop(s.signals)
	if err := fw.Start(client); err != nil {
		return err
	}
	switch {
	case o.stdio != "":
		err = s.forwardStdio(ctx)
	case o.noCommand:
		return s.keepForwarding(ctx)
	default:
		err = s.run(ctx, command)
	}
	fw.Close()
	s.drain(ctx, fw)
	return err
}

// session is a running shell or command, or what stands in for one.
type session struct {
	app     *app
	opts    sshOptions
	client  *ssh.Client
	remote  *remote
	in      *os.File // the terminal, if there is one
	signals chan os.Signal
}

// program is what to ask the node for.
func (s *session) program(command string) dial.ChannelRequest {
	switch {
	case s.opts.subsystem:
		return subsystem(command)
	case command == "":
		return shell()
	}
	return execRequest(command)
}

func (s *session) run(ctx context.Context, command string) error {
	a, o := s.app, s.opts
	in, isTerminal := terminal(a.Stdin)
	isTerminal = isTerminal && !o.noInput
	details := a.environment(o.env)
	if o.tty || command == "" && isTerminal && !o.noTTY {
		if isTerminal {
			s.in = in
		}
		details = append(details, a.askPTY(s.in))
	}
	if o.agent {
		details = append(details, dial.ChannelRequest{Type: "auth-agent-req@openssh.com"})
	}
	var err error
	s.remote, err = openSession(s.client, details, s.program(command))
	if s.remote == nil {
		return err
	}
	if err != nil {
		_ = s.remote.CloseWrite()
		_ = s.remote.Close()
		_, _ = s.remote.copyOut(io.Discard, a.Stderr) // why
		return fault.Wrap(err, fault.Denied, "", "the node does not run it", hintAskForRole)
	}
	if s.in != nil {
		if old, err := term.MakeRaw(int(s.in.Fd())); err == nil {
			defer func() { _ = term.Restore(int(s.in.Fd()), old) }()
		}
	}
	return s.serve(ctx)
}

// serve moves bytes, sizes and signals until the remote command ends.
func (s *session) serve(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var tasks sync.WaitGroup
	defer tasks.Wait()
	defer cancel()
	if s.in != nil {
		tasks.Go(func() { s.followSize(ctx) })
	}
	left := make(chan error, 1) // why the person ended it
	leave := func(why error) {
		select {
		case left <- why:
		default:
		}
		_ = s.client.Close()
	}
	tasks.Go(func() { s.forwardSignals(ctx, leave) })
	go s.copyInput(
		func() { // a read from a terminal cannot be interrupted: this ends with the process, or with its input
			leave(
				fault.New(
					fault.Unavailable,
					"",
					"the connection was ended by "+s.opts.escape+".",
					"connect again when you like",
				),
			)
		},
	)
	end, err := s.remote.copyOut(s.app.Stdout, s.app.Stderr)
	select {
	case why := <-left:
		if s.in != nil {
			fmt.Fprint(s.app.Stderr, "\r\n") // leave the remote prompt's line
		}
		return why
	default:
	}
	if err != nil {
		return err
	}
	return end.result()
}

// copyInput hands standard input on.
func (s *session) copyInput(leave func()) {
	var in io.Reader = s.app.Stdin
	switch {
	case s.opts.noInput:
		in = strings.NewReader("")
	case s.in != nil && s.opts.escape != "none":
		in = newEscapes(in, s.app.Stderr, s.opts.escape[0], leave)
	}
	_, _ = io.Copy(s.remote, in)
	_ = s.remote.CloseWrite() // half-close: the command reads the end of its input and may still answer
}

// keepForwarding keeps the connection for what is forwarded until a signal, or until it is lost.
func (s *session) keepForwarding(ctx context.Context) error {
	lost := make(chan error, 1)
	go func() { lost <- s.client.Wait() }()
	select {
	case sig := <-s.signals:
		return signalExit(sig)
	case <-lost:
		return s.app.lostConnection()
	}
}

// forwardStdio joins standard input and output with an address that the node reaches.
func (s *session) forwardStdio(ctx context.Context) error {
	to, err := forward.ParseTarget(s.opts.stdio)
	if err != nil {
		return err
	}
	ch, reqs, err := forward.OpenTo(s.client, to, nil)
	if err != nil {
		return channelRefused(err, "the node gives no connection to "+s.opts.stdio)
	}
	go ssh.DiscardRequests(reqs)
	go func() { // as above, a read may last
		_, _ = io.Copy(ch, s.app.Stdin)
		_ = ch.CloseWrite()
	}()
	done := make(chan error, 1)
	go func() { _, err := io.Copy(s.app.Stdout, ch); done <- err }()
	select {
	case err := <-done:
		return fault.Wrap(err, fault.Unavailable, "", "the connection broke off", "connect again")
	case sig := <-s.signals:
		return signalExit(sig)
	}
}

// drain lets connections that are still forwarded come to their end, as OpenSSH does, unless a signal says
// that it is enough.
func (s *session) drain(ctx context.Context, fw *forward.Forwarder) {
	n := fw.Open()
	if n == 0 {
		return
	}
	if !s.opts.quiet {
		fmt.Fprintf(s.app.Stderr, "tsh: waiting for forwarded connections to end (%d); Ctrl-C ends them\n", n)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-s.signals:
			cancel()
		case <-ctx.Done():
		}
	}()
	fw.Drain(ctx)
}
