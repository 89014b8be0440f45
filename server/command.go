package server

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/threshold-access/threshold/auth/bootstrap"
	"github.com/threshold-access/threshold/internal/daemon"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/lifecycle"
)

const (
	// defaultConfig is read where the command line names no other file.
	defaultConfig = "/etc/threshold/threshold.yaml"
	// firstProxyTokenTTL is the life of the join token that --first-proxy prints.
	firstProxyTokenTTL = 30 * time.Minute
	// stopMargin is how long a stop may take beside waiting for sessions. The service manager is told.
	stopMargin = 20 * time.Second
)

const usage = `threshold is the server of a Threshold cluster.

  threshold start [--config FILE]                     run the parts that FILE names until SIGTERM
  threshold start [--config FILE] --bootstrap FILE --root-key-out FILE
                                                      create a new cluster first; refused where one exists
  threshold check [--config FILE] [--bootstrap FILE]  report every fault in the files, and start nothing
  threshold root sign --root-key FILE REQUEST         sign new keys of a cluster, where you keep its root key
  threshold version                                   print the version

The default of --config is /etc/threshold/threshold.yaml. "threshold start -h" lists the other flags.
docs/cli.md describes both files. A second signal ends the server at once, without waiting for sessions.
`

// Main is the command line of the program threshold. It returns the exit status: 0 after success and after a
// clean stop, 1 after a fault, 2 for a wrong command line. args are the words after the program's name.
func Main(ctx context.Context, version string, args []string, stdout, stderr io.Writer) int {
	if len(args) == 0 {
		fmt.Fprint(stderr, usage)
		return 2
	}
	switch args[0] {
	case "version", "--version":
		fmt.Fprintln(stdout, "threshold", version)
		return 0
	case "help", "-h", "--help":
		fmt.Fprint(stdout, usage)
		return 0
	case "root":
		return runRoot(args[1:], stdout, stderr)
	case "start", "check":
		c := command{version: version, stdout: stdout, stderr: stderr}
		return c.run(ctx, args[0], args[1:])
	}
	fmt.Fprintf(stderr,
		"threshold: error: there is no command %q\nthreshold: hint: run: threshold help\n", args[0])
	return 2
}

// command is one call of start or check, with its flags.
type command struct {
	version        string
	stdout, stderr io.Writer

	config     string
	bootstrap  string
	rootKey    rootKeyFlags
	log        daemon.Log
	untilReady bool
	firstProxy bool
	// publicNames are those that the first proxy may have.
	publicNames []string
}

// run reads the flags in args, runs the command called name ("start" or "check"), and reports its error. It
// returns the exit status, as Main does.
func (c *command) run(ctx context.Context, name string, args []string) int {
	flags := c.flags(name)
	err := flags.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprintf(c.stdout, "threshold %s:\n", name)
		flags.SetOutput(c.stdout)
		flags.PrintDefaults()
		return 0
	case err == nil && flags.NArg() > 0:
		err = fmt.Errorf("unexpected argument %q: files are named with flags", flags.Arg(0))
	case err == nil && c.firstProxy && !c.untilReady:
		err = errors.New("--first-proxy prints a secret, which must not enter a service's log: " +
			"add --until-ready")
	case err == nil && len(c.publicNames) > 0 && !c.firstProxy:
		err = errors.New("--public-name is for --first-proxy")
	}
	if err != nil {
		fmt.Fprintf(c.stderr, "threshold: error: %v\nthreshold: hint: run: threshold %s -h\n", err, name)
		return 2
	}
	if name == "check" {
		err = c.check()
	} else {
		err = c.start(ctx)
	}
	if err == nil {
		return 0
	}
	c.log.Report(c.stderr, "threshold", err)
	return 1
}

// flags returns the flags of the command called name, which set the fields of c.
func (c *command) flags(name string) *flag.FlagSet {
	flags := flag.NewFlagSet("threshold "+name, flag.ContinueOnError)
	flags.SetOutput(io.Discard) // an error is printed without the whole help around it
	flags.StringVar(&c.config, "config", defaultConfig, "the server's configuration `file`")
	flags.StringVar(&c.bootstrap, "bootstrap", "",
		"create a new cluster as this `file` says; refused where one exists")
	if name != "start" {
		return flags
	}
	c.rootKey.add(flags)
	flags.StringVar(&c.log.Level, "log-level", "",
		"least `level` that is logged: debug, info, warn or error; overrides the file")
	flags.StringVar(&c.log.Format, "log-format", "", "`format` of the log: text or json; overrides the file")
	flags.BoolVar(&c.untilReady, "until-ready", false,
		"stop as soon as every part is ready: to create a cluster that a service then runs")
	flags.BoolVar(&c.firstProxy, "first-proxy", false,
		"with --until-ready: print a join token for the first proxy; refused once there is a proxy")
	flags.Func("public-name",
		"with --first-proxy: a public host `name` or address that the proxy may have; may be repeated "+
			"(default the cluster's name)",
		func(name string) error { c.publicNames = append(c.publicNames, name); return nil })
	return flags
}

