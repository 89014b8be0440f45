package node

import (
	"context"

	"github.com/threshold-access/threshold/internal/fault"
)

// Health says why nobody reaches this node now: no tunnel stands.
func (n *Node) Health(context.Context) error {
	if l := n.tunnels.Load(); l != nil && l.Count() > 0 {
		return nil
	}
	return fault.New(
		fault.Unavailable,
		"node.Health",
		"no tunnel to a proxy stands",
		"look at the node's log",
	)
}
