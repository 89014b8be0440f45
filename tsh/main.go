// Package tsh answers: what does a person type, and what do they read?
//
// It is the one client, for users and administrators, as a library: one file for each command. It reaches
// auth only through authrpc, nodes only through dial and SSH, and keeps what a login leaves in package
// profile. Main never ends the process.
//
// What goes where: answers to standard output; progress, notes and errors to standard error. An error is
// "tsh: error: …" and then "tsh: hint: …" with what to do next. Text from servers loses its control
// characters before it is shown. Exit codes: 0; 1 for an error; for "tsh ssh", the remote command's own
// status, 128 and the signal's number if one ended it, or 255 if it could not be run.
package tsh

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/tsh/profile"
)

// Env is the process around tsh.
type Env struct {
	Args    []string // without the program's name
	Stdin   io.Reader
	Stdout  io.Writer
	Stderr  io.Writer
	Getenv  func(string) string
	Version string
	Now     func() time.Time // zero: time.Now
}

// app is one run of tsh.
type app struct {
	Env
	proxy  string // --proxy as typed
	dialer proxyDialer

	endNotice        atomic.Pointer[string] // what a node said of why it ends the connection
	endNoticeReaders sync.WaitGroup         // whoever listens for that, until the connection is over
}

// Main runs one command and returns its exit code.
func Main(ctx context.Context, env Env) int {
	if env.Now == nil {
		env.Now = time.Now
	}
	a := &app{Env: env, dialer: newProxyDialer(env.Getenv)}
	root := a.root()
	root.SetArgs(env.Args)
	if len(env.Args) > 0 &&
		(env.Args[0] == cobra.ShellCompRequestCmd || env.Args[0] == cobra.ShellCompNoDescRequestCmd) {
		root.SetOut(backtickFilter{env.Stdout})
	}
	c, err := root.ExecuteContextC(ctx)
	var status exitStatus
	switch {
	case err == nil:
		return 0
	case errors.As(err, &status):
		return int(status)
	}
	a.report(err)
	if c.Name() == "ssh" { // also "tsh proxy ssh": whatever kept it from running is told apart from the command's own status
		return exitConnect
	}
	return 1
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "tsh",
		Short: "Reach servers through Threshold: log in once, then ssh and scp by name",
		Example: `  tsh login --proxy access.example.com
  tsh ls env=prod
  tsh ssh web-1
  tsh scp report.txt web-1:`,
		SilenceErrors:     true,
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
	}
	root.SetIn(a.Stdin)
	root.SetOut(a.Stdout)
	root.SetErr(a.Stderr)
	root.PersistentFlags().
		StringVar(&a.proxy, "proxy", "", "the cluster's `HOST[:PORT]`; default: where you logged in last")
	root.AddGroup(
		&cobra.Group{ID: everyday, Title: "Everyday:"},
		&cobra.Group{ID: admin, Title: "Administration:"},
	)
	root.AddCommand(
		a.loginCmd(),
		a.logoutCmd(),
		a.statusCmd(),
		a.lsCmd(),
		a.sshCmd(),
		a.scpCmd(),
		a.configCmd(),
		a.proxyCmd(),
		a.getCmd(),
		a.applyCmd(),
		a.rmCmd(),
		a.tokenCmd(),
		a.versionCmd(),
		a.completionCmd(),
		sftpCmd(),
	)
	root.SetHelpCommand(helpCmd())
	root.Flags().
		Bool("version", false, "show the version")
		// without cobra's -v, which means something else to those who know ssh
	root.Version = a.versionLine()
	root.SetVersionTemplate("{{.Version}}\n")
	root.SetFlagErrorFunc(wrongFlag)
	for _, c := range root.Commands() {
		checkUsage(c)
	}
	return root
}

// Groups of commands in the help text.
const (
	everyday = "everyday"
	admin    = "admin"
)

// checkUsage turns what cobra says of wrong arguments into an error with a hint.
func checkUsage(c *cobra.Command) {
	if c.HasSubCommands() { // cobra alone would show the help and call it done
		c.Args = cobra.NoArgs
		c.RunE = func(c *cobra.Command, _ []string) error { return c.Help() }
	}
	if check := c.Args; check != nil {
		c.Args = func(c *cobra.Command, args []string) error {
			if err := check(c, args); err != nil {
				return usage(c, err)
			}
			return nil
		}
	}
	for _, sub := range c.Commands() {
		checkUsage(sub)
	}
}

// needs checks how many arguments there are. most is -1 for any number.
func needs(least, most int, what string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) < least || most >= 0 && len(args) > most {
			return usage(c, fmt.Errorf("%s needs %s", c.CommandPath(), what))
		}
		return nil
	}
}

// noArgs refuses arguments; instead says what may have been meant, with %s for the first of them.
func noArgs(instead string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) == 0 {
			return nil
		}
		return fault.New(
			fault.Invalid,
			"",
			fmt.Sprintf("%q is one word too many after %s", args[0], c.CommandPath()),
			fmt.Sprintf(instead, clean(args[0])),
		)
	}
}

// usage is a command that was typed wrongly.
func usage(c *cobra.Command, err error) error {
	var said *fault.Error
	if errors.As(err, &said) {
		return err
	}
	return fault.New(fault.Invalid, "", err.Error(), "see: "+c.CommandPath()+" --help")
}

func (a *app) home() (profile.Home, error) { return profile.Open(a.Getenv) }

// proxyAddress is the proxy that the command is about: --proxy, else where the latest login was.
func (a *app) proxyAddress() (string, error) {
	if a.proxy != "" {
		return profile.ParseProxy(a.proxy)
	}
	h, err := a.home()
	if err != nil {
		return "", err
	}
	return h.Current()
}

// currentLogin is the live login that the command works with; an ended one stops here, before any network.
func (a *app) currentLogin() (*profile.Profile, error) {
	h, err := a.home()
	if err != nil {
		return nil, err
	}
	addr, err := a.proxyAddress()
	if err != nil {
		return nil, err
	}
	p, err := h.Load(addr)
	if err != nil {
		return nil, err
	}
	a.dialer.egress.SetTransport(p.Proxy, p.Transport)
	return p, p.CheckTime(a.Now())
}

// terminal returns the file behind a stream if it is a terminal.
func terminal(stream any) (*os.File, bool) {
	f, ok := stream.(*os.File)
	return f, ok && term.IsTerminal(int(f.Fd()))
}
