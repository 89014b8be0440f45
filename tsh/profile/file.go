package profile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/threshold-access/threshold/internal/fault"
)

// WriteFile replaces a file as a whole or not at all: a new file beside it, synced, takes its name.
func WriteFile(path string, body []byte, mode fs.FileMode) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = os.Remove(f.Name())
		}
	}()
	if err := f.Chmod(mode); err != nil {
		return err
	}
	if _, err := f.Write(body); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

func removeFile(path string) error {
	if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func unreadable(path string, err error) error {
	return fault.Wrap(err, fault.Internal, "", fmt.Sprintf("%s cannot be read: %s", path, cause(err)), "look at the owner and mode of "+path)
}

func unwritable(path string, err error) error {
	if errors.Is(err, syscall.ENOSPC) {
		return fault.Wrap(err, fault.Exhausted, "", fmt.Sprintf("%s cannot be written: the disk is full", path), "free some space, then try again")
	}
	return fault.Wrap(err, fault.Internal, "", fmt.Sprintf("%s cannot be written: %s", path, cause(err)),
		"look at the owner and mode of "+filepath.Dir(path)+", or set TSH_HOME to another folder")
}

// cause is the error without the path that its sentence names already.
func cause(err error) string {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err.Error()
	}
	return err.Error()
}
