package tsh

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/tsh/terminal"
)

// sshOptions are the flags of tsh ssh.
type sshOptions struct {
	login          string // -l; LOGIN@ before the node wins
	tty, noTTY     bool   // -t and -T; neither: request a terminal for a shell, but not for a command
	verbose, quiet bool
	noInput        bool     // -n
	noCommand      bool     // -N
	subsystem      bool     // -s: the command is the name of a subsystem
	agent, noAgent bool     // -A and -a; noAgent wins
	clear          bool     // forward nothing, whatever other flags and options say
	escape         string   // -e: the escape character, or "none"
	stdio          string   // -W: HOST:PORT; empty: standard input and output belong to the command
	local          []string // -L, as typed; likewise the next two
	remote         []string // -R
	dynamic        []string // -D
	options        []string // -o, as typed; applyOptions sets the other fields from them
	env            []string // NAME=VALUE, from -o SetEnv
}

// sshCmd is "tsh ssh". Its short flags mean what they mean for ssh, so that the habits of users and most
// scripts work. Flags of ssh that it does not have are refused with a hint: see sshFlagHints.
func (a *app) sshCmd() *cobra.Command {
	var opts sshOptions
	cmd := &cobra.Command{
		Use:                   "ssh [FLAGS] [LOGIN@]NODE [COMMAND…]",
		DisableFlagsInUseLine: true,
		Short:                 "Open a shell on a node, or run a command there",
		GroupID:               everyday,
		Long: `Open a shell on a node, or run a command there. The exit code is that of the command, or 255 if
the command could not be run. At a terminal, type ~. at the start of a line to end the connection; ~? lists
the escape sequences.

The listeners of -L, -R and -D accept connections from their own machine only, unless an address precedes the
port, as in '*:8080:db:80'. The path of a Unix socket can replace a port, or a host and its port.`,
		Example: `  tsh ssh web-1
  tsh ssh ubuntu@web-1 uptime
  tsh ssh -t web-1 top
  tsh ssh -N -L 8080:localhost:80 web-1     # then open http://localhost:8080
  tsh ssh -D 1080 web-1                     # a SOCKS proxy whose connections leave from the node`,
		Args:              argCount(1, anyNumber, "a node: tsh ssh [LOGIN@]NODE"),
		ValidArgsFunction: a.completeNode,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.runSSH(cmd.Context(), opts, args[0], args[1:])
		},
	}
	flags := cmd.Flags()
	flags.SetInterspersed(false) // everything after the node is the command, flags included
	flags.SortFlags = false
	const (
		localHelp   = "`RULE`, as 8080:db:80: port 8080 on this machine leads to db:80 as seen from the node"
		remoteHelp  = "`RULE`, as 8080:db:80: port 8080 on the node leads to db:80 as seen from this machine"
		dynamicHelp = "`PORT` of a SOCKS proxy on this machine; its connections leave from the node"
		stdioHelp   = "connect standard input and output to `HOST:PORT` as seen from the node"
		optionHelp  = "OpenSSH option, as `OPTION=VALUE`; options without a meaning for tsh are ignored"
	)
	flags.StringVarP(&opts.login, "login", "l", "", "`LOGIN` on the node")
	flags.BoolVarP(&opts.tty, "tty", "t", false, "request a terminal, also for a command")
	flags.BoolVarP(&opts.noTTY, "no-tty", "T", false, "request no terminal")
	flags.BoolVarP(&opts.noInput, "no-input", "n", false, "use an empty standard input")
	flags.BoolVarP(&opts.noCommand, "no-command", "N", false, "run no command: only forward")
	flags.StringArrayVarP(&opts.local, "forward-local", "L", nil, localHelp)
	flags.StringArrayVarP(&opts.remote, "forward-remote", "R", nil, remoteHelp)
	flags.StringArrayVarP(&opts.dynamic, "forward-dynamic", "D", nil, dynamicHelp)
	flags.StringVarP(&opts.stdio, "forward-stdio", "W", "", stdioHelp)
	flags.BoolVarP(&opts.agent, "forward-agent", "A", false, "let programs on the node use your ssh-agent")
	flags.StringVarP(&opts.escape, "escape-char", "e", "~", "`CHAR` that begins escape sequences, or none")
	flags.BoolVarP(&opts.subsystem, "subsystem", "s", false, "the command is a subsystem, such as sftp")
	flags.StringArrayVarP(&opts.options, "option", "o", nil, optionHelp)
	flags.BoolVarP(&opts.quiet, "quiet", "q", false, "print errors only")
	flags.BoolVarP(&opts.verbose, "verbose", "v", false, "print details of the connection")
	// The defaults are accepted because ssh has flags for them.
	flags.BoolVarP(&opts.noAgent, "no-forward-agent", "a", false, "")
	flags.BoolP("no-x11", "x", false, "")
	_ = flags.MarkHidden("no-forward-agent")
	_ = flags.MarkHidden("no-x11")
	return cmd
}

