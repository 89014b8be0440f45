package raftstore

import "github.com/threshold-access/threshold/internal/fault"

// tryAgain is the remedy while this replica cannot serve.
const tryAgain = "try again in a moment"

// The errors of this package that reach users.
var (
	changeUnknown = fault.Code{
		Name:   "change-unknown",
		Kind:   fault.Unavailable,
		Text:   "it is unknown whether the change was written",
		Remedy: "check whether the change was made, then try again",
	}

	replicaNotLeader = fault.Code{
		Name:   "replica-not-leader",
		Kind:   fault.Unavailable,
		Text:   "this replica is not the leader",
		Remedy: tryAgain,
	}

	storeNotOpen = fault.Code{
		Name:   "store-not-open",
		Kind:   fault.Unavailable,
		Text:   "the store is not open yet",
		Remedy: tryAgain,
	}

	storeStopped = fault.Code{
		Name:   "store-stopped",
		Kind:   fault.Unavailable,
		Text:   "the store has stopped",
		Remedy: tryAgain,
	}
)
