// Command threshold is the server: auth, proxy and node, whichever the configuration names.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/node"
)

var version = "dev"

const usage = `threshold is the server of a Threshold cluster.

  threshold start --config FILE [--bootstrap FILE]   run the parts that FILE names until SIGTERM
  threshold version                                  print the version

--bootstrap gives birth to a new cluster; it is refused where one exists.
See docs/cli.md for both files.
`

func main() {
	if code, ran := node.Helper(); ran {
		os.Exit(code)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
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
	case "start":
		return runStart(ctx, args[1:], stderr)
	}
	fmt.Fprintf(stderr, "threshold: error: there is no command %q\nthreshold: hint: run: threshold help\n", args[0])
	return 2
}

func runStart(ctx context.Context, args []string, stderr io.Writer) int {
	flags := flag.NewFlagSet("threshold start", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // what is wrong comes without the whole help around it
	file := flags.String("config", "/etc/threshold/threshold.yaml", "the server's configuration `file`")
	birth := flags.String("bootstrap", "", "give birth to a cluster as this `file` says; once, on an empty data folder")
	err := flags.Parse(args)
	if err == nil && flags.NArg() > 0 {
		err = fmt.Errorf("%q is one word too many: files are named with flags", flags.Arg(0))
	}
	if err == flag.ErrHelp {
		flags.SetOutput(stderr)
		flags.Usage()
		return 0
	}
	if err != nil {
		fmt.Fprintf(stderr, "threshold: error: %v\nthreshold: hint: run: threshold start -h\n", err)
		return 2
	}
	err = start(ctx, *file, *birth, stderr)
	if err == nil {
		return 0
	}
	fault.Report(stderr, "threshold", err)
	return 1
}
