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

// removeFile removes a file that may not exist.
func removeFile(path string) error {
	if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// readFault is the error of a file of the profile that exists but cannot be read.
func readFault(path string, err error) error {
	msg := fmt.Sprintf("%s cannot be read: %s", path, cause(err))
	return fault.Wrap(err, fault.Internal, "", msg, "check the owner and mode of "+path)
}

// writeFault is the error of a file of the profile that cannot be written.
func writeFault(path string, err error) error {
	if errors.Is(err, syscall.ENOSPC) {
		msg := fmt.Sprintf("%s cannot be written: the disk is full", path)
		return fault.Wrap(err, fault.Exhausted, "", msg, "free disk space, then try again")
	}
	msg := fmt.Sprintf("%s cannot be written: %s", path, cause(err))
	hint := "check the owner and mode of " + filepath.Dir(path) + ", or set TSH_HOME to another folder"
	return fault.Wrap(err, fault.Internal, "", msg, hint)
}

// cause is the text of the error without its path, which the message already has.
func cause(err error) string {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err.Error()
	}
	return err.Error()
}
