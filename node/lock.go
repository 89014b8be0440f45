package node

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"

	"github.com/threshold-access/threshold/internal/fault"
)

// lock refuses a directory that another node works in. The kernel lets the lock go with the process, however
// that ends.
func lock(dir string) (unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fault.Wrap(
			err,
			fault.Invalid,
			"node.Run",
			"the data directory "+dir+" cannot be made",
			"make it, owned by this account, or name another with --data",
		)
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fault.Wrap(
			err,
			fault.Invalid,
			"node.Run",
			"the data directory "+dir+" cannot be written",
			"start as the account that owns it, or name another with --data",
		)
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		f.Close()
		return nil, fault.New(
			fault.Conflict,
			"node.Run",
			"another node works in "+dir,
			"stop that one, or give this one a directory of its own with --data",
		)
	}
	if err != nil {
		f.Close()
		return nil, fault.Wrap(
			err,
			fault.Internal,
			"node.Run",
			dir+" cannot be locked",
			"use a directory on a local disk",
		)
	}
	return func() { f.Close() }, nil
}
