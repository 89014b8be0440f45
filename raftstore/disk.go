package raftstore

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"github.com/hashicorp/raft-wal/fs"
	"github.com/hashicorp/raft-wal/types"

	"github.com/threshold-access/threshold/internal/fault"
)

// diskFS is raft-wal's own file system, with two promises more. Files are their owner's alone. And the first
// Sync of a file opened by OpenWriter makes its name durable too: without it a file that was created, then
// reopened after kill -9, could be synced and still vanish with its folder's entry.
type diskFS struct{ *fs.FS }

func newDiskFS() types.VFS { return diskFS{fs.New()} }

func (d diskFS) Create(dir, name string, size uint64) (types.WritableFile, error) {
	f, err := d.FS.Create(dir, name, size)
	if err != nil {
		return nil, err
	}
	if err := ownerOnly(filepath.Join(dir, name)); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func (d diskFS) OpenWriter(dir, name string) (types.WritableFile, error) {
	f, err := d.FS.OpenWriter(dir, name)
	if err != nil {
		return nil, err
	}
	return &namedFile{WritableFile: f, dir: dir}, nil
}

type namedFile struct {
	types.WritableFile
	dir string

	mu    sync.Mutex // guards named
	named bool       // the folder was synced since the file was opened
}

func (f *namedFile) Sync() error {
	if err := f.WritableFile.Sync(); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.named {
		return nil
	}
	if err := syncDir(f.dir); err != nil {
		return err
	}
	f.named = true
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// makeDirs makes dir and its rooms, readable by their owner alone, and makes their names durable.
func makeDirs(dir string, rooms ...string) error {
	_, err := os.Stat(dir)
	fresh := errors.Is(err, os.ErrNotExist)
	for _, room := range rooms {
		if err := os.MkdirAll(filepath.Join(dir, room), 0o700); err != nil {
			return err
		}
	}
	if fresh {
		if err := syncDir(filepath.Dir(dir)); err != nil {
			return err
		}
	}
	return syncDir(dir)
}

// ownerOnly takes files that the libraries make for everybody to read away from everybody but their owner.
func ownerOnly(paths ...string) error {
	for _, path := range paths {
		if err := os.Chmod(path, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// lockDir makes this process the folder's only user until the file is closed; the kernel does that when the
// process dies. Without it a second process would hang for ever in bbolt's own lock.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, fault.Wrap(
			err,
			fault.Conflict,
			"raftstore.Run",
			"another process uses the data folder "+quote(dir),
			"stop the other auth on this machine, or give this one its own data folder",
		)
	}
	return f, nil
}
