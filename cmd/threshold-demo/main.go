// Command threshold-demo runs a whole cluster in the foreground: auth, proxy, a node for the current account,
// and a small OIDC provider. It is a program of its own, so that no production binary contains that provider.
package main

import (
	"os"
	"syscall"

	"github.com/threshold-access/threshold/internal/lifecycle"
	"github.com/threshold-access/threshold/node"
	"github.com/threshold-access/threshold/server/demo"
)

// version is set by the linker: see the Makefile.
var version = "dev"

func main() {
	if code, isHelper := node.Helper(); isHelper {
		os.Exit(code)
	}
	// SIGHUP comes when the terminal is closed in which the demo runs.
	ctx, stop := lifecycle.UntilSignal(os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	code := demo.Main(ctx, version, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}
