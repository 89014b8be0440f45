package raftstore

import (
	"errors"
	"os"
	"path/filepath"

	"github.com/threshold-access/threshold/internal/durable"
	"github.com/threshold-access/threshold/internal/fault"
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
		if err := durable.SyncDir(filepath.Dir(dir)); err != nil {
			return err
		}
	}
	return durable.SyncDir(dir)
}

// lockDir makes this process the only user of the folder until unlock is called. Without it a second process
// would wait for ever for bbolt's own lock.
func lockDir(dir string) (unlock func(), err error) {
	unlock, err = durable.Lock(dir)
	if errors.Is(err, durable.ErrLocked) {
		return nil, dataFolderInUse.Wrap(err, "raftstore.Run", fault.Args{"folder": dir})
	}
	return unlock, err
}
