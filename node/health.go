package node

import (
	"context"
)

// Health returns nil if the node has a tunnel to at least one proxy. Otherwise nobody can reach the node, and
// the error is a fault of kind Unavailable.
func (n *Node) Health(context.Context) error {
	if t := n.tunnels.Load(); t != nil && t.Count() > 0 {
		return nil
	}
	return nodeWithoutTunnel.New("node.Health")
}
