package durable_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/threshold-access/threshold/internal/durable"
)

// A second lock of a folder fails until the first is given up.
func TestAFolderIsLockedOnce(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	unlock, err := durable.Lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := durable.Lock(dir); !errors.Is(err, durable.ErrLocked) {
		t.Errorf("while it is locked: got %v, want ErrLocked", err)
	}
	unlock()
	unlock, err = durable.Lock(dir)
	if err != nil {
		t.Fatalf("after unlock: got %v, want the lock", err)
	}
	unlock()
	if _, err := durable.Lock(filepath.Join(dir, "missing")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a folder that does not exist: got %v, want fs.ErrNotExist", err)
	}
}

func TestIsDiskFull(t *testing.T) {
	t.Parallel()
	for err, want := range map[error]bool{
		&os.PathError{Op: "write", Path: "/d", Err: syscall.ENOSPC}: true,
		&os.PathError{Op: "write", Path: "/d", Err: syscall.EDQUOT}: true,
		&os.PathError{Op: "write", Path: "/d", Err: syscall.EIO}:    false,
		errors.New("full"): false,
	} {
		if got := durable.IsDiskFull(err); got != want {
			t.Errorf("%v: got %v, want %v", err, got, want)
		}
	}
}
