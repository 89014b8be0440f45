package process

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/threshold-access/threshold/node/account"
)

// preExec describes the work between fork and exec that os/exec cannot do: setting resource limits and umask,
// and entering a home on a remote file system. A child, which is this same program executed again, sets the
// limits of itself while it is still root, then becomes the account, then executes the account's program. So
// that program never runs without its limits. The child gets the struct as an argument, in JSON.
type preExec struct {
	UID, GID uint32
	Groups   []uint32
	Root     bool // the child is root, and becomes the account
	Umask    int
	Limits   []account.Limit
	Path     string // of the program
	Dir      string
}

// preExecReportFD is the descriptor on which the child reports the errno that kept it from executing the
// program. It is closed on exec: if the program runs, the parent reads the end of file and no number.
const preExecReportFD = firstExtraFD

// preExecTimeout bounds the child's work: a home may be on a file server that is gone, and an account may
// stop the child as soon as the child belongs to it.
const preExecTimeout = 30 * time.Second

// preparePreExec changes cmd so that the program is started by way of a child as preExec describes. It
// returns the pipe on which the child reports an error; startPreExec closes it. Both report and err are nil,
// and cmd is unchanged, if the program needs no child: its directory is on a local file system (remoteDir is
// false), the account has no limits, and the umask is the agent's own. The child costs a few milliseconds.
func preparePreExec(
	db account.Database, acc account.Account, cmd *exec.Cmd, remoteDir bool,
) (report *os.File, err error) {
	work := preExec{
		UID:    acc.UID,
		GID:    acc.GID,
		Groups: acc.Groups,
		Root:   db.UID == 0,
		Umask:  db.Umask(),
		Path:   cmd.Path,
		Dir:    cmd.Dir,
	}
	if work.Root { // other accounts keep the limits that they have
		if work.Limits, err = db.Limits(acc); err != nil {
			return nil, err
		}
	}
	if work.Path == selfPath { // the file server is written in Go, whose runtime may fail under such limits
		work.Limits = slices.DeleteFunc(work.Limits, account.Limit.IsMemory)
	}
	needsChild := remoteDir || len(work.Limits) > 0 || work.Umask != currentUmask()
	if !needsChild {
		return nil, nil
	}
	spec, err := json.Marshal(work)
	if err != nil {
		return nil, err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	cmd.Args = append([]string{helperName, preExecArg, string(spec)}, cmd.Args...)
	cmd.Path, cmd.Dir = selfPath, "/"
	cmd.SysProcAttr.Credential = nil // the child stays root until it has set the limits
	cmd.ExtraFiles = []*os.File{w}   // becomes preExecReportFD
	return r, nil
}

// startPreExec starts a command that preparePreExec changed, and waits until the account's program runs. The
// error is the errno that the child reported, or says that the child did not get as far in preExecTimeout;
// then the child has been killed.
func startPreExec(db account.Database, cmd *exec.Cmd, report *os.File) error {
	defer report.Close()
	err := startIsolated(db, cmd)
	_ = cmd.ExtraFiles[0].Close() // or the read below would never reach the end of the file
	if err != nil {
		return err
	}
	_ = report.SetReadDeadline(time.Now().Add(preExecTimeout))
	b, err := io.ReadAll(io.LimitReader(report, 64))
	if err == nil && len(b) == 0 {
		return nil // exec has closed the descriptor: the program runs
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait() // the child has reported why it ends, or it hangs
	if err != nil {
		return err
	}
	errno, err := strconv.Atoi(string(b))
	if err != nil {
		return errors.New("the program could not be executed, and the reason is not known")
	}
	return syscall.Errno(errno)
}

// runPreExec is the work of the child. args are the preExec in JSON and then the program's arguments. It
// returns only if the program could not be executed: it has reported the errno to the parent, and the result
// is the status to exit with.
func runPreExec(args []string) int {
	syscall.CloseOnExec(preExecReportFD)
	report := os.NewFile(preExecReportFD, "report")
	var work preExec
	err := json.Unmarshal([]byte(args[0]), &work)
	if err == nil {
		err = work.exec(args[1:])
	}
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		errno = syscall.EINVAL
	}
	fmt.Fprint(report, int(errno))
	return helperFailedStatus
}

// exec sets umask and limits, becomes the account, enters the directory and executes the program. It returns
// only if one of these fails. The order matters: only root may raise limits, and the directory must be
// entered with the account's rights.
//
// Ids belong to a thread, so exec locks its thread: the program starts from that thread. Limits of memory are
// the last in the list (account.Database.Limits). The garbage collector is off, because under such a limit it
// may fail.
func (work preExec) exec(args []string) error {
	runtime.LockOSThread()
	debug.SetGCPercent(-1)
	syscall.Umask(work.Umask)
	for _, l := range work.Limits {
		if err := setLimit(l); err != nil {
			return err
		}
	}
	if work.Root {
		if err := work.dropPrivileges(); err != nil {
			return err
		}
	}
	if unix.Chdir(work.Dir) != nil { // a home that the account itself may not enter
		if err := unix.Chdir("/"); err != nil {
			return err
		}
	}
	return syscall.Exec(work.Path, args, os.Environ())
}

// setLimit sets one limit of this process. If the limit is higher than this process may set, as "unlimited"
// may be in a container, setLimit sets the highest that it may: nobody is kept out for that.
func setLimit(l account.Limit) error {
	err := syscall.Setrlimit(l.Resource, &syscall.Rlimit{Cur: l.Soft, Max: l.Hard})
	if err != syscall.EPERM {
		return err
	}
	var current syscall.Rlimit
	if err := syscall.Getrlimit(l.Resource, &current); err != nil {
		return err
	}
	granted := syscall.Rlimit{Cur: min(l.Soft, current.Max), Max: min(l.Hard, current.Max)}
	return syscall.Setrlimit(l.Resource, &granted)
}

// dropPrivileges gives this thread the groups and ids of the account. Groups come first and the user id last,
// because only root may change groups. The raw system calls change one thread; Go's own would change all of
// them, which is needless because the others end with exec.
func (work preExec) dropPrivileges() error {
	var groups *uint32
	if len(work.Groups) > 0 {
		groups = &work.Groups[0]
	}
	count, list := uintptr(len(work.Groups)), uintptr(unsafe.Pointer(groups))
	if _, _, errno := syscall.RawSyscall(syscall.SYS_SETGROUPS, count, list, 0); errno != 0 {
		return errno
	}
	gid, uid := uintptr(work.GID), uintptr(work.UID)
	if _, _, errno := syscall.RawSyscall(syscall.SYS_SETRESGID, gid, gid, gid); errno != 0 {
		return errno
	}
	if _, _, errno := syscall.RawSyscall(syscall.SYS_SETRESUID, uid, uid, uid); errno != 0 {
		return errno
	}
	return nil
}

// currentUmask returns the umask of this process, or -1 where the kernel does not tell it (Linux before 4.7).
func currentUmask() int {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return -1
	}
	for line := range strings.Lines(string(b)) {
		if text, ok := strings.CutPrefix(line, "Umask:"); ok {
			if n, err := strconv.ParseUint(strings.TrimSpace(text), 8, 32); err == nil {
				return int(n)
			}
		}
	}
	return -1
}
