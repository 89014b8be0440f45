package raftstore

import (
	"errors"
	"io"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/threshold-access/threshold/internal/fault"
)

// fsm is raft's FSM: it turns log entries into states. Apply, Snapshot and Restore are called by one
// goroutine, raft's; state and ring may be read by all.
type fsm struct {
	state atomic.Pointer[state]
	files *segmentFiles
	ring  *ring
	latch *latch
}

func newFSM(files *segmentFiles, ringBytes int, l *latch) *fsm {
	m := &fsm{files: files, ring: newRing(ringBytes), latch: l}
	m.state.Store(newState())
	return m
}

// applyResult is what Apply tells the proposer on this replica.
type applyResult struct {
	revision Revision
	time     time.Time
	outcomes []outcome // one for each operation
}

// Apply makes the next state. It returns an *applied, or an error when this replica has halted: then no
// further entry is applied, no snapshot made, and the entry waits in the log for the next start. raft's own
// AppliedIndex counts it nevertheless; the index that counts is state.revision.
func (m *fsm) Apply(l *raft.Log) any {
	if err := m.latch.err(); err != nil {
		return err
	}
	cmd, err := decodeCommand(l.Data)
	if err != nil {
		return m.latch.trip(commandFault(err))
	}
	next := m.state.Load().builder(Revision(l.Index), l.Term, cmd.time, m.files)
	out := &applyResult{
		revision: next.revision,
		time:     time.Unix(0, next.clock),
		outcomes: make([]outcome, len(cmd.ops)),
	}
	for i, op := range cmd.ops {
		if out.outcomes[i], err = next.apply(op); err != nil {
			return m.latch.trip(diskFault(err))
		}
	}
	m.state.Store(next.finish())
	m.ring.add(next.revision, next.events)
	return out
}

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

// Snapshot keeps the state as it is; Persist writes it while the machine goes on.
func (m *fsm) Snapshot() (raft.FSMSnapshot, error) {
	if err := m.latch.err(); err != nil {
		return nil, err
	}
	return snapshot{m.state.Load(), m.files}, nil
}

// Restore replaces the state by a snapshot's, or leaves it untouched on an error.
func (m *fsm) Restore(r io.ReadCloser) error {
	defer r.Close()
	s, err := readSnapshot(r)
	if err != nil {
		return snapshotFault(err)
	}
	if err := m.checkSegments(s); err != nil {
		return err
	}
	if err := m.files.close(); err != nil {
		return m.latch.trip(diskFault(err))
	}
	m.state.Store(s)
	m.ring.reset(s.revision)
	return nil
}

func (m *fsm) checkSegments(s *state) error {
	present, err := m.files.list()
	if err != nil {
		return diskFault(err)
	}
	it := s.streams.Root().Iterator()
	for name, st, ok := it.Next(); ok; name, st, ok = it.Next() {
		if err := m.files.verify(string(name), st, present); err != nil {
			return err
		}
	}
	return nil
}
