package spool

import "github.com/threshold-access/threshold/internal/fault"

// The errors of this package. Users read them when a session is refused.
var (
	spoolDiskFull = fault.Code{
		Name:   "spool-disk-full",
		Kind:   fault.Exhausted,
		Text:   "this node's disk is full, so the session cannot be recorded",
		Remedy: "ask an administrator to free space on the node",
	}

	spoolFull = fault.Code{
		Name:   "spool-full",
		Kind:   fault.Exhausted,
		Text:   "this node holds {count} audit events that the auth service has not stored",
		Remedy: "ask an administrator why the node cannot reach the auth service",
	}

	spoolUnwritable = fault.Code{
		Name:   "spool-unwritable",
		Kind:   fault.Internal,
		Text:   "this node cannot write its audit events",
		Remedy: "ask an administrator to look at {folder} on the node",
	}
)
