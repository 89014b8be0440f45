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

// removeFile removes a file. It returns nil if the file does not exist.
func removeFile(path string) error {
	if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// readFault returns an Internal fault for err, the error of reading a file that exists.
func readFault(path string, err error) error {
	msg := fmt.Sprintf("%s cannot be read: %s", path, cause(err))
	return fault.Wrap(err, fault.Internal, "", msg, "check the owner and mode of "+path)
}

// writeFault returns the fault for err, the error of writing or removing a file: Exhausted for a full disk,
// else Internal.
func writeFault(path string, err error) error {
	if errors.Is(err, syscall.ENOSPC) {
		msg := fmt.Sprintf("%s cannot be written: the disk is full", path)
		return fault.Wrap(err, fault.Exhausted, "", msg, "free disk space, then try again")
	}
	msg := fmt.Sprintf("%s cannot be written: %s", path, cause(err))
	hint := "check the owner and mode of " + filepath.Dir(path) + ", or set TSH_HOME to another folder"
	return fault.Wrap(err, fault.Internal, "", msg, hint)
}

// cause returns the text of the error without its path, which the message already has.
func cause(err error) string {
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		return pathErr.Err.Error()
	}
	return err.Error()
}
