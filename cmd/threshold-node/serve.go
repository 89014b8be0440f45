package main

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
	// attachPatience is how long the service manager waits for the first tunnel. A machine whose cluster is
	// away is up all the same: the agent goes on trying, and says so.
	attachPatience = 30 * time.Second
	// stopSlack is what a stop may take beside waiting for sessions.
	stopSlack = 15 * time.Second
)

// serve runs the node and what tells of it until ctx ends.
func serve(ctx context.Context, n *node.Node, s spec, log *slog.Logger) error {
	l, err := daemon.ListenHealth(s.Health)
	if err != nil {
		return err
	}
	var health daemon.Health
	health.Add("node", n.Health)
	health.Started()
	manager := daemon.NewServiceManager(log)
	stack := lifecycle.New(ctx)
	stack.Run("health", func(ctx context.Context) error { return health.Serve(ctx, l, log) })
	stack.Run("watchdog", func(ctx context.Context) error { return manager.FeedWatchdog(ctx, &health) })
	ended := make(chan error, 1) // the node may end without a fault, as where ctx ended early
	stack.Run("manager", func(ctx context.Context) error { tell(ctx, n, manager); return nil })
	stack.Run("node", func(ctx context.Context) error {
		err := n.Run(ctx)
		ended <- nil
		return err
	})
	select {
	case <-stack.Context().Done():
	case <-ended:
	}
	health.Stopping()
	manager.Stopping(cmp.Or(s.Drain, defaultDrain) + stopSlack)
	return stack.Stop()
}

// tell says when the node is up, and when it is attached, if that takes longer.
func tell(ctx context.Context, n *node.Node, m daemon.ServiceManager) {
	soon, cancel := context.WithTimeout(ctx, attachPatience)
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
	debug.FreeOSMemory() // what the first handshakes took, and nothing takes again
	m.Ready("attached")
}
