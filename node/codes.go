package node

import "github.com/threshold-access/threshold/internal/fault"

// The errors of this package.
var (
	nodeConfigInvalid = fault.Code{
		Name:   "node-config-invalid",
		Kind:   fault.Invalid,
		Text:   "{faults}",
		Remedy: "correct the flags or the configuration file; see -h",
	}

	proxyLocked = fault.Code{
		Name:   "node-proxy-locked",
		Kind:   fault.Denied,
		Text:   "{why}",
		Remedy: "{hint}",
	}

	nodeDataNotCreated = fault.Code{
		Name:   "node-data-not-created",
		Kind:   fault.Invalid,
		Text:   "the data directory {folder} cannot be created",
		Remedy: "create it, owned by this account, or name another with --data",
	}

	nodeDataUnlockable = fault.Code{
		Name: "node-data-unlockable",
		Kind: fault.Internal,
		Text: "the data directory {folder} cannot be locked",
		Remedy: "name a directory on a local disk with --data: some network file systems have no " +
			"locks",
	}

	nodeDataUnwritable = fault.Code{
		Name:   "node-data-unwritable",
		Kind:   fault.Invalid,
		Text:   "the data directory {folder} cannot be written",
		Remedy: "start threshold-node as the account that owns it, or name another with --data",
	}

	nodeDataUsed = fault.Code{
		Name:   "node-data-used",
		Kind:   fault.Conflict,
		Text:   "another node uses the data directory {folder}",
		Remedy: "stop that node, or give this one a directory of its own with --data",
	}

	nodeWithoutTunnel = fault.Code{
		Name:   "node-without-tunnel",
		Kind:   fault.Unavailable,
		Text:   "this node has no tunnel to a proxy",
		Remedy: "look at the node's log",
	}
)
