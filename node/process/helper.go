package process

import (
	"fmt"
	"os"
	"os/exec"
	"time"

	"github.com/threshold-access/threshold/node/account"
	"github.com/threshold-access/threshold/node/sftp"
)

// A helper is this same program, executed again with helperName as its name and one of the constants that end
// in Arg as its first argument. It does work that needs a process of its own.
const (
	selfPath   = "/proc/self/exe"
	helperName = "threshold-session"

	sftpArg    = "__threshold_session_sftp_v1"
	preExecArg = "__threshold_session_preexec_v1"
	signalArg  = "__threshold_session_signal_v1"
)

// helperFailedStatus is the exit status of a helper that could not do its work.
const helperFailedStatus = 126

// HelperArgs returns the arguments of this process if it was started as a helper.
func HelperArgs() (args []string, ok bool) {
	if len(os.Args) < 2 || os.Args[0] != helperName {
		return nil, false
	}
	return os.Args[1:], true
}

// RunHelper does the work of a helper if this process was started as a helper of this package, and returns
// the status to exit with. ok is false if it was not; then nothing has happened. Every program that embeds a
// node calls it first in main: nothing else may run before it in a helper.
func RunHelper() (code int, ok bool) {
	args, ok := HelperArgs()
	switch {
	case !ok:
		return 0, false
	case args[0] == sftpArg && len(args) == 1:
		return serveSFTP(), true
	case args[0] == signalArg && len(args) == 3:
		return runSignalHelper(args[1], args[2]), true
	case args[0] == preExecArg && len(args) > 2:
		return runPreExec(args[1:]), true
	}
	return 0, false
}

// serveSFTP serves files on stdin and stdout as the account that this process runs as. The kernel checks
// every access, and the process cannot become root again.
func serveSFTP() int {
	EnterHome()
	if sftp.Serve(os.Stdin, os.Stdout) != nil {
		return 1
	}
	return 0
}

// EnterHome changes to the home directory. It is for helpers that already run as the account. If the account
// may not enter its home, the helper stays where it is.
func EnterHome() { _ = os.Chdir(os.Getenv("HOME")) }

// Helper is a helper process that runs as an account for as long as a connection needs it.
type Helper struct {
	cmd   *exec.Cmd
	pidfd int // -1 where the kernel has none
}

// StartHelper starts this same program again as the account, with arg as its first argument. Of the caller's
// descriptors it gets only stdin, by which the two communicate. A helper mostly waits, so it gets one
// processor (GOMAXPROCS): Go's runtime then reserves less memory. The caller ends the helper, then calls
// Wait.
func StartHelper(db account.Database, acc account.Account, arg string, stdin *os.File) (*Helper, error) {
	h := &Helper{pidfd: -1}
	h.cmd = &exec.Cmd{
		Path:        selfPath,
		Args:        []string{helperName, arg},
		Env:         []string{"PATH=" + account.UserPath, "HOME=" + acc.Home, "GOMAXPROCS=1"},
		Dir:         "/", // EnterHome is the helper's own work: see account.OpenLocalDir
		Stdin:       stdin,
		SysProcAttr: credentials(db, acc),
	}
	// Setsid: the account must not get a terminal that the agent was started on.
	h.cmd.SysProcAttr.Setsid, h.cmd.SysProcAttr.PidFD = true, &h.pidfd
	if err := startIsolated(db, h.cmd); err != nil {
		return nil, fmt.Errorf("start helper: %w", err)
	}
	return h, nil
}

// PID returns the helper's process id.
func (h *Helper) PID() int { return h.cmd.Process.Pid }

// Wait waits until the helper has exited, and kills it if that takes more than hangupGrace. It must be called
// exactly once, after the helper was told to end.
func (h *Helper) Wait() {
	ended := make(chan struct{})
	go func() { defer close(ended); waitExit(h.cmd.Process.Pid, h.pidfd) }()
	timer := time.NewTimer(hangupGrace)
	defer timer.Stop()
	select {
	case <-ended:
	case <-timer.C:
		_ = h.cmd.Process.Kill()
		<-ended
	}
	_ = h.cmd.Wait() // its status says nothing
}
