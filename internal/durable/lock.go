package durable

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
)

// ErrLocked says that another process holds the lock of a folder.
var ErrLocked = errors.New("the folder is in use by another process")

// Lock locks an existing folder for this process, by a file named "lock" in it. It does not wait: the error
// is ErrLocked if another process holds the lock. unlock gives it up. The kernel does so when the process
// dies, however that happens, so the file may stay.
func Lock(dir string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		err = ErrLocked
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() { _ = f.Close() }, nil
}

// IsDiskFull reports whether err says that the file system, or the account's quota on it, is full.
func IsDiskFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}
