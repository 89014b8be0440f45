package raftstore

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"
	"github.com/hashicorp/raft-wal/types"
)

// The guards stand between the libraries and the world and share one latch. The first failed write latches;
// from then on no guard lets anything through, so no library can carry on as if nothing had happened.

// guardFS latches when a change fails. Reading may fail freely.
type guardFS struct {
	types.VFS
	latch *latch
}

func (g guardFS) change(err error) error {
	if err == nil || errors.Is(err, os.ErrExist) || errors.Is(err, os.ErrNotExist) {
		return err // an answer, not a failure
	}
	return g.latch.trip(diskFault(err))
}

func (g guardFS) Create(dir, name string, size uint64) (types.WritableFile, error) {
	if err := g.latch.err(); err != nil {
		return nil, err
	}
	f, err := g.VFS.Create(dir, name, size)
	if err != nil {
		return nil, g.change(err)
	}
	return guardFile{f, g}, nil
}

func (g guardFS) OpenWriter(dir, name string) (types.WritableFile, error) {
	f, err := g.VFS.OpenWriter(dir, name)
	if err != nil {
		return nil, err
	}
	return guardFile{f, g}, nil
}

func (g guardFS) Delete(dir, name string) error {
	if err := g.latch.err(); err != nil {
		return err
	}
	return g.change(g.VFS.Delete(dir, name))
}

type guardFile struct {
	types.WritableFile
	fs guardFS
}

func (f guardFile) WriteAt(p []byte, off int64) (int, error) {
	if err := f.fs.latch.err(); err != nil {
		return 0, err
	}
	n, err := f.WritableFile.WriteAt(p, off)
	return n, f.fs.change(err)
}

func (f guardFile) Sync() error {
	if err := f.fs.latch.err(); err != nil {
		return err
	}
	return f.fs.change(f.WritableFile.Sync())
}

// guardMeta guards raft-wal's metadata and raft's term and vote.
type guardMeta struct {
	types.MetaStore
	latch *latch
}

func (g guardMeta) CommitState(s types.PersistentState) error {
	if err := g.latch.err(); err != nil {
		return err
	}
	if err := g.MetaStore.CommitState(s); err != nil {
		return g.latch.trip(diskFault(err))
	}
	return nil
}

// SetStable reports success once latched: raft panics when it can not keep its term, but wants to change it
// while it shuts down. Nobody is misled, because guardConn lets a latched replica say nothing.
func (g guardMeta) SetStable(key, value []byte) error {
	if g.latch.err() == nil {
		if err := g.MetaStore.SetStable(key, value); err != nil {
			_ = g.latch.trip(diskFault(err))
		}
	}
	return nil
}

// guardSnapshots keeps a latched replica from making a snapshot, after which raft would drop log entries. A
// snapshot that fails latches nothing: the log still has it all, and raft tries again. It also keeps a
// snapshot's files their owner's alone, from before anything is in them.
type guardSnapshots struct {
	raft.SnapshotStore
	dir   string // where raft makes a folder for each, which ends in .tmp until it is whole
	latch *latch
}

func (g guardSnapshots) Create(
	v raft.SnapshotVersion,
	index, term uint64,
	conf raft.Configuration,
	at uint64,
	t raft.Transport,
) (raft.SnapshotSink, error) {
	if err := g.latch.err(); err != nil {
		return nil, err
	}
	sink, err := g.SnapshotStore.Create(v, index, term, conf, at, t)
	if err != nil {
		return nil, err
	}
	fresh := filepath.Join(g.dir, sink.ID()+".tmp")
	if err := ownerOnly(filepath.Join(fresh, "state.bin"), filepath.Join(fresh, "meta.json")); err != nil {
		return nil, errors.Join(err, sink.Cancel())
	}
	return guardSink{sink, g.latch}, nil
}

type guardSink struct {
	raft.SnapshotSink
	latch *latch
}

func (s guardSink) Close() error {
	if err := s.latch.err(); err != nil {
		_ = s.SnapshotSink.Cancel()
		return err
	}
	return s.SnapshotSink.Close()
}

// guardStream makes a latched replica mute: no vote, no acknowledgement of entries leaves it.
type guardStream struct {
	raft.StreamLayer
	latch *latch
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
	latch *latch
}

func (c guardConn) Write(p []byte) (int, error) {
	if err := c.latch.err(); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

// guardLog latches on whatever keeps raft-wal from storing entries, were it not the disk.
type guardLog struct {
	*wal.WAL
	latch *latch
}

func (g guardLog) StoreLog(l *raft.Log) error { return g.StoreLogs([]*raft.Log{l}) }

func (g guardLog) StoreLogs(logs []*raft.Log) error {
	if err := g.latch.err(); err != nil {
		return err
	}
	if err := g.WAL.StoreLogs(logs); err != nil {
		return g.latch.trip(diskFault(err))
	}
	return nil
}

func (g guardLog) DeleteRange(from, to uint64) error {
	if err := g.latch.err(); err != nil {
		return err
	}
	if err := g.WAL.DeleteRange(from, to); err != nil {
		return g.latch.trip(diskFault(err))
	}
	return nil
}
