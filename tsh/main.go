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
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
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
	cluster string // --cluster as typed
	proxy   string // --proxy as typed
	dialer  proxyDialer
	reached atomic.Int32 // index of the proxy of the login that was reached last
}

// Main runs the command in env.Args and returns the exit code for the process: 0 for success, the status of
// the remote command for "tsh ssh", and after an error of tsh itself 1, or exitSSHError for the commands that
// are named ssh. It prints such an error and its hint to env.Stderr. When ctx ends, the command stops and
// Main reports that it was interrupted.
func Main(ctx context.Context, env Env) int {
	if env.Now == nil {
		env.Now = time.Now
	}
	a := &app{Env: env, dialer: newProxyDialer(env.Getenv)}
	root := a.root()
	root.SetArgs(env.Args)
	if isCompletionRequest(env.Args) {
		// The help text of a flag marks the name of its value with backticks, for pflag. A shell would show
		// them beside the flags that it offers.
		root.SetOut(backtickFilter{env.Stdout})
	}
	cmd, err := root.ExecuteContextC(ctx)
	var status exitStatus // of a remote command, which has printed its own errors
	switch {
	case err == nil:
		return 0
	case errors.As(err, &status):
		return int(status)
	}
	a.report(cmd, err)
	if cmd.Name() == "ssh" { // "tsh ssh" and "tsh proxy ssh"
		return exitSSHError
	}
	return 1
}

// root returns the command tsh with all commands under it. Each command has a file of its own, named for it.
// root replaces what cobra does by itself: its help and completion commands, -v for the version, and errors
// without a hint.
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
		"address of the cluster's proxy, as `HOST[:PORT]`; default: those at which you logged in before",
	)
	root.PersistentFlags().StringVar(
		&a.cluster,
		"cluster",
		"",
		"`NAME` of the cluster; default: that of the latest login",
	)
	_ = root.RegisterFlagCompletionFunc("cluster", a.completeCluster) // the flag exists
	root.AddGroup(
		&cobra.Group{ID: everyday, Title: "Everyday:"},
		&cobra.Group{ID: admin, Title: "Administration:"},
	)
	root.AddCommand(
		a.loginCmd(), a.logoutCmd(), a.statusCmd(), a.lsCmd(),
		a.sshCmd(), a.scpCmd(), a.configCmd(), a.proxyCmd(),
		a.getCmd(), a.applyCmd(), a.rmCmd(), a.lockCmd(), a.tokenCmd(), a.rootCmd(),
		a.versionCmd(), a.completionCmd(), sftpCmd(),
	)
	root.SetHelpCommand(helpCmd())
	// cobra's own flag would add -v, which means verbose to users of ssh.
	root.Flags().Bool("version", false, "show the version")
	root.Version = a.versionLine()
	root.SetVersionTemplate("{{.Version}}\n")
	root.SetFlagErrorFunc(explainFlagError)
	for _, cmd := range root.Commands() {
		wrapUsageErrors(cmd)
	}
	return root
}

// Groups of commands in the help text.
const (
	everyday = "everyday"
	admin    = "admin"
)

// wrapUsageErrors makes cmd and all commands under it return an Invalid fault with a hint when their
// arguments are wrong. A command that only has subcommands shows its help when it gets no arguments, and
// refuses an unknown subcommand, which cobra would accept as an argument.
func wrapUsageErrors(cmd *cobra.Command) {
	if cmd.HasSubCommands() && cmd.RunE == nil {
		cmd.Args = cobra.NoArgs
		cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	}
	if checkArgs := cmd.Args; checkArgs != nil {
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			if err := checkArgs(cmd, args); err != nil {
				return usageError(cmd, err)
			}
			return nil
		}
	}
	for _, sub := range cmd.Commands() {
		wrapUsageErrors(sub)
	}
}

// anyNumber as the most of argCount allows any number of arguments.
const anyNumber = -1

// argCount returns a check that a command has between least and most arguments. what completes the error
// message "COMMAND needs …".
func argCount(least, most int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		tooMany := most != anyNumber && len(args) > most
		if len(args) < least || tooMany {
			return usageError(cmd, fmt.Errorf("%s needs %s", cmd.CommandPath(), what))
		}
		return nil
	}
}

// noArgs returns a check that a command has no arguments. hint is the remedy in the error; %s in it stands
// for the first argument.
func noArgs(hint string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return nil
		}
		return argumentsNotExpected.New("", fault.Args{
			"command":  cmd.CommandPath(),
			"argument": args[0],
			"hint":     fmt.Sprintf(hint, terminal.Clean(args[0])),
		})
	}
}

// usageError returns a fault of kind Invalid with the message of err and the command's help as the remedy. If
// err is a fault already, it returns err.
func usageError(cmd *cobra.Command, err error) error {
	var f *fault.Error
	if errors.As(err, &f) {
		return err
	}
	return usageInvalid.New("", fault.Args{"why": err, "hint": "see: " + cmd.CommandPath() + " --help"})
}

// usageInvalid is for arguments and flags that tsh does not understand.
var usageInvalid = fault.Code{
	Name:   "usage-invalid",
	Kind:   fault.Invalid,
	Text:   "{why}",
	Remedy: "{hint}",
}

// home is the folder of all profiles. It need not exist.
func (a *app) home() (profile.Home, error) { return profile.Open(a.Getenv) }

// selectProfile returns the profile that the command works with, with those proxies that it may use: the one
// of
// --cluster, else the one that has the proxy of --proxy, else the one of the latest login. With --proxy its
// only proxy is that one. It returns a NotFound fault if there is no such profile, an Invalid fault for flags
// that are malformed, and the faults of profile.Home.
func (a *app) selectProfile(home profile.Home) (info profile.Info, err error) {
	var addr string
	if a.proxy != "" {
		if addr, err = profile.ParseProxy(a.proxy); err != nil {
			return info, err
		}
	}
	cluster := a.cluster
	switch {
	case cluster != "":
		if err := identity.CheckCluster(cluster); err != nil {
			return info, clusterNameInvalid.Wrap(err, "", fault.Args{"cluster": cluster})
		}
	case addr != "":
		found, err := home.FindProxy(addr)
		if err != nil {
			return info, err
		}
		cluster = found.Cluster
	default:
		if cluster, err = home.Current(); err != nil {
			return info, err
		}
	}
	if info, err = home.ReadInfo(cluster); err == nil && addr != "" {
		info.Proxies = []profile.Proxy{info.Proxy(addr)}
	}
	return info, err
}

// currentLogin returns the login that the command works with: see selectProfile. It tells the dialer how its
// proxies are reached. Every command that needs a login calls it before it connects to anything, so that a
// missing login (a NotFound fault) and an expired one (an Expired fault) are reported at once.
func (a *app) currentLogin() (*profile.Profile, error) {
	home, err := a.home()
	if err != nil {
		return nil, err
	}
	info, err := a.selectProfile(home)
	if err != nil {
		return nil, err
	}
	prof, err := home.Load(info.Cluster)
	if err != nil {
		return nil, err
	}
	if err := prof.CheckTime(a.Now()); err != nil {
		return nil, err
	}
	prof.Proxies = info.Proxies
	if len(prof.Proxies) == 0 { // other clusters have taken them
		return nil, clusterWithoutProxy.New("", fault.Args{"cluster": prof.Cluster})
	}
	for _, proxy := range prof.Proxies {
		a.dialer.egress.SetTransport(proxy.Address, proxy.Transport)
	}
	return prof, nil
}
