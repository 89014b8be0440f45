// Command threshold-node is the agent: it makes this machine reachable through the cluster without opening a
// port.
package main

import (
	"os"
	"runtime/debug"
	"syscall"

	"github.com/threshold-access/threshold/internal/lifecycle"
	"github.com/threshold-access/threshold/node"
	"github.com/threshold-access/threshold/node/agent"
)

// version is set by the linker: see the Makefile.
var version = "dev"

const (
	// gcPercent is half of Go's default: the heap may grow by half before garbage is collected. That halves
	// the memory that garbage takes after a burst of sessions, and costs some processor time during one. With
	// a lower value there would be a collection for every megabyte that a client sends.
	gcPercent = 50
	// memoryLimit, in bytes, makes the runtime collect garbage more often while the process uses about this
	// much. It does not limit memory that is in use. It is more than an agent normally uses: with less, the
	// runtime would collect all the time.
	memoryLimit = 16 << 20
)

func main() {
	if code, isHelper := node.Helper(); isHelper {
		os.Exit(code)
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
		debug.SetMemoryLimit(memoryLimit)
	}
	ctx, stop := lifecycle.UntilSignal(os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(agent.Main(ctx, version, os.Args[1:], os.Stdout, os.Stderr))
}
