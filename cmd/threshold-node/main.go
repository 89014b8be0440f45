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

var version = "dev"

const (
	// gcPercent halves the memory that garbage may take after a burst of sessions, for some processor time
	// during one. A lower value would collect for every megabyte that a client sends.
	gcPercent = 50
	// memoryLimit, in bytes, makes the runtime collect more often while many sessions move a lot of data. It
	// is no limit for what is in use, and leaves room above that: otherwise the runtime would do nothing but
	// collect.
	memoryLimit = 16 << 20
)

func main() {
	if code, ran := node.Helper(); ran {
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
