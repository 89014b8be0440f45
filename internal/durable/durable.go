// Package durable answers: does this file survive a full disk, a crash or a power cut?
//
// The auth service's store has rules of its own (raftstore). Every other file that must not be torn is
// written here.
package durable

import (
	"errors"
	"os"
	"path/filepath"
)

// WriteFile writes body to path, readable by its owner alone, as a whole or not at all: it writes and syncs a
// new file beside it and renames that. After an error the old file is still there. A process that is killed
// meanwhile may leave a file whose name begins with a dot.
func WriteFile(path string, body []byte) error {
	dir, name := filepath.Dir(path), filepath.Base(path)
	f, err := os.CreateTemp(dir, "."+name+".*") // mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(body)
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name()) // err is the error to return
		return err
	}
	return SyncDir(dir)
}

// SyncDir makes the names in a folder durable, such as that of a file that was just created or renamed.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
