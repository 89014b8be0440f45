package wal

import (
	"errors"
	"path/filepath"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	raftwal "github.com/hashicorp/raft-wal"
	"github.com/hashicorp/raft-wal/metadb"
	"github.com/hashicorp/raft-wal/segment"
	"github.com/hashicorp/raft-wal/types"
)

// Config says how to open a log. All fields are required.
type Config struct {
	Dir          string       // an existing folder
	FS           types.VFS    // keeps the segment files; already behind Latch (Guard)
	SegmentBytes int          // size of a segment file, allocated in advance
	Latch        *Latch       // trips at the first failed change
	Logger       hclog.Logger // gets raft-wal's messages
}

// Log is the raft log with raft's term and vote: a raft.LogStore and a raft.StableStore. After the latch has
// tripped, every change fails with the latched fault.
type Log struct {
	*raftwal.WAL
	meta  *metadb.BoltMetaDB
	latch *Latch
}

// Open repairs and opens the log in cfg.Dir, or creates one.
func Open(cfg Config) (*Log, error) {
	meta := &metadb.BoltMetaDB{}
	w, err := raftwal.Open(
		cfg.Dir,
		raftwal.WithMetaStore(repairingMeta{guardMeta{meta, cfg.Latch}, cfg.FS}),
		raftwal.WithSegmentFiler(segment.NewFiler(cfg.Dir, cfg.FS)),
		raftwal.WithSegmentSize(cfg.SegmentBytes),
		raftwal.WithLogger(cfg.Logger),
	)
	if err != nil {
		return nil, errors.Join(err, meta.Close())
	}
	l := &Log{WAL: w, meta: meta, latch: cfg.Latch}
	if err := OwnerOnly(filepath.Join(cfg.Dir, metadb.FileName)); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// Close closes the log and its metadata. WAL.Close alone leaves the metadata open and its file lock held.
func (l *Log) Close() error { return errors.Join(l.WAL.Close(), l.meta.Close()) }

// StoreLog stores one entry durably.
func (l *Log) StoreLog(entry *raft.Log) error { return l.StoreLogs([]*raft.Log{entry}) }

// StoreLogs stores entries durably. Whatever keeps raft-wal from storing them trips the latch, also when it
// is not the disk.
func (l *Log) StoreLogs(entries []*raft.Log) error {
	if err := l.latch.Err(); err != nil {
		return err
	}
	if err := l.WAL.StoreLogs(entries); err != nil {
		return l.latch.Trip(DiskFault(err))
	}
	return nil
}

// DeleteRange removes the entries from index first to index last, both included.
func (l *Log) DeleteRange(first, last uint64) error {
	if err := l.latch.Err(); err != nil {
		return err
	}
	if err := l.WAL.DeleteRange(first, last); err != nil {
		return l.latch.Trip(DiskFault(err))
	}
	return nil
}
