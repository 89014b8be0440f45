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

func removeFile(path string) error {
	if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func readFault(path string, err error) error {
	return fault.Wrap(
		err,
		fault.Internal,
		"",
		fmt.Sprintf("%s cannot be read: %s", path, cause(err)),
		"look at the owner and mode of "+path,
	)
}

func writeFault(path string, err error) error {
	if errors.Is(err, syscall.ENOSPC) {
		return fault.Wrap(
			err,
			fault.Exhausted,
			"",
			fmt.Sprintf("%s cannot be written: the disk is full", path),
			"free some space, then try again",
		)
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
