// Command tsh is Threshold's client: tsh login, tsh ssh, tsh scp. Package tsh says what it does.
package main

import (
	"context"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/threshold-access/threshold/tsh"
)

// version is set by the linker: see the Makefile.
var version = "dev"

// gcPercent spends some memory of a program that soon ends on speed: a large transfer makes much garbage and
// keeps little (measured: a tenth).
const gcPercent = 400

func main() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := tsh.Main(
		ctx,
		tsh.Env{
			Args:    os.Args[1:],
			Stdin:   os.Stdin,
			Stdout:  os.Stdout,
			Stderr:  os.Stderr,
			Getenv:  os.Getenv,
			Version: version,
		},
	)
	stop()
	os.Exit(code)
}
