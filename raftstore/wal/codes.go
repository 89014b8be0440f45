package wal

import "github.com/threshold-access/threshold/internal/fault"

// The errors of this package that reach users.
var (
	diskFailed = fault.Code{
		Name: "disk-failed",
		Kind: fault.Internal,
		Text: "the disk of this replica failed: nothing more is written",
		Remedy: "check the disk (dmesg, smartctl), then restart auth; what was acknowledged is read again " +
			"from disk",
	}

	diskFull = fault.Code{
		Name:   "disk-full",
		Kind:   fault.Exhausted,
		Text:   "the disk of this replica is full: nothing more is written, nothing written is lost",
		Remedy: "free space in the data folder's file system, then restart auth",
	}

	logDamaged = fault.Code{
		Name:   "log-damaged",
		Kind:   fault.Internal,
		Text:   "the log is damaged before its end",
		Remedy: "check the disk, then restore this replica from a backup",
	}
)
