package session

import (
	"errors"
	"os/exec"
	"runtime"

	"golang.org/x/sys/unix"
)

// startIsolated starts a program that becomes an account, in a session keyring of its own
// (session-keyring(7)). It would have this process's otherwise, as all other programs: what one account keeps
// there, the next could read, use and revoke. The keyring is that of the thread by which a program is made. A
// kernel or container without keyrings has none to share.
func (a Database) startIsolated(cmd *exec.Cmd) error {
	if a.UID != 0 {
		return cmd.Start() // it is, and stays, one account
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	const anonymous = 0
	_, err := unix.KeyctlInt(unix.KEYCTL_JOIN_SESSION_KEYRING, anonymous, 0, 0, 0)
	if err != nil && !errors.Is(err, unix.ENOSYS) && !errors.Is(err, unix.EPERM) {
		return err
	}
	return cmd.Start()
}
