package process

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// firstExtraFD is the first descriptor after the three standard streams.
const firstExtraFD = 3

// CloseDescriptorsOnExec makes sure that no program gets a descriptor of this process. Descriptors that Go
// opens are closed on exec already. Those that this process was started with are not: a socket of the service
// manager, or a lock or log of the program that started the agent.
func CloseDescriptorsOnExec() error {
	err := unix.CloseRange(firstExtraFD, ^uint(0), unix.CLOSE_RANGE_CLOEXEC)
	if err == nil {
		return nil
	}
	// Linux before 5.11 has no such call: one descriptor at a time.
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return fmt.Errorf("close descriptors on exec: %w", err)
	}
	for _, entry := range entries {
		fd, err := strconv.Atoi(entry.Name())
		if err != nil || fd < firstExtraFD {
			continue
		}
		_, err = unix.FcntlInt(uintptr(fd), unix.F_SETFD, unix.FD_CLOEXEC)
		if err != nil && !errors.Is(err, unix.EBADF) {
			return fmt.Errorf("close descriptors on exec: %w", err)
		}
	}
	return nil
}
