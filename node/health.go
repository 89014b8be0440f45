package node

import (
	"context"

	"github.com/threshold-access/threshold/internal/fault"
)

// Health says why nobody can reach this node now: it has no tunnel to a proxy.
func (n *Node) Health(context.Context) error {
	if t := n.tunnels.Load(); t != nil && t.Count() > 0 {
		return nil
	}
	const msg = "this node has no tunnel to a proxy"
	return fault.New(fault.Unavailable, "node.Health", msg, "look at the node's log")
}
