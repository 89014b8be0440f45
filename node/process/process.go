// Package process answers: what runs, as whom, and when does it end?
//
// It starts one program as an account with a clean environment, copies its input and output, and makes sure
// that nothing of its process group is left when the connection is gone. Whether the program may run was
// decided before: package sshd asks the rules.
//
// Work that must be done with an account's rights is done by a helper: this same program, executed again as
// the account (see RunHelper).
package process

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/node/account"
	"github.com/threshold-access/threshold/node/loginrecord"
	"github.com/threshold-access/threshold/node/pty"
)

// Kind is what a session is for.
type Kind string

const (
	Shell Kind = "shell" // the account's login shell
	Exec  Kind = "exec"  // a command, run by the account's shell
	SFTP  Kind = "sftp"  // our own file server (package sftp), as the account
)

// Spec says what to run.
type Spec struct {
	Kind     Kind
	Command  string       // of Exec: the argument of the shell's -c
	Terminal *pty.Request // nil: no terminal, but pipes
	Env      Env          // the client's variables
	Agent    string       // path of the socket of the client's SSH agent; empty: none

	// For the environment and the login records, so that programs and administrators can tell sessions apart.
	ID, User, Node        string
	ClientAddr, LocalAddr string // address and port of the client, and of this end of the connection
}

// Process is a program that was started. Run must be called exactly once; the other methods may be called
// concurrently with it, from any goroutine.
//
// The program passes through three states. First it runs. Then it has exited but is not reaped (a zombie):
// its process id and its process group still belong to it. Then Run reaps it, and the kernel may give the id
// to another process.
type Process struct {
	db       account.Database
	acc      account.Account
	cmd      *exec.Cmd
	pidfd    int           // of the program; -1 where the kernel has none
	terminal *pty.Terminal // nil: pipes
	stdin    *os.File
	stdout   *os.File
	stderr   *os.File // nil with a terminal
	greeting []byte   // what the terminal shows first
	record   *login   // the session in the login records; nil: not recorded

	closeOnce sync.Once     // of closeTerminal
	in, out   atomic.Int64  // bytes copied
	exited    chan struct{} // closed when the program has exited

	// mu guards reaped, and is held while a signal is sent: after reaping, the id may be another process's.
	mu     sync.Mutex
	reaped bool
}

// login is a session in the login records of its machine. Errors of the records are ignored everywhere: a
// record that cannot be written must not keep anyone out.
type login struct {
	files loginrecord.Files
	entry loginrecord.Entry
}

// Start starts the program of spec as the account, and adds a session with a terminal to the login records.
// The caller then calls Run, which also releases what Start opened. The error is a fault: Denied if the login
// shell does not allow file transfer, Exhausted if the disk is full, else Internal.
func Start(db account.Database, acc account.Account, spec Spec) (*Process, error) {
	cmd, err := command(db, acc, spec)
	if err != nil {
		return nil, err
	}
	unignoreHangup()
	program := cmd.Path // for startFault: a preExec replaces cmd.Path
	p := &Process{db: db, acc: acc, cmd: cmd, pidfd: -1, exited: make(chan struct{})}
	cmd.SysProcAttr.PidFD = &p.pidfd
	if err := p.start(spec); err != nil {
		p.closeStreams()
		if p.pidfd >= 0 { // there was a child, but it did not reach the program
			_ = unix.Close(p.pidfd)
		}
		return nil, startFault(err, program, acc)
	}
	if p.record != nil {
		pid := p.cmd.Process.Pid
		_ = p.record.files.MarkActive(p.record.entry, pid)
		_ = p.record.files.RecordLogin(p.record.entry, pid)
	}
	go func() { // ends when the program exits; Run waits for it
		defer close(p.exited)
		waitExit(p.cmd.Process.Pid, p.pidfd)
	}()
	return p, nil
}

// startFault returns the fault for a program that could not be started because of err.
func startFault(err error, program string, acc account.Account) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return nodeDiskFull.Wrap(err, "process.Start")
	}
	return programNotStarted.Wrap(err, "process.Start", fault.Args{
		"program": program,
		"login":   acc.Login,
		"why":     rootCause(err),
	})
}

// command returns the command that runs what spec asks for as the account, still without streams. The error
// is a fault of kind Denied if the login shell does not allow file transfer.
func command(db account.Database, acc account.Account, spec Spec) (*exec.Cmd, error) {
	cmd := &exec.Cmd{
		Path:        acc.Shell,
		Env:         environ(db, acc, spec),
		SysProcAttr: credentials(db, acc),
		Dir:         acc.Home,
	}
	switch spec.Kind {
	case Shell:
		cmd.Args = []string{"-" + filepath.Base(acc.Shell)} // the dash makes it a login shell
	case Exec:
		cmd.Args = []string{filepath.Base(acc.Shell), "-c", spec.Command}
	case SFTP:
		if !db.AllowsFileTransfer(acc.Shell) {
			return nil, accountShellDeniesTransfer.New("process.Start", fault.Args{
				"login": acc.Login,
				"shell": acc.Shell,
			})
		}
		cmd.Path, cmd.Args = selfPath, []string{helperName, sftpArg}
		cmd.Dir = "/" // the file server enters the home by itself
	default:
		return nil, fmt.Errorf("process: unknown kind %q", spec.Kind)
	}
	return cmd, nil
}

