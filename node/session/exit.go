package session

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Exit is how a program ended.
type Exit struct {
	Code       int    // when Signal is empty
	Signal     string // RFC 4254 section 6.10, without "SIG"
	CoreDumped bool
	In, Out    int64 // bytes moved
}

func exitStatus(st *os.ProcessState, in, out int64) Exit {
	e := Exit{In: in, Out: out, Code: 255}
	if st == nil {
		return e
	}
	ws, ok := st.Sys().(syscall.WaitStatus)
	if !ok || !ws.Signaled() {
		e.Code = st.ExitCode()
		return e
	}
	e.CoreDumped = ws.CoreDump()
	for name, s := range signalNumbers {
		if s == ws.Signal() {
			e.Signal = name
			return e
		}
	}
	e.Code = 128 + int(ws.Signal()) // a signal that SSH has no name for, told as shells do
	return e
}

// waitExit returns once the process has ended, which stays a zombie. With a pidfd (Linux 5.3), which it
// closes, the wait holds no thread: each would cost the node memory that it never gives back.
func waitExit(pid, pidfd int) {
	if pidfd >= 0 {
		_ = unix.SetNonblock(pidfd, true) // so that it can be polled; without, the wait below does
		f := os.NewFile(uintptr(pidfd), "pidfd")
		defer f.Close()
		if c, err := f.SyscallConn(); err == nil &&
			c.Read(func(fd uintptr) bool { return hasEnded(fd) }) == nil {
			return
		}
	}
	for unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil) == unix.EINTR {
	}
}

// hasEnded polls: a pidfd is readable from the end of its process on.
func hasEnded(pidfd uintptr) bool {
	fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n > 0
}
