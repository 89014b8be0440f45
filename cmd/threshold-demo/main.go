// Command threshold-demo runs a whole cluster in the foreground: auth, proxy, a node for the current account,
// and a small OIDC provider. It is a program of its own, so that no production binary contains the toy
// provider.
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"syscall"

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/lifecycle"
	"github.com/threshold-access/threshold/node"
)

var version = "dev"

func main() {
	if code, ran := node.Helper(); ran {
		os.Exit(code)
	}
	os.Exit(run())
}

func run() int {
	flags := flag.NewFlagSet("threshold-demo", flag.ContinueOnError)
	listen := flags.String("listen", "127.0.0.1:8443", "`address` of the cluster's one port")
	data := flags.String(
		"data",
		"",
		"keep the cluster's data in this `folder` (default: a temporary one, removed at the end)",
	)
	show := flags.Bool("version", false, "print the version and end")
	flags.Usage = func() {
		fmt.Fprint(
			flags.Output(),
			"threshold-demo runs a whole Threshold cluster on this machine until Ctrl-C.\n\n",
		)
		flags.PrintDefaults()
	}
	flags.SetOutput(io.Discard) // what is wrong comes without the whole help around it
	err := flags.Parse(os.Args[1:])
	if err == nil && flags.NArg() > 0 {
		err = fmt.Errorf("%q is no flag", flags.Arg(0))
	}
	if err == flag.ErrHelp {
		flags.SetOutput(os.Stderr)
		flags.Usage()
		return 0
	}
	if err != nil {
		fmt.Fprintf(
			os.Stderr,
			"threshold-demo: error: %v\nthreshold-demo: hint: run: threshold-demo -h\n",
			err,
		)
		return 2
	}
	if *show {
		fmt.Println("threshold-demo", version)
		return 0
	}
	ctx, stop := lifecycle.UntilSignal(
		os.Interrupt,
		syscall.SIGTERM,
		syscall.SIGHUP,
	) // a closed window ends it too
	defer stop()
	if err := demo(ctx, *listen, *data, os.Stdout); err != nil {
		fault.Report(os.Stderr, "threshold-demo", err)
		return 1
	}
	return 0
}
