package agent

import (
	"context"
	"log/slog"
	"runtime/debug"
	"time"

	"github.com/threshold-access/threshold/internal/daemon"
	"github.com/threshold-access/threshold/internal/lifecycle"
	"github.com/threshold-access/threshold/node"
)

const (
	// attachTimeout is how long the service manager waits for the first tunnel. After that the agent reports
	// that it has started, and that it still tries to reach the cluster.
	attachTimeout = 30 * time.Second
	// stopMargin is how long a stop may take in addition to the time to drain. The service manager is told
	// the sum, so that it does not kill the agent before.
	stopMargin = 15 * time.Second
)

// serve runs the node, with the server at its health address and the notifications to the service manager,
// until ctx ends or one of them ends by itself. It returns nil after a clean stop, or the error of the part
// that failed.
func serve(ctx context.Context, n *node.Node, fileSpec spec, log *slog.Logger) error {
	listener, err := daemon.ListenHealth(fileSpec.Health)
	if err != nil {
		return err
	}
	var health daemon.Health
	health.Add("node", n.Health)
	health.Started()
	manager := daemon.NewServiceManager(log)
	stack := lifecycle.New(ctx)
	stack.Run("health", func(ctx context.Context) error { return health.Serve(ctx, listener, log) })
	stack.Run("watchdog", func(ctx context.Context) error { return manager.FeedWatchdog(ctx, &health) })
	stack.Run("manager", func(ctx context.Context) error { notifyManager(ctx, n, manager); return nil })
	// nodeEnded is closed when the node has ended. The stack's context ends only if that was with an error,
	// but the agent stops in any case.
	nodeEnded := make(chan struct{})
	stack.Run("node", func(ctx context.Context) error {
		defer close(nodeEnded)
		return n.Run(ctx)
	})
	select {
	case <-stack.Context().Done():
	case <-nodeEnded:
	}
	health.Stopping()
	manager.Stopping(n.DrainTime() + stopMargin)
	return stack.Stop()
}

// notifyManager tells the service manager that the service has started, as soon as the node is attached to a
// proxy. If that takes longer than attachTimeout, it tells the manager then, and once more when the node is
// attached. It returns after that, or when ctx or the node ends.
func notifyManager(ctx context.Context, n *node.Node, manager daemon.ServiceManager) {
	attachCtx, cancel := context.WithTimeout(ctx, attachTimeout)
	defer cancel()
	if n.Ready(attachCtx) != nil {
		if ctx.Err() != nil {
			return
		}
		manager.Ready("the cluster cannot be reached yet; trying again")
		if n.Ready(ctx) != nil {
			return
		}
	}
	debug.FreeOSMemory() // the join and the first handshakes needed memory that is not needed again
	manager.Ready("attached")
}
