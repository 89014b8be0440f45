package raftstore

import (
	"errors"
	"io"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/raftstore/wal"
)

// fsm is raft's finite state machine: it turns log entries into states.
//
// raft calls Apply, Snapshot and Restore from one goroutine. Any goroutine may read state, ring and files.
// After the latch has tripped (wal.Latch: this replica has failed), no entry is applied and no snapshot is
// made; the state stays as it is.
type fsm struct {
	state atomic.Pointer[state] // the latest; states are immutable
	files *segmentFiles
	ring  *ring
	latch *wal.Latch
}

func newFSM(files *segmentFiles, ringBytes int, l *wal.Latch) *fsm {
	f := &fsm{files: files, ring: newRing(ringBytes), latch: l}
	f.state.Store(newState())
	return f
}

// applyResult is what Apply returns to the proposer on this replica.
type applyResult struct {
	revision Revision
	time     time.Time
	outcomes []outcome // one for each operation
}

// Apply makes the next state from one log entry and makes it the current one. It returns an *applyResult, or
// an error when this replica has halted: the disk failed, or the entry is of a newer release or damaged.
//
// A halted replica applies no further entry and makes no snapshot; the entry waits in the log for the next
// start. raft's own AppliedIndex counts the entry nevertheless, so state.revision is the index that counts.
func (f *fsm) Apply(entry *raft.Log) any {
	if err := f.latch.Err(); err != nil {
		return err
	}
	cmd, err := decodeCommand(entry.Data)
	if err != nil {
		return f.latch.Trip(commandFault(err))
	}
	next := f.state.Load().newBuilder(Revision(entry.Index), entry.Term, cmd.time, f.files)
	result := &applyResult{
		revision: next.revision,
		time:     time.Unix(0, next.clock),
		outcomes: make([]outcome, len(cmd.ops)),
	}
	for i, op := range cmd.ops {
		if result.outcomes[i], err = next.apply(op); err != nil {
			return f.latch.Trip(wal.DiskFault(err))
		}
	}
	// First the state, then its events: a watch that gets an event can read at least that state.
	f.state.Store(next.finish())
	f.ring.add(next.revision, next.events)
	return result
}

// commandFault says why a command halts the replica: it is of a newer release, or it is damaged.
func commandFault(err error) error {
	if errors.Is(err, errUnsupported) {
		return fault.Wrap(
			err,
			fault.Unavailable,
			"raftstore",
			"the log holds a command this release does not know: this replica has halted",
			"upgrade this replica to the release of the newest member, then restart it; nothing is lost",
		)
	}
	return fault.Wrap(
		err,
		fault.Internal,
		"raftstore",
		"the log holds a damaged command: this replica has halted",
		"restore this replica from a backup, or remove it and join it anew",
	)
}

// Snapshot returns a snapshot of the current state, which Persist writes while further entries are applied.
func (f *fsm) Snapshot() (raft.FSMSnapshot, error) {
	if err := f.latch.Err(); err != nil {
		return nil, err
	}
	return snapshot{f.state.Load(), f.files}, nil
}

// Restore replaces the state by the one that it reads from a snapshot. On an error the state stays as it is.
// The segment files that the snapshot names must be there: a snapshot does not contain the records of
// streams.
func (f *fsm) Restore(r io.ReadCloser) error {
	defer r.Close()
	s, err := readSnapshot(r)
	if err != nil {
		return snapshotFault(err)
	}
	if err := f.checkSegments(s); err != nil {
		return err
	}
	if err := f.files.close(); err != nil {
		return f.latch.Trip(wal.DiskFault(err))
	}
	f.state.Store(s)
	f.ring.reset(s.revision)
	return nil
}

// checkSegments returns a fault when a segment file that the state refers to is missing.
func (f *fsm) checkSegments(s *state) error {
	present, err := f.files.list()
	if err != nil {
		return wal.DiskFault(err)
	}
	it := s.streams.Root().Iterator()
	for name, st, ok := it.Next(); ok; name, st, ok = it.Next() {
		if err := f.files.verify(string(name), st, present); err != nil {
			return err
		}
	}
	return nil
}