// start opens the program's streams, a terminal or pipes, and starts the program in a new session
// (setsid(2)). This process keeps its own ends of the streams. After an error the caller closes those that
// were opened.
func (p *Process) start(spec Spec) error {
	if spec.Terminal == nil {
		programEnds, err := p.openPipes()
		defer closeFiles(programEnds)
		if err != nil {
			return err
		}
		if err := chownStreams(p.db, p.acc, programEnds); err != nil {
			return err
		}
		p.cmd.SysProcAttr.Setsid = true
		return p.launch()
	}
	if err := p.openTerminal(spec); err != nil {
		return err
	}
	defer p.terminal.CloseSlave()
	if spec.Kind == Shell && p.acc.WantsGreeting() {
		p.greeting = p.greetingText()
	}
	if p.record != nil { // before the program starts, because it may look for itself in utmp
		_ = p.record.files.MarkActive(p.record.entry, os.Getpid())
	}
	return p.launch()
}

// openTerminal opens a terminal that belongs to the account, makes it the program's streams, and prepares the
// entry in the login records.
func (p *Process) openTerminal(spec Spec) error {
	gid, mode := p.db.TerminalOwner(p.acc)
	t, err := pty.Open(*spec.Terminal, int(p.acc.UID), int(gid), mode)
	if err != nil {
		return err
	}
	t.Attach(p.cmd)
	p.cmd.Env = append(p.cmd.Env, "SSH_TTY="+t.Name())
	p.terminal, p.stdin, p.stdout = t, t.Master(), t.Master()
	if p.db.UID == 0 { // only root writes the login records
		p.record = &login{p.recordFiles(), recordEntry(p.acc, spec, t.Name())}
	}
	return nil
}

func (p *Process) recordFiles() loginrecord.Files {
	return loginrecord.Files{Root: p.db.Root, Now: p.db.Now}
}

// recordEntry returns the entry for the login records of a session on the terminal tty, a path as
// "/dev/pts/3".
func recordEntry(acc account.Account, spec Spec, tty string) loginrecord.Entry {
	client, _ := netip.ParseAddrPort(spec.ClientAddr) // without an address the record names none
	return loginrecord.Entry{
		Line:  strings.TrimPrefix(filepath.Clean(tty), "/dev/"),
		Login: string(acc.Login),
		UID:   acc.UID,
		From:  client.Addr().Unmap(),
	}
}

// greetingText returns what the terminal of a login shell shows first, as with sshd: the messages of the day,
// then the last login. It is called before Start records this login, which would otherwise be the last.
func (p *Process) greetingText() []byte {
	text := p.db.MessagesOfTheDay()
	if at, from, ok := p.recordFiles().LastLogin(p.acc.UID); ok {
		text += "Last login: " + at.Format(time.ANSIC)
		if from != "" {
			text += " from " + from
		}
		text += "\n"
	}
	return []byte(strings.ReplaceAll(text, "\n", "\r\n"))
}

// launch starts the program: directly, or by way of a child if the account's limits or its home require one
// (preparePreExec). A program whose account may not enter its home starts in / instead, as with sshd.
func (p *Process) launch() error {
	home := account.OpenLocalDir(p.cmd.Dir)
	defer home.Close() // does nothing if home is nil
	report, err := preparePreExec(p.db, p.acc, p.cmd, home == nil /* the directory is remote */)
	if err != nil {
		return err
	}
	if report != nil {
		return startPreExec(p.db, p.cmd, report)
	}
	p.cmd.Dir = procPath(home)
	err = startIsolated(p.db, p.cmd)
	if errors.Is(err, syscall.EACCES) { // a home that the account itself may not enter
		failed := p.cmd
		p.cmd = &exec.Cmd{ // an exec.Cmd can be started only once
			Path:        failed.Path,
			Args:        failed.Args,
			Env:         failed.Env,
			Dir:         "/",
			SysProcAttr: failed.SysProcAttr,
			Stdin:       failed.Stdin,
			Stdout:      failed.Stdout,
			Stderr:      failed.Stderr,
		}
		err = startIsolated(p.db, p.cmd)
	}
	return err
}

// procPath returns a path by which a new process finds an open file of this process, even if the file was
// renamed since it was opened.
func procPath(f *os.File) string { return fmt.Sprintf("/proc/self/fd/%d", f.Fd()) }

// openPipes makes a pipe each for stdin, stdout and stderr. It keeps this process's ends in p, gives the
// program's ends to the command, and returns them for the caller to close: also together with an error, those
// that were opened.
func (p *Process) openPipes() (programEnds []*os.File, err error) {
	for _, ownEnd := range []**os.File{&p.stdin, &p.stdout, &p.stderr} {
		r, w, err := os.Pipe()
		if err != nil {
			return programEnds, err
		}
		own, program := r, w
		if ownEnd == &p.stdin { // the program reads its stdin
			own, program = w, r
		}
		*ownEnd = own
		programEnds = append(programEnds, program)
	}
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = programEnds[0], programEnds[1], programEnds[2]
	return programEnds, nil
}

// chownStreams makes the account the owner of its program's pipes. Otherwise a program could not open
// /dev/stderr: opening it opens the pipe again, and the kernel checks the pipe's owner and mode.
func chownStreams(db account.Database, acc account.Account, streams []*os.File) error {
	if db.UID != 0 {
		return nil // this process is the account, and made the pipes
	}
	for _, f := range streams {
		if err := f.Chown(int(acc.UID), int(acc.GID)); err != nil {
			return err
		}
	}
	return nil
}

func closeFiles(files []*os.File) {
	for _, f := range files {
		_ = f.Close()
	}
}

// rootCause returns the innermost wrapped error, which has no paths and operations that a user does not know.
func rootCause(err error) error {
	for {
		next := errors.Unwrap(err)
		if next == nil {
			return err
		}
		err = next
	}
}
