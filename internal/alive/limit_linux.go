package alive

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// limit bounds how long sent bytes may stay unacknowledged. A kernel that does not know how leaves the probes.
func limit(_, _ string, conn syscall.RawConn) error {
	return conn.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(Noticed.Milliseconds()))
	})
}
