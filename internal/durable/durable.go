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

// WriteFile writes body to the file path, with mode 0600, as a whole or not at all. It replaces an existing
// file. When it returns nil the file survives a power cut. After an error the old file is unchanged, except
// that an error of the last step, the sync of the folder, may come after the new file has replaced it.
//
// It writes and syncs a new file beside path, and renames that to path. If the process is killed meanwhile, a
// file whose name begins with a dot may be left.
func WriteFile(path string, body []byte) error {
	dir, name := filepath.Dir(path), filepath.Base(path)
	temp, err := os.CreateTemp(dir, "."+name+".*") // mode 0600
	if err != nil {
		return err
	}
	_, err = temp.Write(body)
	if err == nil {
		err = temp.Sync() // before the rename: otherwise path could be empty after a power cut
	}
	err = errors.Join(err, temp.Close())
	if err == nil {
		err = os.Rename(temp.Name(), path)
	}
	if err != nil {
		_ = os.Remove(temp.Name()) // err is the error to return
		return err
	}
	return SyncDir(dir)
}

// SyncDir makes the names in a folder survive a power cut. Syncing a file is not enough for the name of a
// file that was just created or renamed.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
