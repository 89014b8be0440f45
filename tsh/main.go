// Package tsh answers: what does a user type, and what do they read?
//
// It is the one client, for users and administrators, as a library, with one file for each command. It
// reaches the auth service only through authrpc and nodes only through dial and SSH, and keeps what a login
// leaves on disk in package profile. Main never ends the process.
//
// Results go to standard output; progress, notes and errors to standard error. An error is "tsh: error: …"
// followed by "tsh: hint: …", which says what to do next. Control characters are removed from the text of
// servers before it is shown. Exit codes: 0 for success and 1 for an error. "tsh ssh" exits with the status
// of the remote command, with 128 plus the signal's number if a signal ended it, and with 255 if the command
// could not be run.
package tsh

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/tsh/profile"
	"github.com/threshold-access/threshold/tsh/terminal"
)

// Env is what tsh sees of its process.
type Env struct {
	Args    []string // without the program's name
	Stdin   io.Reader
	Stdout  io.Writer
	Stderr  io.Writer
	Getenv  func(string) string
	Version string
	Now     func() time.Time // nil: time.Now
}

// app is one run of tsh: one command with its flags.
type app struct {
	Env
	proxy  string // --proxy as typed
	dialer proxyDialer
}

// Main runs one command and returns its exit code.
func Main(ctx context.Context, env Env) int {
	if env.Now == nil {
		env.Now = time.Now
	}
	a := &app{Env: env, dialer: newProxyDialer(env.Getenv)}
	root := a.root()
	root.SetArgs(env.Args)
	if isCompletionRequest(env.Args) {
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
	if c.Name() == "ssh" { // "tsh ssh" and "tsh proxy ssh": 255 tells an error of tsh from a command's status
		return exitConnect
	}
	return 1
}

// root builds the tree of commands. Each command has a file of its own, named for it.
func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "tsh",
		Short: "Reach servers through Threshold: log in once, then use ssh and scp by node name",
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
	root.PersistentFlags().StringVar(
		&a.proxy,
		"proxy",
		"",
		"address of the cluster's proxy, as `HOST[:PORT]`; default: the proxy of the latest login",
	)
	root.AddGroup(
		&cobra.Group{ID: everyday, Title: "Everyday:"},
		&cobra.Group{ID: admin, Title: "Administration:"},
	)
	root.AddCommand(
		a.loginCmd(), a.logoutCmd(), a.statusCmd(), a.lsCmd(),
		a.sshCmd(), a.scpCmd(), a.configCmd(), a.proxyCmd(),
		a.getCmd(), a.applyCmd(), a.rmCmd(), a.tokenCmd(),
		a.versionCmd(), a.completionCmd(), sftpCmd(),
	)
	root.SetHelpCommand(helpCmd())
	// cobra's own flag would add -v, which means verbose to users of ssh.
	root.Flags().Bool("version", false, "show the version")
	root.Version = a.versionLine()
	root.SetVersionTemplate("{{.Version}}\n")
	root.SetFlagErrorFunc(explainFlagError)
	for _, c := range root.Commands() {
		wrapUsageErrors(c)
	}
	return root
}

// Groups of commands in the help text.
const (
	everyday = "everyday"
	admin    = "admin"
)

// wrapUsageErrors gives the errors of c and its subcommands for wrong arguments a hint. A command that only
// has subcommands shows its help; cobra alone would accept any argument there.
func wrapUsageErrors(c *cobra.Command) {
	if c.HasSubCommands() {
		c.Args = cobra.NoArgs
		c.RunE = func(c *cobra.Command, _ []string) error { return c.Help() }
	}
	if check := c.Args; check != nil {
		c.Args = func(c *cobra.Command, args []string) error {
			if err := check(c, args); err != nil {
				return usageError(c, err)
			}
			return nil
		}
	}
	for _, sub := range c.Commands() {
		wrapUsageErrors(sub)
	}
}

// argCount checks the number of arguments: at least least and at most most, or any number if most is -1. what
// describes them in the error.
func argCount(least, most int, what string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) < least || most >= 0 && len(args) > most {
			return usageError(c, fmt.Errorf("%s needs %s", c.CommandPath(), what))
		}
		return nil
	}
}

// noArgs refuses all arguments. hint says what the user may have meant, with %s for the first argument.
func noArgs(hint string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) == 0 {
			return nil
		}
		msg := fmt.Sprintf("%s takes no arguments, but got %q", c.CommandPath(), args[0])
		return fault.New(fault.Invalid, "", msg, fmt.Sprintf(hint, terminal.Clean(args[0])))
	}
}

// usageError turns err into a fault that refers to the help of c. A fault stays as it is.
func usageError(c *cobra.Command, err error) error {
	var f *fault.Error
	if errors.As(err, &f) {
		return err
	}
	return fault.New(fault.Invalid, "", err.Error(), "see: "+c.CommandPath()+" --help")
}

// home is the folder of all profiles. It need not exist.
func (a *app) home() (profile.Home, error) { return profile.Open(a.Getenv) }

// proxyAddress returns the proxy that the command works with, as host:port: the one of --proxy, else the one
// of the latest login.
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

// currentLogin loads the login that the command works with. An expired login is an error before anything goes
// over the network.
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
