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

// unknownExitCode is the code of a program if the kernel did not tell how it ended.
const unknownExitCode = 255

// exitStatus converts the kernel's wait status and adds the numbers of bytes that were copied. state may be
// nil: then the code is unknownExitCode.
func exitStatus(state *os.ProcessState, in, out int64) Exit {
	exit := Exit{In: in, Out: out, Code: unknownExitCode}
	if state == nil {
		return exit
	}
	status, ok := state.Sys().(syscall.WaitStatus)
	if !ok || !status.Signaled() {
		exit.Code = state.ExitCode()
		return exit
	}
	exit.CoreDumped = status.CoreDump()
	for name, number := range signalNumbers {
		if number == status.Signal() {
			exit.Signal = name
			return exit
		}
	}
	exit.Code = 128 + int(status.Signal()) // SSH has no name for the signal; shells report it in this way
	return exit
}

// waitExit waits until the process has exited. It does not reap the process, so the id stays valid. pidfd is
// a descriptor of the process (pidfd_open(2), Linux 5.3), which waitExit closes, or -1. With it the wait
// occupies no thread; without it, each waiting thread costs the agent memory that is never given back.
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
