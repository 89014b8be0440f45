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

var version = "dev"

// gcPercent makes the server keep less memory. Nearly all of it belongs to tunnels and the store, which live
// for days, so that collections stay rare all the same.
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
	os.Exit(server.Main(ctx, version, os.Args[1:], os.Stdout, os.Stderr))
}
