package wal

import (
	"errors"
	"os"

	"github.com/hashicorp/raft-wal/types"
)

// The guards of this file are between raft-wal and the disk and share one latch. The first failed change
// trips it. From then on the guards refuse every change, so the library cannot go on as if nothing had
// happened.

// guardFS trips the latch when a change fails. A read that fails does not trip it.
type guardFS struct {
	types.VFS
	latch *Latch
}

// Guard returns fs with every change guarded: a change that fails trips the latch, and after that every
// change is refused with the latched fault. Reads are not affected.
func Guard(fs types.VFS, l *Latch) types.VFS { return guardFS{fs, l} }

// check trips the latch if a change failed with err. ErrExist and ErrNotExist are answers about a name, not
// failures of the disk.
func (g guardFS) check(err error) error {
	if err == nil || errors.Is(err, os.ErrExist) || errors.Is(err, os.ErrNotExist) {
		return err
	}
	return g.latch.Trip(DiskFault(err))
}

func (g guardFS) Create(dir, name string, size uint64) (types.WritableFile, error) {
	if err := g.latch.Err(); err != nil {
		return nil, err
	}
	f, err := g.VFS.Create(dir, name, size)
	if err != nil {
		return nil, g.check(err)
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
	if err := g.latch.Err(); err != nil {
		return err
	}
	return g.check(g.VFS.Delete(dir, name))
}

type guardFile struct {
	types.WritableFile
	fs guardFS
}

func (f guardFile) WriteAt(p []byte, off int64) (int, error) {
	if err := f.fs.latch.Err(); err != nil {
		return 0, err
	}
	n, err := f.WritableFile.WriteAt(p, off)
	return n, f.fs.check(err)
}

func (f guardFile) Sync() error {
	if err := f.fs.latch.Err(); err != nil {
		return err
	}
	return f.fs.check(f.WritableFile.Sync())
}

// guardMeta guards raft-wal's list of segment files, and raft's term and vote.
type guardMeta struct {
	types.MetaStore
	latch *Latch
}

func (g guardMeta) CommitState(s types.PersistentState) error {
	if err := g.latch.Err(); err != nil {
		return err
	}
	if err := g.MetaStore.CommitState(s); err != nil {
		return g.latch.Trip(DiskFault(err))
	}
	return nil
}

// SetStable stores a value of raft: its term or its vote. It always reports success, and stores nothing after
// the latch has tripped. raft changes its term while it shuts down, and would panic if it could not store it.
// Nobody is misled: after the latch has tripped, a replica sends nothing to the others (raftstore's
// guardConn).
func (g guardMeta) SetStable(key, value []byte) error {
	if g.latch.Err() == nil {
		if err := g.MetaStore.SetStable(key, value); err != nil {
			_ = g.latch.Trip(DiskFault(err))
		}
	}
	return nil
}
