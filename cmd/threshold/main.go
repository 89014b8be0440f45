// Command threshold is the server: auth, proxy and node, whichever the configuration names.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"syscall"

	"github.com/threshold-access/threshold/internal/daemon"
	"github.com/threshold-access/threshold/internal/lifecycle"
	"github.com/threshold-access/threshold/node"
)

var version = "dev"

// defaultConfig is read when no other file is named.
const defaultConfig = "/etc/threshold/threshold.yaml"

const usage = `threshold is the server of a Threshold cluster.

  threshold start [--config FILE]                     run the parts that FILE names until SIGTERM
  threshold start [--config FILE] --bootstrap FILE    give birth to a new cluster first; refused where one exists
  threshold check [--config FILE] [--bootstrap FILE]  say everything that is wrong with the files, and start nothing
  threshold version                                   print the version

Without --config it is /etc/threshold/threshold.yaml. "threshold start -h" lists the other flags; docs/cli.md describes both files.
A second signal ends the server at once, without waiting for sessions.
`

// gcPercent makes the server keep less memory: nearly all of it belongs to tunnels and the store, which live
// for days. A collection comes seldom for either.
const gcPercent = 50

func main() {
	if code, ran := node.Helper(); ran {
		os.Exit(code)
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	ctx, stop := lifecycle.UntilSignal(os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
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
	case "start", "check":
		return runFiles(ctx, args[0], args[1:], stdout, stderr)
	}
	fmt.Fprintf(
		stderr,
		"threshold: error: there is no command %q\nthreshold: hint: run: threshold help\n",
		args[0],
	)
	return 2
}

// options are what the command line says.
type options struct {
	config     string
	bootstrap  string
	log        daemon.Log
	untilReady bool
	firstProxy bool
}

// runFiles runs the commands that read the server's files.
func runFiles(ctx context.Context, command string, args []string, stdout, stderr io.Writer) int {
	var o options
	flags := o.flags(command)
	err := flags.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprintf(stdout, "threshold %s:\n", command)
		flags.SetOutput(stdout)
		flags.PrintDefaults()
		return 0
	case err == nil && flags.NArg() > 0:
		err = fmt.Errorf("%q is one word too many: files are named with flags", flags.Arg(0))
	case err == nil && o.firstProxy && !o.untilReady:
		err = errors.New(
			"--first-proxy prints a secret, which belongs on a terminal and in no service's log: give --until-ready too",
		)
	}
	if err != nil {
		fmt.Fprintf(stderr, "threshold: error: %v\nthreshold: hint: run: threshold %s -h\n", err, command)
		return 2
	}
	if command == "check" {
		err = check(o, stdout)
	} else {
		err = start(ctx, &o, stdout, stderr)
	}
	if err == nil {
		return 0
	}
	o.log.Report(stderr, "threshold", err)
	return 1
}

func (o *options) flags(command string) *flag.FlagSet {
	f := flag.NewFlagSet("threshold "+command, flag.ContinueOnError)
	f.SetOutput(io.Discard) // what is wrong comes without the whole help around it
	f.StringVar(&o.config, "config", defaultConfig, "the server's configuration `file`")
	f.StringVar(
		&o.bootstrap,
		"bootstrap",
		"",
		"the `file` that a cluster is born from; once, on an empty data folder",
	)
	if command == "start" {
		f.StringVar(
			&o.log.Level,
			"log-level",
			"",
			"`level` of the log: debug, info, warn or error; wins over the file",
		)
		f.StringVar(&o.log.Format, "log-format", "", "`form` of the log: text or json; wins over the file")
		f.BoolVar(
			&o.untilReady,
			"until-ready",
			false,
			"stop again as soon as every part is ready, as after a birth that a service goes on from",
		)
		f.BoolVar(
			&o.firstProxy,
			"first-proxy",
			false,
			"with --until-ready: print a join token for the cluster's first proxy; refused once there is one",
		)
	}
	return f
}
