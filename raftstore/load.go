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
	mu      sync.Mutex // guards the fields below
	bytes   int
	entries uint64
	limit   int           // in bytes; beyond it a snapshot is due. Zero: none is
	due     chan struct{} // has a value when a snapshot is due
}

// add counts one entry.
func (l *snapshotLoad) add(size int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.bytes, l.entries = l.bytes+size, l.entries+1
	if l.limit == 0 || l.bytes < l.limit {
		return
	}
	select {
	case l.due <- struct{}{}:
	default: // it is due already
	}
}

// reset begins anew, because a snapshot covers what was counted.
func (l *snapshotLoad) reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.bytes, l.entries = 0, 0
}

// isDue returns whether a snapshot is due, and how many entries it would cover.
func (l *snapshotLoad) isDue() (due bool, entries uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.limit > 0 && l.bytes >= l.limit, l.entries
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
		due, entries := s.fsm.load.isDue()
		if !due { // raft has made one meanwhile
			continue
		}
		if err := s.snapshotNow(r, entries/2); err != nil && !errors.Is(err, raft.ErrNothingNewToSnapshot) {
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
