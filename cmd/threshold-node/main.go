// Command threshold-node is the agent: it makes this machine reachable through the cluster without opening a
// port.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/threshold-access/threshold/internal/egress"
	"github.com/threshold-access/threshold/internal/lifecycle"
	"github.com/threshold-access/threshold/node"
)

var version = "dev"

// gcPercent makes the agent keep less memory after a burst of sessions, for some processor time within one:
// half of what it was is as much as it may be without a collection for every megabyte that a client sends.
const gcPercent = 50

// memoryLimit is what the runtime keeps to by collecting more often, rather than to let garbage pile up while
// many sessions move a lot. What is in use has no limit by it; it leaves room above that, or the runtime
// would do nothing but collect.
const memoryLimit = 16 << 20

func main() {
	if code, is := node.Helper(); is {
		os.Exit(code)
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
		debug.SetMemoryLimit(memoryLimit)
	}
	ctx, stop := lifecycle.UntilSignal(os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run returns the exit status: 0 for a clean end, 1 for a fault, 2 for a command line that cannot be meant.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	o, err := parse(args, stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case errors.Is(err, errUsage):
		return 2
	case err == nil && o.showVersion:
		fmt.Fprintln(stdout, "threshold-node", version)
		return 0
	}
	if err = o.log.Validate(); err == nil {
		o = o.orDefault(defaultConfig)
		err = begin(ctx, &o, stdout, stderr)
	}
	if err == nil {
		return 0
	}
	o.log.Report(stderr, "threshold-node", err)
	return 1
}

// begin checks everything, and serves unless that was all that is asked for.
func begin(ctx context.Context, o *options, stdout, stderr io.Writer) error {
	s, err := o.read()
	if err != nil {
		return err
	}
	o.log = o.log.WithDefaults(s.Log)
	log := o.log.Logger(stderr)
	cfg, err := o.config(s, os.LookupEnv)
	if err != nil {
		return err
	}
	cfg.Version, cfg.Log = version, log
	n, err := node.New(cfg)
	if err != nil {
		return err
	}
	if o.check {
		fmt.Fprintf(
			stdout,
			"%s: ok, dials %s\n",
			first(o.file, "the command line"),
			strings.Join(cfg.Proxies, ", "),
		)
		return nil
	}
	if o.token != "" {
		log.Warn(
			"the join token stands on the command line, where others on this machine can read it",
			"better",
			"--token-file FILE, or "+tokenVariable,
		)
	}
	if egress.HasPassword(o.httpsProxy) {
		log.Warn(
			"the HTTP proxy's password stands on the command line, where others on this machine can read it",
			"better",
			"https_proxy in the file",
		)
	}
	_ = os.Unsetenv(tokenVariable) // nothing that this process starts needs it
	return serve(ctx, n, s, log)
}
