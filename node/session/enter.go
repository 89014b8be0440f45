package session

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
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// preExec is what has to be done between fork and exec that os/exec cannot do: a re-executed child of ours
// does it to itself while it is still root, becomes the account, and then the program. So there is no moment
// at which the program runs without its limits.
type preExec struct {
	UID, GID uint32
	Groups   []uint32
	Root     bool // the child is root, and becomes the account
	Umask    int
	Limits   []Limit
	Path     string
	Dir      string
}

// preExecReportFD is the descriptor on which the child tells the number of the error that kept it from
// running the program.
const preExecReportFD = firstExtraFD

// preExecTimeout bounds what may take long: a home on a file server that is gone, or an account that stops
// the child as soon as it can.
const preExecTimeout = 30 * time.Second

// preparePreExec makes cmd run by way of such a child, if it starts in a folder that is far, or the account's
// limits or the umask ask for it: it costs a few milliseconds. It returns where the child reports, or nil.
func (a Database) preparePreExec(acc Account, cmd *exec.Cmd, far bool) (*os.File, error) {
	e := preExec{
		UID:    acc.UID,
		GID:    acc.GID,
		Groups: acc.Groups,
		Root:   a.UID == 0,
		Umask:  a.Umask(),
		Path:   cmd.Path,
		Dir:    cmd.Dir,
	}
	if e.Root { // others keep the limits that they have
		var err error
		if e.Limits, err = a.Limits(acc); err != nil {
			return nil, err
		}
	}
	if e.Path == selfPath {
		e.Limits = slices.DeleteFunc(e.Limits, Limit.IsMemory)
	}
	if !far && len(e.Limits) == 0 && e.Umask == currentUmask() {
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

// startPreExec starts what entered prepared, and waits until the program runs.
func (a Database) startPreExec(cmd *exec.Cmd, report *os.File) error {
	defer report.Close()
	err := a.startIsolated(cmd)
	_ = cmd.ExtraFiles[0].Close()
	if err != nil {
		return err
	}
	_ = report.SetReadDeadline(time.Now().Add(preExecTimeout))
	b, err := io.ReadAll(
		io.LimitReader(report, 64),
	) // nothing, once the program runs: exec closes the descriptor
	if err == nil && len(b) == 0 {
		return nil
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait() // it has said why it ends, or hangs
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(string(b))
	if err != nil {
		return errors.New("the program was not reached")
	}
	return syscall.Errno(n)
}

// runPreExec is the child's side. It returns only when it failed.
func runPreExec(args []string) int {
	syscall.CloseOnExec(preExecReportFD)
	report := os.NewFile(preExecReportFD, "report")
	var e preExec
	err := json.Unmarshal([]byte(args[0]), &e)
	if err == nil {
		err = e.exec(args[1:])
	}
	var no syscall.Errno
	if !errors.As(err, &no) {
		no = syscall.EINVAL
	}
	fmt.Fprint(report, int(no))
	return helperFailedStatus
}

// exec changes this thread alone and never lets go of it: the program starts from it. Limits of memory are
// set last, and little is allocated after them.
func (e preExec) exec(args []string) error {
	runtime.LockOSThread()
	debug.SetGCPercent(-1)
	syscall.Umask(e.Umask)
	for _, l := range e.Limits {
		if err := l.set(); err != nil {
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

// set sets the limit. Where it would go beyond what this process may grant, as "unlimited" files do, all that
// it may is granted: nobody is kept out because less is to be had.
func (l Limit) set() error {
	err := syscall.Setrlimit(l.Resource, &syscall.Rlimit{Cur: l.Soft, Max: l.Hard})
	if err != syscall.EPERM {
		return err
	}
	var now syscall.Rlimit
	if err := syscall.Getrlimit(l.Resource, &now); err != nil {
		return err
	}
	return syscall.Setrlimit(
		l.Resource,
		&syscall.Rlimit{Cur: min(l.Soft, now.Max), Max: min(l.Hard, now.Max)},
	)
}

// dropPrivileges gives root up on this thread. The others end with exec.
func (e preExec) dropPrivileges() error {
	var groups *uint32
	if len(e.Groups) > 0 {
		groups = &e.Groups[0]
	}
	if _, _, no := syscall.RawSyscall(syscall.SYS_SETGROUPS, uintptr(len(e.Groups)), uintptr(unsafe.Pointer(groups)), 0); no != 0 {
		return no
	}
	gid, uid := uintptr(e.GID), uintptr(e.UID)
	if _, _, no := syscall.RawSyscall(syscall.SYS_SETRESGID, gid, gid, gid); no != 0 {
		return no
	}
	if _, _, no := syscall.RawSyscall(syscall.SYS_SETRESUID, uid, uid, uid); no != 0 {
		return no
	}
	return nil
}
