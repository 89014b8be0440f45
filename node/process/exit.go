package process

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Exit is how a program ended.
type Exit struct {
	Code       int    // valid if Signal is empty; 128 and more: ended by a signal that SSH has no name for
	Signal     string // name of RFC 4254 section 6.10, without "SIG"; empty: none
	CoreDumped bool
	In, Out    int64 // bytes of input and output that were copied
}

// exitStatus translates the kernel's wait status. Code 255 stands for an unknown end.
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
	e.Code = 128 + int(ws.Signal()) // as shells report it
	return e
}

// waitExit returns once the process has exited, and leaves it a zombie. With a pidfd (Linux 5.3), which it
// closes, waiting occupies no thread: each thread would cost the agent memory that is never given back.
func waitExit(pid, pidfd int) {
	if pidfd >= 0 {
		_ = unix.SetNonblock(pidfd, true) // for Go's poller; if this fails, the wait below does the work
		f := os.NewFile(uintptr(pidfd), "pidfd")
		defer f.Close()
		if c, err := f.SyscallConn(); err == nil && c.Read(hasEnded) == nil {
			return
		}
	}
	for unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil) == unix.EINTR {
	}
}

// hasEnded polls a pidfd, which is readable once its process has exited.
func hasEnded(pidfd uintptr) bool {
	fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n > 0
}
