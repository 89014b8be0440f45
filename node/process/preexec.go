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

// preExec is the work between fork and exec that os/exec cannot do: resource limits, umask, and entering a
// home on a remote file system. A re-executed child does it to itself while it is still root, then becomes
// the account, then executes the program. So the program never runs without its limits. The struct is the
// child's argument, as JSON.
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

// preparePreExec changes cmd so that such a child starts the program, and returns where the child reports. It
// returns nil and leaves cmd unchanged if the program needs no child: its directory is on a local file system
// (remoteDir is false), the account has no limits and the umask is the agent's own. The child costs a few
// milliseconds.
func preparePreExec(
	db account.Database, acc account.Account, cmd *exec.Cmd, remoteDir bool,
) (report *os.File, err error) {
	e := preExec{
		UID:    acc.UID,
		GID:    acc.GID,
		Groups: acc.Groups,
		Root:   db.UID == 0,
		Umask:  db.Umask(),
		Path:   cmd.Path,
		Dir:    cmd.Dir,
	}
	if e.Root { // other accounts keep the limits that they have
		if e.Limits, err = db.Limits(acc); err != nil {
			return nil, err
		}
	}
	if e.Path == selfPath {
		e.Limits = slices.DeleteFunc(e.Limits, account.Limit.IsMemory)
	}
	if !remoteDir && len(e.Limits) == 0 && e.Umask == currentUmask() {
		return nil, nil
	}
	spec, err := json.Marshal(e)
	if err != nil {
		return nil, err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	cmd.Args = append([]string{helperName, preExecArg, string(spec)}, cmd.Args...)
	cmd.Path, cmd.Dir = selfPath, "/"
	cmd.SysProcAttr.Credential = nil
	cmd.ExtraFiles = []*os.File{w}
	return r, nil
}

// startPreExec starts a command that preparePreExec changed, and waits until the program runs.
func startPreExec(db account.Database, cmd *exec.Cmd, report *os.File) error {
	defer report.Close()
	err := startIsolated(db, cmd)
	_ = cmd.ExtraFiles[0].Close()
	if err != nil {
		return err
	}
	_ = report.SetReadDeadline(time.Now().Add(preExecTimeout))
	b, err := io.ReadAll(io.LimitReader(report, 64))
	if err == nil && len(b) == 0 {
		return nil // exec closed the descriptor
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait() // the child has reported why it ends, or it hangs
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(string(b))
	if err != nil {
		return errors.New("the program was not reached")
	}
	return syscall.Errno(n)
}

// runPreExec is the child's side; args are the preExec and the program's arguments. It returns only on
// failure.
func runPreExec(args []string) int {
	syscall.CloseOnExec(preExecReportFD)
	report := os.NewFile(preExecReportFD, "report")
	var e preExec
	err := json.Unmarshal([]byte(args[0]), &e)
	if err == nil {
		err = e.exec(args[1:])
	}
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		errno = syscall.EINVAL
	}
	fmt.Fprint(report, int(errno))
	return helperFailedStatus
}

// exec does the work and executes the program. It changes only its own thread, which it keeps locked: the
// program starts from that thread. Limits of memory are set last (account.Database.Limits), with the garbage
// collector off, because afterwards an allocation may fail.
func (e preExec) exec(args []string) error {
	runtime.LockOSThread()
	debug.SetGCPercent(-1)
	syscall.Umask(e.Umask)
	for _, l := range e.Limits {
		if err := setLimit(l); err != nil {
			return err
		}
	}
	if e.Root {
		if err := e.dropPrivileges(); err != nil {
			return err
		}
	}
	if unix.Chdir(e.Dir) != nil { // a home that the account itself may not enter
		if err := unix.Chdir("/"); err != nil {
			return err
		}
	}
	return syscall.Exec(e.Path, args, os.Environ())
}

// setLimit sets the limit. If it exceeds what this process may grant, as "unlimited" entries do, setLimit
// grants as much as it may: nobody is kept out because the machine has less.
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

// dropPrivileges makes this thread the account's: groups first, the user id last, because only root may
// change groups. The raw system calls change one thread; Go's own would change all of them, and the others
// end with exec.
func (e preExec) dropPrivileges() error {
	var groups *uint32
	if len(e.Groups) > 0 {
		groups = &e.Groups[0]
	}
	count, list := uintptr(len(e.Groups)), uintptr(unsafe.Pointer(groups))
	if _, _, errno := syscall.RawSyscall(syscall.SYS_SETGROUPS, count, list, 0); errno != 0 {
		return errno
	}
	gid, uid := uintptr(e.GID), uintptr(e.UID)
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
