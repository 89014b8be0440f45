package raftstore

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/raftstore/wal"
)

// makeDirs creates dir and the named folders in it, accessible by their owner only, and makes their names
// durable.
func makeDirs(dir string, names ...string) error {
	_, err := os.Stat(dir)
	isNew := errors.Is(err, os.ErrNotExist)
	for _, name := range names {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o700); err != nil {
			return err
		}
	}
	if isNew {
		if err := wal.SyncDir(filepath.Dir(dir)); err != nil {
			return err
		}
	}
	return wal.SyncDir(dir)
}

// lockDir makes this process the only user of the folder until the file is closed. The kernel releases the
// lock when the process dies. Without it a second process would wait for ever for bbolt's own lock.
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
