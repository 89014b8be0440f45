package raftstore

import (
	"errors"
	"io"
	"log/slog"
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
	log   *slog.Logger
	load  snapshotLoad
}

func newFSM(files *segmentFiles, ringBytes int, l *wal.Latch, log *slog.Logger) *fsm {
	f := &fsm{files: files, ring: newRing(ringBytes), latch: l, log: log}
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
	f.load.add(len(entry.Data))
	return result
}

// commandFault says why a command halts the replica: it is of a newer release, or it is damaged.
func commandFault(err error) error {
	if errors.Is(err, errUnsupported) {
		return commandTooNew.Wrap(err, "raftstore", fault.Args{"why": err.Error()})
	}
	return commandDamaged.Wrap(err, "raftstore")
}

// Snapshot returns a snapshot of the current state, which Persist writes while further entries are applied.
func (f *fsm) Snapshot() (raft.FSMSnapshot, error) {
	if err := f.latch.Err(); err != nil {
		return nil, err
	}
	return snapshot{f.state.Load(), f.files, &f.load, f.load.counted()}, nil
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
	f.files.keep(s)
	f.state.Store(s)
	f.ring.reset(s.revision)
	f.load.subtract(f.load.counted())
	return nil
}

// checkSegments returns a fault when a segment file that the state refers to is missing. It also checks the
// header of each, and the digest of the last one of each stream. A damaged one is only logged: it keeps
// nobody from appending to the stream, and only reads of that segment fail.
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
		f.logDamage(string(name), st)
	}
	return nil
}

// logDamage logs the segments of a stream whose headers, or in the last one whose records, are not what the
// state says.
func (f *fsm) logDamage(name string, st stream) {
	segs := st.segments()
	for i, seg := range segs {
		at := segmentAt{segment: seg, stream: name, before: st.digestBefore(i)}
		check := f.files.checkHeader
		if isTail := i == len(segs)-1; isTail {
			check = f.files.checkDigest
		}
		if err := check(at); err != nil {
			f.log.Error("a segment of a stream is damaged", "stream", name,
				"file", segmentName(name, seg.base), "err", err, "remedy", segmentDamaged.Remedy)
		}
	}
}
