// Command tsh is Threshold's client: tsh login, tsh ssh, tsh scp. Package tsh describes it.
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

// gcPercent makes the garbage collector run less often than by default. tsh runs for a short time, and a
// large transfer makes much garbage and keeps little memory in use. This saves a tenth of the time of a
// transfer, as measured, and costs some memory.
const gcPercent = 400

// main runs one command of package tsh and ends the process with its exit code. SIGINT and SIGTERM end the
// command's context; tsh ssh also sends them on to the remote program.
func main() {
	if os.Getenv("GOGC") == "" { // the user's own setting takes precedence
		debug.SetGCPercent(gcPercent)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := tsh.Main(ctx, tsh.Env{
		Args:    os.Args[1:],
		Stdin:   os.Stdin,
		Stdout:  os.Stdout,
		Stderr:  os.Stderr,
		Getenv:  os.Getenv,
		Version: version,
	})
	stop()
	os.Exit(code)
}
