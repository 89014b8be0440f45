package session

import (
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// localFileSystems are the file systems that answer by themselves (statfs(2)). Others ask somebody first: a
// server that may be gone, or, with FUSE, a program that may be the account's own.
var localFileSystems = []int64{
	unix.EXT4_SUPER_MAGIC,
	unix.XFS_SUPER_MAGIC,
	unix.BTRFS_SUPER_MAGIC,
	unix.F2FS_SUPER_MAGIC,
	unix.TMPFS_MAGIC,
	unix.OVERLAYFS_SUPER_MAGIC,
	zfsMagic,
}

const zfsMagic = 0x2fc12fc1 // golang.org/x/sys has none

// openLocalDir opens a folder for a program to start in. It returns nil where that would ask somebody, or
// there is none: until a new process has reached its program it has our memory, and all of us would wait for
// it. A child of ours, which has its own, may go there.
func openLocalDir(dir string) *os.File {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	var fs unix.Statfs_t
	if unix.Fstatfs(fd, &fs) != nil || !slices.Contains(localFileSystems, int64(fs.Type)) {
		_ = unix.Close(fd)
		return nil
	}
	return os.NewFile(uintptr(fd), dir)
}

// procPath is how a new process finds what is open here, whatever its name leads to by then.
func procPath(f *os.File) string { return fmt.Sprintf("/proc/self/fd/%d", f.Fd()) }

// chdirHome is what children of ours do that are the account already. Where they cannot, they stay where they
// are.
func chdirHome() { _ = os.Chdir(os.Getenv("HOME")) }
