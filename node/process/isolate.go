package process

import (
	"errors"
	"os/exec"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/threshold-access/threshold/node/account"
)

// credentials returns the attributes under which a process runs as the account. Only root can change them,
// and only root needs to.
func credentials(db account.Database, acc account.Account) *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{}
	if db.UID == 0 {
		attr.Credential = &syscall.Credential{Uid: acc.UID, Gid: acc.GID, Groups: acc.Groups}
	}
	return attr
}

// startIsolated starts cmd, a program of an account, with a session keyring of its own (session-keyring(7)).
// Otherwise all programs of all accounts would share the agent's keyring: what one account keeps there,
// another could read, use and revoke. The error is that of cmd.Start, or of making the keyring.
//
// A new process inherits the keyring of the thread that creates it, so the thread joins a new, anonymous
// keyring first. Without keyrings in the kernel (ENOSYS) or the container (EPERM) there is nothing to share.
func startIsolated(db account.Database, cmd *exec.Cmd) error {
	if db.UID != 0 {
		return cmd.Start() // every program runs as the one account that this process is
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
