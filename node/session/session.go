// Package session answers: what runs, as whom, and how does it end?
//
// It starts one program as the target account with a clean environment, moves its bytes, and makes sure that
// nothing of it is left when the connection is gone. Whether it may run was decided before: package sshd asks
// the rules.
package session

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/node/pty"
)

// Kind is what a session is for.
type Kind string

const (
	Shell Kind = "shell"
	Exec  Kind = "exec"
	SFTP  Kind = "sftp"
)

// Spec is what shall run.
type Spec struct {
	Kind     Kind
	Command  string       // of Exec: what the account's shell is told to run
	Terminal *pty.Request // nil: none
	Env      Env
	Agent    string // path of the socket by which the program reaches the client's ssh-agent; empty: none

	// For the environment, so that programs and administrators can tell sessions apart.
	ID, User, Node        string
	ClientAddr, LocalAddr string // address and port of the client, and of this end of the way to it
}

// Process is a program under way.
type Process struct {
	accounts  Database
	acc       Account
	cmd       *exec.Cmd
	pidfd     int           // of the program; -1 where the kernel has none
	terminal  *pty.Terminal // nil: pipes
	stdin     *os.File
	stdout    *os.File
	stderr    *os.File   // nil with a terminal
	greeting  []byte     // what the terminal shows first
	utmp      *utmpEntry // in the machine's records; nil: none
	closeOnce sync.Once
	in, out   atomic.Int64
	exited    chan struct{} // closed when the program has ended; it stays a zombie until reap, so that its number is nobody else's

	mu     sync.Mutex // guards reaped
	reaped bool
}

// Start starts the program as the account.
func (a Database) Start(acc Account, s Spec) (*Process, error) {
	cmd, err := a.command(acc, s)
	if err != nil {
		return nil, err
	}
	unignoreHangup()
	program := cmd.Path
	p := &Process{accounts: a, acc: acc, cmd: cmd, pidfd: -1, exited: make(chan struct{})}
	cmd.SysProcAttr.PidFD = &p.pidfd
	if err := a.startProgram(p, acc, s); err != nil {
		p.closeStreams()
		if p.pidfd >= 0 { // a child was there, and did not reach the program
			_ = unix.Close(p.pidfd)
		}
		if isDiskFull(err) {
			return nil, fault.Wrap(
				err,
				fault.Exhausted,
				"session.Start",
				"this node's disk is full",
				"ask an administrator to free space on the node",
			)
		}
		return nil, fault.Wrap(
			err,
			fault.Internal,
			"session.Start",
			fmt.Sprintf("%s could not be started as %s: %v", program, acc.Login, rootCause(err)),
			"ask an administrator to look at the account and its login shell",
		)
	}
	if p.utmp != nil {
		pid := p.cmd.Process.Pid
		_ = errors.Join(p.utmp.markActive(pid), p.utmp.recordLogin(pid)) // as in greet
	}
	go func() { // ends with the program; Run waits for it
		defer close(p.exited)
		waitExit(p.cmd.Process.Pid, p.pidfd)
	}()
	return p, nil
}

func (a Database) command(acc Account, s Spec) (*exec.Cmd, error) {
	cmd := &exec.Cmd{Path: acc.Shell, Env: a.environ(acc, s), SysProcAttr: a.credentials(acc), Dir: acc.Home}
	switch s.Kind {
	case Shell:
		cmd.Args = []string{argv0(acc.Shell, true)}
	case Exec:
		cmd.Args = []string{argv0(acc.Shell, false), "-c", s.Command}
	case SFTP:
		if !a.AllowsFileTransfer(acc.Shell) {
			return nil, fault.New(
				fault.Denied,
				"session.Start",
				fmt.Sprintf("the login shell of %s is %s, which opens no files", acc.Login, acc.Shell),
				"ask an administrator to give the account a shell of /etc/shells, or use another login",
			)
		}
		cmd.Path, cmd.Args, cmd.Dir = selfPath, []string{helperName, sftpArg}, "/" // it goes home by itself
	default:
		return nil, fmt.Errorf("session: unknown kind %q", s.Kind)
	}
	return cmd, nil
}

func (a Database) startProgram(p *Process, acc Account, s Spec) error {
	var theirs []*os.File
	defer func() {
		for _, f := range theirs {
			_ = f.Close()
		}
	}()
	if s.Terminal != nil {
		gid, mode := a.TerminalOwner(acc)
		t, err := pty.Open(*s.Terminal, int(acc.UID), int(gid), mode)
		if err != nil {
			return err
		}
		t.Attach(p.cmd)
		p.cmd.Env = append(p.cmd.Env, "SSH_TTY="+t.Name())
		p.utmp = a.utmpEntryFor(acc, s, t.Name())
		p.terminal, p.stdin, p.stdout = t, t.Master(), t.Master()
		defer t.CloseSlave()
	} else {
		var err error
		if theirs, err = p.openPipes(); err != nil {
			return err
		}
		if err = a.chownStreams(acc, theirs); err != nil {
			return err
		}
		p.cmd.SysProcAttr.Setsid = true
	}
	p.prepareTerminal(a, acc, s)
	return p.launch(a, acc)
}

// prepareTerminal prepares what the terminal shows, and takes the seat in the machine's records: before the
// program can look there.
func (p *Process) prepareTerminal(a Database, acc Account, s Spec) {
	if s.Terminal != nil && s.Kind == Shell {
		p.greeting = a.greeting(acc)
	}
	if p.utmp != nil {
		_ = p.utmp.markActive(os.Getpid()) // a record that cannot be written keeps nobody out
	}
}

// launch starts the program itself.
func (p *Process) launch(a Database, acc Account) error {
	home := openLocalDir(p.cmd.Dir)
	defer home.Close() // of none it does nothing
	report, err := a.preparePreExec(acc, p.cmd, home == nil)
	if err != nil {
		return err
	}
	if report != nil {
		return a.startPreExec(p.cmd, report)
	}
	p.cmd.Dir = procPath(home)
	err = a.startIsolated(p.cmd)
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
		err = a.startIsolated(p.cmd)
	}
	return err
}

// openPipes makes stdin, stdout and stderr apart, and returns the program's ends.
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

// chownStreams makes the account the owner of its program's streams: who opens /dev/stderr opens the pipe
// behind it anew, by its owner and mode.
func (a Database) chownStreams(acc Account, theirs []*os.File) error {
	if a.UID != 0 {
		return nil // they are the account's already
	}
	for _, f := range theirs {
		if err := f.Chown(int(acc.UID), int(acc.GID)); err != nil {
			return err
		}
	}
	return nil
}

func rootCause(err error) error {
	for {
		next := errors.Unwrap(err)
		if next == nil {
			return err
		}
		err = next
	}
}
