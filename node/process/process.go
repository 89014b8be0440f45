// Package process answers: what runs, as whom, and when does it end?
//
// It starts one program as an account with a clean environment, copies its input and output, and makes sure
// that nothing of its process group is left when the connection is gone. Whether the program may run was
// decided before: package sshd asks the rules.
//
// Work that must be done with an account's rights is done by this same program, re-executed as the account:
// see RunHelper.
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
// The program passes through three states. It runs; then it has exited and is a zombie, so that its process
// id and its process group still belong to it; then Run reaps it and the kernel may give the id to another
// process.
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

// Start starts the program as the account. The error is a fault: Denied if the login shell does not allow
// file transfer, Exhausted if the disk is full, else Internal.
func Start(db account.Database, acc account.Account, s Spec) (*Process, error) {
	cmd, err := command(db, acc, s)
	if err != nil {
		return nil, err
	}
	unignoreHangup()
	program := cmd.Path
	p := &Process{db: db, acc: acc, cmd: cmd, pidfd: -1, exited: make(chan struct{})}
	cmd.SysProcAttr.PidFD = &p.pidfd
	if err := p.start(s); err != nil {
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

func startFault(err error, program string, acc account.Account) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fault.Wrap(err, fault.Exhausted, "process.Start",
			"this node's disk is full", "ask an administrator to free space on the node")
	}
	return fault.Wrap(err, fault.Internal, "process.Start",
		fmt.Sprintf("%s could not be started as %s: %v", program, acc.Login, rootCause(err)),
		"ask an administrator to look at the account and its login shell")
}

// command prepares the command of the spec, without streams.
func command(db account.Database, acc account.Account, s Spec) (*exec.Cmd, error) {
	cmd := &exec.Cmd{
		Path:        acc.Shell,
		Env:         environ(db, acc, s),
		SysProcAttr: credentials(db, acc),
		Dir:         acc.Home,
	}
	switch s.Kind {
	case Shell:
		cmd.Args = []string{argv0(acc.Shell, true)}
	case Exec:
		cmd.Args = []string{argv0(acc.Shell, false), "-c", s.Command}
	case SFTP:
		if !db.AllowsFileTransfer(acc.Shell) {
			return nil, fault.New(fault.Denied, "process.Start",
				fmt.Sprintf("the login shell of %s is %s, which does not allow file transfer",
					acc.Login, acc.Shell),
				"ask an administrator to give the account a shell of /etc/shells, or use another login")
		}
		cmd.Path, cmd.Args = selfPath, []string{helperName, sftpArg}
		cmd.Dir = "/" // the file server enters the home by itself
	default:
		return nil, fmt.Errorf("process: unknown kind %q", s.Kind)
	}
	return cmd, nil
}

// argv0 returns the name by which a shell is started; a leading dash makes it a login shell.
func argv0(shell string, isLogin bool) string {
	name := filepath.Base(shell)
	if isLogin {
		return "-" + name
	}
	return name
}

// start opens the program's streams and starts it. On an error the caller closes what was opened.
func (p *Process) start(s Spec) error {
	if s.Terminal == nil {
		theirs, err := p.openPipes()
		defer closeFiles(theirs)
		if err != nil {
			return err
		}
		if err := chownStreams(p.db, p.acc, theirs); err != nil {
			return err
		}
		p.cmd.SysProcAttr.Setsid = true
		return p.launch()
	}
	if err := p.openTerminal(s); err != nil {
		return err
	}
	defer p.terminal.CloseSlave()
	if s.Kind == Shell && p.acc.WantsGreeting() {
		p.greeting = p.greetingText()
	}
	if p.record != nil { // before the program can look for itself there
		_ = p.record.files.MarkActive(p.record.entry, os.Getpid())
	}
	return p.launch()
}

// openTerminal opens a terminal of the account and makes it the program's streams.
func (p *Process) openTerminal(s Spec) error {
	gid, mode := p.db.TerminalOwner(p.acc)
	t, err := pty.Open(*s.Terminal, int(p.acc.UID), int(gid), mode)
	if err != nil {
		return err
	}
	t.Attach(p.cmd)
	p.cmd.Env = append(p.cmd.Env, "SSH_TTY="+t.Name())
	p.terminal, p.stdin, p.stdout = t, t.Master(), t.Master()
	if p.db.UID == 0 { // only root writes the login records
		p.record = &login{p.recordFiles(), recordEntry(p.acc, s, t.Name())}
	}
	return nil
}

func (p *Process) recordFiles() loginrecord.Files {
	return loginrecord.Files{Root: p.db.Root, Now: p.db.Now}
}

func recordEntry(acc account.Account, s Spec, tty string) loginrecord.Entry {
	client, _ := netip.ParseAddrPort(s.ClientAddr) // without an address the record names none
	return loginrecord.Entry{
		Line:  strings.TrimPrefix(filepath.Clean(tty), "/dev/"),
		Login: string(acc.Login),
		UID:   acc.UID,
		From:  client.Addr().Unmap(),
	}
}

// greetingText is what the terminal of a login shell shows first, as under sshd: the messages of the day,
// then the last login, which must be read before this one is recorded.
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

// launch starts the program itself: directly, or by way of a re-executed child where the account or its home
// need one.
func (p *Process) launch() error {
	home := account.OpenLocalDir(p.cmd.Dir)
	defer home.Close() // does nothing if home is nil
	report, err := preparePreExec(p.db, p.acc, p.cmd, home == nil)
	if err != nil {
		return err
	}
	if report != nil {
		return startPreExec(p.db, p.cmd, report)
	}
	p.cmd.Dir = procPath(home)
	err = startIsolated(p.db, p.cmd)
	if errors.Is(err, syscall.EACCES) { // a home that the account itself may not enter
		c := p.cmd
		p.cmd = &exec.Cmd{
			Path:        c.Path,
			Args:        c.Args,
			Env:         c.Env,
			Dir:         "/",
			SysProcAttr: c.SysProcAttr,
			Stdin:       c.Stdin,
			Stdout:      c.Stdout,
			Stderr:      c.Stderr,
		}
		err = startIsolated(p.db, p.cmd)
	}
	return err
}

// procPath names an open file for a new process: it finds this very file, even if the file was renamed since.
func procPath(f *os.File) string { return fmt.Sprintf("/proc/self/fd/%d", f.Fd()) }

// openPipes makes separate pipes for stdin, stdout and stderr, and returns the program's ends, also on an
// error.
func (p *Process) openPipes() (theirs []*os.File, err error) {
	for _, ours := range []**os.File{&p.stdin, &p.stdout, &p.stderr} {
		r, w, err := os.Pipe()
		if err != nil {
			return theirs, err
		}
		if ours == &p.stdin {
			r, w = w, r
		}
		*ours = r
		theirs = append(theirs, w)
	}
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = theirs[0], theirs[1], theirs[2]
	return theirs, nil
}

// chownStreams makes the account the owner of its program's pipes. A program that opens /dev/stderr opens the
// pipe behind it again, and the kernel then checks the pipe's owner and mode.
func chownStreams(db account.Database, acc account.Account, streams []*os.File) error {
	if db.UID != 0 {
		return nil // they belong to the account already
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

// rootCause returns the innermost wrapped error: without the paths and operations that mean nothing to a
// user.
func rootCause(err error) error {
	for {
		next := errors.Unwrap(err)
		if next == nil {
			return err
		}
		err = next
	}
}
