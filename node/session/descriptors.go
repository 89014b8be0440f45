package session

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// firstExtraFD is the first descriptor that is none of the three standard streams.
const firstExtraFD = 3

// CloseDescriptorsOnExec makes sure that no program a session starts gets a descriptor of this process. What
// Go opens is safe; what this process was itself started with is not: a service manager's socket, a lock or a
// log of whoever started the node.
func CloseDescriptorsOnExec() error {
	err := unix.CloseRange(firstExtraFD, ^uint(0), unix.CLOSE_RANGE_CLOEXEC)
	if err == nil {
		return nil
	}
	open, err := os.ReadDir("/proc/self/fd") // Linux before 5.11
	if err != nil {
		return fmt.Errorf("keep descriptors: %w", err)
	}
	for _, e := range open {
		fd, err := strconv.Atoi(e.Name())
		if err != nil || fd < firstExtraFD {
			continue
		}
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, unix.FD_CLOEXEC); err != nil &&
			!errors.Is(err, unix.EBADF) {
			return fmt.Errorf("keep descriptors: %w", err)
		}
	}
	return nil
}