// check reads the configuration file, the web certificate and, if --bootstrap names one, the bootstrap file.
// It prints a line for each file that is valid, and returns the error of the first that is not: that error
// names every mistake in the file. It changes nothing and takes no lock or port, so a server may run
// meanwhile.
func (c *command) check() error {
	spec, err := readConfig(c.config)
	if err != nil {
		return err
	}
	if p := spec.Proxy; p != nil && p.CertFile != "" {
		if _, err := tls.LoadX509KeyPair(p.CertFile, p.KeyFile); err != nil {
			return webCertificateInvalid.Wrap(err, "threshold check", fault.Args{"why": err.Error()})
		}
	}
	if c.bootstrap != "" {
		b, err := readFile(c.bootstrap)
		if err != nil {
			return err
		}
		if _, err := bootstrap.Parse(c.bootstrap, b); err != nil {
			return err
		}
		fmt.Fprintf(c.stdout, "%s: ok\n", c.bootstrap)
	}
	fmt.Fprintf(c.stdout, "%s: ok, runs %s\n", c.config, spec.parts())
	return nil
}

// start reads the configuration and runs the server, its health port and the service manager's watchdog until
// ctx ends, or until the server is ready if --until-ready is set. It returns nil after a clean stop.
func (c *command) start(ctx context.Context) error {
	if err := c.log.Validate(); err != nil {
		return err
	}
	spec, err := readConfig(c.config)
	if err != nil {
		return err
	}
	if err := checkFolderOwner(spec.Data); err != nil { // before anything is written there
		return err
	}
	c.log = c.log.WithDefaults(spec.Log)
	log := c.log.Logger(c.stderr)
	cfg, err := c.serverConfig(spec)
	if err != nil {
		return err
	}
	cfg.Version, cfg.Log = c.version, log
	healthPort, err := daemon.ListenHealth(spec.Health)
	if err != nil {
		return err
	}
	srv, err := New(cfg)
	if err != nil {
		return err
	}
	manager, stack := daemon.NewServiceManager(log), lifecycle.New(ctx)
	stack.Run("health", func(ctx context.Context) error { return srv.Health().Serve(ctx, healthPort, log) })
	stack.Run("watchdog", func(ctx context.Context) error { return manager.FeedWatchdog(ctx, srv.Health()) })
	stack.Run("server", srv.Run)
	err = c.serve(stack.Context(), srv, spec, manager, log)
	if failed := stack.Stop(); failed != nil {
		return failed // a failed part explains more than what the others saw of it
	}
	if ctx.Err() != nil {
		return nil // a stop, perhaps before the server was ready
	}
	return err
}

// serve waits until the server is ready. Then it prints the join token of --first-proxy, logs that the server
// is ready and tells the service manager. Unless --until-ready is set, it waits until ctx ends and announces
// the stop in the same way. It does not stop the server; start does.
func (c *command) serve(
	ctx context.Context,
	srv *Server,
	spec spec,
	manager daemon.ServiceManager,
	log *slog.Logger,
) error {
	if err := srv.Ready(ctx); err != nil {
		return err
	}
	if c.firstProxy {
		token, err := srv.InviteFirstProxy(ctx, c.publicNames, firstProxyTokenTTL)
		if err != nil {
			return err
		}
		fmt.Fprintln(c.stdout, token)
	}
	log.Info("ready", "version", c.version, "parts", spec.parts())
	manager.Ready("runs " + spec.parts())
	if c.untilReady {
		return nil
	}
	<-ctx.Done()
	log.Info("stopping: open sessions may go on for the drain time, a second signal ends them",
		"drain", srv.DrainTime())
	manager.Stopping(srv.DrainTime() + stopMargin)
	return nil
}

// serverConfig returns the configuration of the server from the configuration file, which s holds, and the
// bootstrap file, which it reads if --bootstrap names one. The caller adds Version and Log.
func (c *command) serverConfig(s spec) (Config, error) {
	cfg := s.config()
	if c.bootstrap == "" {
		return cfg, nil
	}
	if cfg.Auth == nil {
		return Config{}, bootstrapWithoutAuth.New("threshold start")
	}
	var err error
	cfg.Auth.BootstrapName = c.bootstrap
	if cfg.Auth.Bootstrap, err = readFile(c.bootstrap); err != nil {
		return cfg, err
	}
	cfg.Auth.RootKey, err = c.rootKey.file(c.stderr)
	return cfg, err
}
