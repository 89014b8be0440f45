package agent

import (
	"cmp"
	"context"
	"log/slog"
	"runtime/debug"
	"time"

	"github.com/threshold-access/threshold/internal/daemon"
	"github.com/threshold-access/threshold/internal/lifecycle"
	"github.com/threshold-access/threshold/node"
)

const (
	// attachTimeout is how long the service manager waits for the first tunnel. After that the service counts
	// as started: the agent keeps trying, and says so.
	attachTimeout = 30 * time.Second
	// stopMargin is how long a stop may take besides waiting for sessions. The service manager is told.
	stopMargin = 15 * time.Second
)

// serve runs the node, the health address and the notifications of the service manager until ctx ends.
func serve(ctx context.Context, n *node.Node, s spec, log *slog.Logger) error {
	listener, err := daemon.ListenHealth(s.Health)
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
	nodeEnded := make(chan struct{}) // the node may end without a fault: when ctx ends while it joins
	stack.Run("node", func(ctx context.Context) error {
		defer close(nodeEnded)
		return n.Run(ctx)
	})
	select {
	case <-stack.Context().Done():
	case <-nodeEnded:
	}
	health.Stopping()
	manager.Stopping(cmp.Or(s.Drain, node.DefaultDrain) + stopMargin)
	return stack.Stop()
}

// notifyManager tells the service manager that the service has started: when the node is attached to a proxy,
// or after attachTimeout and again once it is attached. It returns after that, or when ctx ends.
func notifyManager(ctx context.Context, n *node.Node, m daemon.ServiceManager) {
	soon, cancel := context.WithTimeout(ctx, attachTimeout)
	defer cancel()
	if n.Ready(soon) != nil {
		if ctx.Err() != nil {
			return
		}
		m.Ready("the cluster cannot be reached yet; trying again")
		if n.Ready(ctx) != nil {
			return
		}
	}
	debug.FreeOSMemory() // joining and the first handshakes needed memory that nothing needs again
	m.Ready("attached")
}
