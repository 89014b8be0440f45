package raftstore

import (
	"context"
	"errors"
	"sync"

	"github.com/hashicorp/raft"
)

// snapshotLoad counts what a start would have to apply again: the log since the last snapshot. raft counts
// entries alone, and an entry may have 4 MiB.
type snapshotLoad struct {
	limit int           // in bytes; beyond it a snapshot is due. Zero: none is
	due   chan struct{} // has a value when a snapshot is due

	mu    sync.Mutex // guards since
	since logSize
}

// logSize is the size of a part of the log.
type logSize struct {
	bytes   int
	entries uint64
}

// add counts one entry.
func (l *snapshotLoad) add(size int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.since.bytes += size
	l.since.entries++
	if l.limit == 0 || l.since.bytes < l.limit {
		return
	}
	select {
	case l.due <- struct{}{}:
	default: // it is due already
	}
}

// counted is what was counted until now. A snapshot of the state of now covers it.
func (l *snapshotLoad) counted() logSize {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.since
}

// subtract takes off what a durable snapshot covers. A restore may have begun anew meanwhile.
func (l *snapshotLoad) subtract(covered logSize) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.since.bytes -= min(l.since.bytes, covered.bytes)
	l.since.entries -= min(l.since.entries, covered.entries)
}

// snapshotBySize makes a snapshot whenever the log since the last one has reached Bounds.SnapshotBytes. It
// runs until ctx ends. A snapshot that fails is tried again with the next entry.
func (s *Store) snapshotBySize(ctx context.Context, r *raft.Raft) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.fsm.load.due:
		}
		size := s.fsm.load.counted()
		if size.bytes < s.fsm.load.limit { // raft has made one meanwhile
			continue
		}
		err := s.snapshotNow(r, size.entries/2)
		if err != nil && !errors.Is(err, raft.ErrNothingNewToSnapshot) {
			s.cfg.Log.Warn("a snapshot could not be made", "err", err)
		}
	}
}

// snapshotNow makes a snapshot, after which at most trailing entries stay in the log: the usual number of
// them could be gigabytes when entries are large.
func (s *Store) snapshotNow(r *raft.Raft, trailing uint64) error {
	usual := r.ReloadableConfig()
	fewer := usual
	fewer.TrailingLogs = min(usual.TrailingLogs, trailing)
	if err := r.ReloadConfig(fewer); err != nil {
		return err
	}
	return errors.Join(s.waitFuture(r.Snapshot()), r.ReloadConfig(usual))
}
