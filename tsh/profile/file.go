package profile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/threshold-access/threshold/internal/fault"
)

// removeFile removes a file. It returns nil if the file does not exist.
func removeFile(path string) error {
	if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// readFault returns an Internal fault for err, the error of reading a file that exists.
func readFault(path string, err error) error {
	return profileUnreadable.Wrap(err, "", fault.Args{"path": path, "why": cause(err)})
}

// writeFault returns the fault for err, the error of writing or removing a file: Exhausted for a full disk,
// else Internal.
func writeFault(path string, err error) error {
	if errors.Is(err, syscall.ENOSPC) {
		return profileDiskFull.Wrap(err, "", fault.Args{"path": path})
	}
	return profileUnwritable.Wrap(err, "", fault.Args{
		"path":   path,
		"why":    cause(err),
		"folder": filepath.Dir(path),
	})
}

// cause returns the text of the error without its path, which the message already has.
func cause(err error) string {
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		return pathErr.Err.Error()
	}
	return err.Error()
}
