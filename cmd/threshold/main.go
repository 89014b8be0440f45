// Command threshold is the server: auth, proxy and node, whichever the configuration names.
package main

import (
	"os"
	"runtime/debug"
	"syscall"

	"github.com/threshold-access/threshold/internal/lifecycle"
	"github.com/threshold-access/threshold/node"
	"github.com/threshold-access/threshold/server"
)

// version is set by the linker: see the Makefile.
var version = "dev"

// gcPercent is half of Go's default: the heap may grow by half before garbage is collected. So the server
// needs less memory. Nearly all of it belongs to tunnels and the store, which live for days and make little
// garbage, so collections stay rare.
const gcPercent = 50

func main() {
	if code, isHelper := node.Helper(); isHelper {
		os.Exit(code)
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	ctx, stop := lifecycle.UntilSignal(os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(server.Main(ctx, version, os.Args[1:], os.Stdout, os.Stderr))
}
