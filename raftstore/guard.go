package raftstore

import (
	"errors"
	"net"
	"path/filepath"
	"time"

	"github.com/hashicorp/raft"

	"github.com/threshold-access/threshold/raftstore/wal"
)

// The guards of this file stand between raft and its snapshots and peers. They share the latch of the log and
// the stream segments (package wal): after it has tripped, the replica makes no snapshot and sends nothing.

// guardSnapshots keeps a replica whose latch has tripped from making a snapshot, because raft drops log
// entries after a snapshot. A snapshot that fails does not itself trip the latch: the log still holds
// everything, and raft tries again. guardSnapshots also makes the files of a snapshot readable by their owner
// only, before data is in them.
type guardSnapshots struct {
	raft.SnapshotStore
	dir   string // where raft makes a folder for each snapshot; the name ends in .tmp until it is complete
	latch *wal.Latch
}

// Create implements raft.SnapshotStore. Its result refuses to complete the snapshot when the latch has
// tripped meanwhile.
func (g guardSnapshots) Create(
	v raft.SnapshotVersion,
	index, term uint64,
	conf raft.Configuration,
	confIndex uint64,
	t raft.Transport,
) (raft.SnapshotSink, error) {
	if err := g.latch.Err(); err != nil {
		return nil, err
	}
	sink, err := g.SnapshotStore.Create(v, index, term, conf, confIndex, t)
	if err != nil {
		return nil, err
	}
	// raft has created the files, readable by everybody, and not written to them yet.
	tmp := filepath.Join(g.dir, sink.ID()+".tmp")
	if err := wal.OwnerOnly(filepath.Join(tmp, "state.bin"), filepath.Join(tmp, "meta.json")); err != nil {
		return nil, errors.Join(err, sink.Cancel())
	}
	return guardSink{sink, g.latch}, nil
}

type guardSink struct {
	raft.SnapshotSink
	latch *wal.Latch
}

func (s guardSink) Close() error {
	if err := s.latch.Err(); err != nil {
		_ = s.SnapshotSink.Cancel()
		return err
	}
	return s.SnapshotSink.Close()
}

// guardStream makes a replica silent after its latch has tripped: it sends no vote and acknowledges no
// entries.
type guardStream struct {
	raft.StreamLayer
	latch *wal.Latch
}

func (g guardStream) Accept() (net.Conn, error) {
	c, err := g.StreamLayer.Accept()
	if err != nil {
		return nil, err
	}
	return guardConn{c, g.latch}, nil
}

func (g guardStream) Dial(to raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	c, err := g.StreamLayer.Dial(to, timeout)
	if err != nil {
		return nil, err
	}
	return guardConn{c, g.latch}, nil
}

type guardConn struct {
	net.Conn
	latch *wal.Latch
}

func (c guardConn) Write(p []byte) (int, error) {
	if err := c.latch.Err(); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}
