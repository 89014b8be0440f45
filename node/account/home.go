package account

import (
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// localFileSystems are the types (statfs(2)) of file systems that answer by themselves. Any other may wait
// for a file server that is gone or, with FUSE, for a program that may belong to the account itself.
var localFileSystems = []int64{
	unix.EXT4_SUPER_MAGIC,
	unix.XFS_SUPER_MAGIC,
	unix.BTRFS_SUPER_MAGIC,
	unix.F2FS_SUPER_MAGIC,
	unix.TMPFS_MAGIC,
	unix.OVERLAYFS_SUPER_MAGIC,
	zfsMagic,
}

const zfsMagic = 0x2fc12fc1 // not in golang.org/x/sys

// OpenLocalDir opens a directory if it is on a local file system, so that a new process can enter it without
// delay. The file serves only to name the directory (O_PATH). It returns nil if the directory does not exist,
// cannot be opened or is on another file system.
//
// The check protects the whole agent: until a new process executes its program it shares the agent's memory,
// and every goroutine of the agent waits for it. If it waited for a file server, so would the agent. For
// other directories the agent starts a child of its own program, which has its own memory and may wait.
func OpenLocalDir(dir string) *os.File {
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