// runSSH checks all arguments and then runs tsh ssh: see app.ssh for its errors. node is [LOGIN@]NODE as
// typed. command has the words after the node, which are joined with spaces, as ssh does; none means a shell.
// A first word that looks like a flag is refused, because it was probably meant for tsh. After "--" it may be
// one.
func (a *app) runSSH(ctx context.Context, opts sshOptions, node string, command []string) error {
	if err := opts.applyOptions(opts.options); err != nil {
		return err
	}
	opts.agent = opts.agent && !opts.noAgent
	if opts.tty && opts.noTTY {
		return flagsTerminalConflict.New("")
	}
	dest, err := parseDestination(node, opts.login)
	if err != nil {
		return err
	}
	if len(command) > 0 && strings.HasPrefix(command[0], "-") && command[0] != "--" {
		return flagAfterNode.New("", fault.Args{"flag": command[0]})
	}
	if len(command) > 0 && command[0] == "--" {
		command = command[1:]
	}
	if err := opts.check(command); err != nil {
		return err
	}
	return a.ssh(ctx, opts, dest, strings.Join(command, " "))
}

// check returns an Invalid fault for flags that contradict each other or the command, for -s without exactly
// one word of command, and for an escape character that is neither one character nor "none". applyOptions
// must have been called. command has the words after the node; none means a shell.
func (o sshOptions) check(command []string) error {
	contradict := func(one, other string) error {
		return flagsConflict.New("", fault.Args{"first": one, "second": other})
	}
	switch {
	case o.noCommand && len(command) > 0:
		return contradict("-N", "a command")
	case o.stdio != "" && len(command) > 0:
		return contradict("-W", "a command")
	case o.stdio != "" && o.noCommand:
		return contradict("-W", "-N")
	case o.subsystem && len(command) != 1:
		return subsystemMissing.New("")
	case o.escape != "none" && len(o.escape) != 1:
		return escapeInvalid.New("", fault.Args{"value": o.escape})
	}
	return nil
}

// ssh connects to dest, starts the forwarding that opts ask for, and runs the command; an empty command means
// a shell. A command may need the forwarded ports, so ssh opens the local listeners before it connects and
// requests the remote ones before it starts the command, and gives up if one of them fails. It returns when
// the command and all forwarded connections have ended. The error is an exitStatus if the command ended with
// a status other than 0 or a signal ended the command or tsh; other errors are faults with a hint.
func (a *app) ssh(ctx context.Context, opts sshOptions, dest destination, command string) error {
	forwards, err := a.forwarder(opts)
	if err != nil {
		return err
	}
	prof, err := a.currentLogin()
	if err != nil {
		return err
	}
	if err := forwards.Listen(); err != nil {
		return err
	}
	defer forwards.Close()
	if opts.verbose {
		until := prof.Expires.Local().Format("15:04")
		fmt.Fprintf(
			a.Stderr,
			"tsh: %s in cluster %s, through proxy %s, certificate valid until %s\n",
			terminal.Clean(prof.User),
			prof.Cluster,
			prof.FirstProxy().Address,
			until,
		)
	}
	client, err := a.connect(ctx, prof, dest, opts.quiet)
	if err != nil {
		return err
	}
	if opts.verbose {
		version := terminal.Clean(string(client.ServerVersion()))
		algorithms := client.Algorithms()
		fmt.Fprintf(a.Stderr, "tsh: connected as %s, server %s, %s\n", client.User(), version, algorithms)
	}
	// From here on signals are for the remote command, and the connection ends with it. The deferred calls
	// close the listeners and then the connection, which ends the goroutines of forwarding; then they stop
	// the keepalives.
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var tasks sync.WaitGroup
	tasks.Go(func() { client.KeepAlive(ctx) })
	tasks.Go(func() { a.showNewerLogins(ctx, prof, client, opts.verbose) })
	defer tasks.Wait()
	defer cancel()
	defer forwards.Wait()
	defer client.Close()
	defer forwards.Close()
	sess := &session{app: a, opts: opts, client: client, signals: make(chan os.Signal, 4)}
	signal.Notify(sess.signals, forwardedSignals...) // before the command starts, so that it misses no signal
	defer signal.Stop(sess.signals)
	if err := forwards.Start(client.Client); err != nil {
		return err
	}
	switch {
	case opts.stdio != "":
		err = sess.forwardStdio(ctx)
	case opts.noCommand:
		return sess.keepForwarding()
	default:
		err = sess.run(ctx, command)
	}
	forwards.Close() // no new connections; those that are open may end by themselves
	sess.drain(ctx, forwards)
	return err
}
