package tunnels

import "github.com/threshold-access/threshold/internal/fault"

// The errors of this package.
var (
	nodeJustGone = fault.Code{
		Name:   "node-just-gone",
		Kind:   fault.Unavailable,
		Text:   "the node has just gone offline",
		Remedy: "try again in a few seconds",
	}

	nodeLocked = fault.Code{
		Name:   "tunnel-node-locked",
		Kind:   fault.Denied,
		Text:   "{why}",
		Remedy: "{hint}; a node that was removed joins again with a new token",
	}
)
