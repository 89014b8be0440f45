package durable

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
)

// ErrLocked says that another process holds the lock of a folder.
var ErrLocked = errors.New("the folder is in use by another process")

// Lock makes this process the only user of a folder that exists, until unlock is called. The kernel releases
// the lock when the process dies, however that happens. The error is ErrLocked when another process holds it.
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
