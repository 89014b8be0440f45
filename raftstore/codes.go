package raftstore

import "github.com/threshold-access/threshold/internal/fault"

// Remedies of several errors.
const (
	tryAgain      = "try again in a moment" // while this replica cannot serve
	restoreBackup = "check the disk, then restore the data folder from a backup"
)

// The errors of this package.
var (
	changeUnknown = fault.Code{
		Name:   "change-unknown",
		Kind:   fault.Unavailable,
		Text:   "it is unknown whether the change was written",
		Remedy: "check whether the change was made, then try again",
	}

	commandDamaged = fault.Code{
		Name:   "store-command-damaged",
		Kind:   fault.Internal,
		Text:   "the log holds a damaged command: this replica has halted",
		Remedy: "restore this replica from a backup, or remove it and join it anew",
	}

	commandTooNew = fault.Code{
		Name: "store-command-too-new",
		Kind: fault.Unavailable,
		Text: "the log holds a command this release does not know: this replica has halted ({why})",
		Remedy: "upgrade this replica to the release of the newest member, then restart it; " +
			"nothing is lost",
	}

	commandUnanswered = fault.Code{
		Name:   "store-command-unanswered",
		Kind:   fault.Internal,
		Text:   "the state machine gave no answer",
		Remedy: "restart auth",
	}

	dataFolderDenied = fault.Code{
		Name:   "data-folder-denied",
		Kind:   fault.Denied,
		Text:   "the data folder cannot be used: {why}",
		Remedy: "check that auth's account owns the folder and may write there",
	}

	dataFolderInUse = fault.Code{
		Name:   "data-folder-in-use",
		Kind:   fault.Conflict,
		Text:   "another process uses the data folder \"{folder}\"",
		Remedy: "stop the other auth on this machine, or give this one its own data folder",
	}

	dataFolderUnreadable = fault.Code{
		Name:   "data-folder-unreadable",
		Kind:   fault.Internal,
		Text:   "the data folder cannot be read: {why}",
		Remedy: restoreBackup,
	}

	keyChanged = fault.Code{
		Name:   "store-key-changed",
		Kind:   fault.Conflict,
		Text:   "\"{key}\" was changed meanwhile",
		Remedy: "read it again and repeat the change",
	}

	keyUnknown = fault.Code{
		Name:   "store-key-unknown",
		Kind:   fault.NotFound,
		Text:   "there is no \"{key}\"",
		Remedy: "list the keys that exist",
	}

	leaseExpired = fault.Code{
		Name:   "lease-expired",
		Kind:   fault.Expired,
		Text:   "the lease has ended",
		Remedy: "take a new lease and write again",
	}

	leaseTimeInvalid = fault.Code{
		Name:   "lease-time-invalid",
		Kind:   fault.Invalid,
		Text:   "a lease lives for up to 24 hours",
		Remedy: "ask for a time between 1 ns and 24 h",
	}

	replicaNotLeader = fault.Code{
		Name:   "replica-not-leader",
		Kind:   fault.Unavailable,
		Text:   "this replica is not the leader",
		Remedy: tryAgain,
	}

	segmentDamaged = fault.Code{
		Name:   "segment-damaged",
		Kind:   fault.Internal,
		Text:   "a segment file of stream \"{stream}\" is not as it was written: {file}",
		Remedy: "compare it with a backup, and find out whether the disk failed or somebody changed it",
	}

	segmentMissing = fault.Code{
		Name:   "segment-missing",
		Kind:   fault.Internal,
		Text:   "a segment file of stream \"{stream}\" is missing: {file}",
		Remedy: "restore the data folder from a backup, or remove this replica and join it anew",
	}

	snapshotTooNew = fault.Code{
		Name:   "snapshot-too-new",
		Kind:   fault.Unavailable,
		Text:   "the snapshot is of a newer release ({why})",
		Remedy: "start the release that wrote it, or a newer one",
	}

	snapshotUnreadable = fault.Code{
		Name:   "snapshot-unreadable",
		Kind:   fault.Internal,
		Text:   "the snapshot cannot be read",
		Remedy: "restore the data folder from a backup",
	}

	storeConfigInvalid = fault.Code{
		Name:   "store-config-invalid",
		Kind:   fault.Invalid,
		Text:   "the store's configuration has {faults}",
		Remedy: "correct the auth section of the configuration file",
	}

	storeNotOpen = fault.Code{
		Name:   "store-not-open",
		Kind:   fault.Unavailable,
		Text:   "the store is not open yet",
		Remedy: tryAgain,
	}

	storeRunTwice = fault.Code{
		Name:   "store-run-twice",
		Kind:   fault.Internal,
		Text:   "the store was run before",
		Remedy: "make a new one",
	}

	storeStopped = fault.Code{
		Name:   "store-stopped",
		Kind:   fault.Unavailable,
		Text:   "the store has stopped",
		Remedy: tryAgain,
	}

	streamLimitReached = fault.Code{
		Name:   "stream-limit-reached",
		Kind:   fault.Exhausted,
		Text:   "no more streams can be created: \"{stream}\"",
		Remedy: "append to a stream that exists",
	}

	streamUnreadable = fault.Code{
		Name:   "stream-unreadable",
		Kind:   fault.Internal,
		Text:   "stream \"{stream}\" cannot be read on this replica",
		Remedy: restoreBackup,
	}

	transactionInvalid = fault.Code{
		Name:   "transaction-invalid",
		Kind:   fault.Invalid,
		Text:   "the transaction is not valid: {why}",
		Remedy: "send less, or split it into several transactions",
	}

	watchExpired = fault.Code{
		Name:   "watch-expired",
		Kind:   fault.Expired,
		Text:   "the changes since this revision are no longer kept",
		Remedy: "list again, then watch from the listing's revision",
	}
)
