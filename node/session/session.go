// Package session answers: what runs, as whom, and how does it end?
//
// It starts one program as the target account with a clean environment, moves its bytes, and makes sure that nothing of it is left
// when the connection is gone. Whether it may run was decided before: package sshd asks the rules.
package session

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

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
	ID, User, Node string
	From, At       string // address and port of the client, and of this end of the way to it
}

const (
	// hangupGrace is how long programs have between SIGHUP and SIGKILL.
	hangupGrace = 3 * time.Second
	// drainGrace is how long a terminal may stay silent after its program has ended, while others still hold it open.
	drainGrace = 200 * time.Millisecond
	// copyBytes is the size of copy buffers; they are pooled.
	copyBytes      = 32 << 10
	smallCopyBytes = 4 << 10
)

// Process is a program under way.
type Process struct {
	accounts Accounts
	acc      Account
	cmd      *exec.Cmd
	pidfd    int           // of the program; -1 where the kernel has none
	terminal *pty.Terminal // nil: pipes
	stdin    *os.File
	stdout   *os.File
	stderr   *os.File // nil with a terminal
	greeting []byte   // what the terminal shows first
	seat     *seat    // in the machine's records; nil: none
	free     sync.Once
	in, out  atomic.Int64
	exited   chan struct{} // closed when the program has ended; it stays a zombie until reap, so that its number is nobody else's

	mu     sync.Mutex // guards reaped
	reaped bool
}

// Start starts the program as the account.
func (a Accounts) Start(acc Account, s Spec) (*Process, error) {
	cmd, err := a.command(acc, s)
	if err != nil {
		return nil, err
	}
	program := cmd.Path
	p := &Process{accounts: a, acc: acc, cmd: cmd, pidfd: -1, exited: make(chan struct{})}
	cmd.SysProcAttr.PidFD = &p.pidfd
	if err := a.start(p, acc, s); err != nil {
		p.closeAll()
		if p.pidfd >= 0 { // a child was there, and did not reach the program
			_ = unix.Close(p.pidfd)
		}
		if diskIsFull(err) {
			return nil, fault.Wrap(err, fault.Exhausted, "session.Start", "this node's disk is full", "ask an administrator to free space on the node")
		}
		return nil, fault.Wrap(err, fault.Internal, "session.Start", fmt.Sprintf("%s could not be started as %s: %v", program, acc.Login, rootCause(err)),
			"ask an administrator to look at the account and its login shell")
	}
	if p.seat != nil {
		pid := p.cmd.Process.Pid
		_ = errors.Join(p.seat.take(pid), p.seat.began(pid)) // as in greet
	}
	go func() { // ends with the program; Run waits for it
		defer close(p.exited)
		awaitExit(p.cmd.Process.Pid, p.pidfd)
	}()
	return p, nil
}

func (a Accounts) command(acc Account, s Spec) (*exec.Cmd, error) {
	cmd := &exec.Cmd{Path: acc.Shell, Env: a.environ(acc, s), SysProcAttr: a.become(acc), Dir: acc.Home}
	switch s.Kind {
	case Shell:
		cmd.Args = []string{argv0(acc.Shell, true)}
	case Exec:
		cmd.Args = []string{argv0(acc.Shell, false), "-c", s.Command}
	case SFTP:
		if !a.opens(acc.Shell) {
			return nil, fault.New(fault.Denied, "session.Start", fmt.Sprintf("the login shell of %s is %s, which opens no files", acc.Login, acc.Shell),
				"ask an administrator to give the account a shell of /etc/shells, or use another login")
		}
		cmd.Path, cmd.Args, cmd.Dir = selfPath, []string{helperName, sftpGuard}, "/" // it goes home by itself
	default:
		return nil, fmt.Errorf("session: unknown kind %q", s.Kind)
	}
	return cmd, nil
}

func (a Accounts) start(p *Process, acc Account, s Spec) error {
	var theirs []*os.File
	defer func() {
		for _, f := range theirs {
			_ = f.Close()
		}
	}()
	if s.Terminal != nil {
		gid, mode := a.ttyGroup(acc)
		t, err := pty.Open(*s.Terminal, int(acc.UID), int(gid), mode)
		if err != nil {
			return err
		}
		t.Attach(p.cmd)
		p.cmd.Env = append(p.cmd.Env, "SSH_TTY="+t.Name())
		p.seat = a.seatOf(acc, s, t.Name())
		p.terminal, p.stdin, p.stdout = t, t.Master(), t.Master()
		defer t.Started()
	} else {
		var err error
		if theirs, err = p.pipes(); err != nil {
			return err
		}
		if err = a.give(acc, theirs); err != nil {
			return err
		}
		p.cmd.SysProcAttr.Setsid = true
	}
	p.greet(a, acc, s)
	return p.launch(a, acc)
}

// greet prepares what the terminal shows, and takes the seat in the machine's records: before the program can look there.
func (p *Process) greet(a Accounts, acc Account, s Spec) {
	if s.Terminal != nil && s.Kind == Shell {
		p.greeting = a.greeting(acc)
	}
	if p.seat != nil {
		_ = p.seat.take(os.Getpid()) // a record that cannot be written keeps nobody out
	}
}

// launch starts the program itself.
func (p *Process) launch(a Accounts, acc Account) error {
	home := openNear(p.cmd.Dir)
	defer home.Close() // of none it does nothing
	report, err := a.entered(acc, p.cmd, home == nil)
	if err != nil {
		return err
	}
	if report != nil {
		return a.startEntered(p.cmd, report)
	}
	p.cmd.Dir = pathOf(home)
	err = a.apart(p.cmd)
	if errors.Is(err, syscall.EACCES) { // a home that the account itself may not enter
		c := p.cmd
		p.cmd = &exec.Cmd{Path: c.Path, Args: c.Args, Env: c.Env, Dir: "/", SysProcAttr: c.SysProcAttr, Stdin: c.Stdin, Stdout: c.Stdout, Stderr: c.Stderr}
		err = a.apart(p.cmd)
	}
	return err
}

// pipes makes stdin, stdout and stderr apart, and returns the program's ends.
func (p *Process) pipes() (theirs []*os.File, err error) {
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

// give makes the account the owner of its program's streams: who opens /dev/stderr opens the pipe behind it anew, by its owner and mode.
func (a Accounts) give(acc Account, theirs []*os.File) error {
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

// Streams are where a program's bytes come from and go to.
type Streams struct {
	In       io.Reader
	Out, Err io.Writer
}

// Run moves bytes until the program has ended and all of its output is delivered, or until ctx ends: then the program and everything
// in its process group is hung up, and killed if it stays. Whoever reads from In must be let go by the caller afterwards; its reader
// is the only goroutine that may outlive Run.
func (p *Process) Run(ctx context.Context, s Streams) Exit {
	go p.feed(s.In)
	var outputs sync.WaitGroup
	outputs.Go(func() {
		if len(p.greeting) > 0 {
			_, _ = s.Out.Write(p.greeting) // the first write of the program's own finds out if nobody takes it
		}
		p.drain(&buffers, p.stdout, s.Out)
	})
	if p.stderr != nil {
		outputs.Go(func() { p.drain(&smallBuffers, p.stderr, s.Err) })
	}
	drained := make(chan struct{})
	go func() { outputs.Wait(); close(drained) }()

	select {
	case <-p.exited:
		if p.terminal != nil {
			_ = p.stdout.SetReadDeadline(time.Now().Add(drainGrace)) // what still holds the terminal gets no longer
		}
		select {
		case <-drained:
		case <-ctx.Done():
		}
	case <-ctx.Done():
	}
	if ctx.Err() != nil {
		p.end()
	}
	p.closeAll()
	<-drained
	<-p.exited
	return exitOf(p.reap(), p.in.Load(), p.out.Load())
}

// reap lets the program's number go; no signal is sent to it after.
func (p *Process) reap() *os.ProcessState {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.reaped = true
	_ = p.cmd.Wait() // how it ended is in the state
	return p.cmd.ProcessState
}

// feed gives the program its input. The end of input closes its stdin; a terminal gets its end-of-input character.
func (p *Process) feed(in io.Reader) {
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	_, err := io.CopyBuffer(counted{p.stdin, &p.in}, struct{ io.Reader }{in}, *buf)
	if p.terminal == nil {
		_ = p.stdin.Close()
		return
	}
	if err == nil {
		if c := p.terminal.EndOfInput(); c != 0 {
			_, _ = p.stdin.Write([]byte{c}) // the program may have gone
		}
	}
}

// drain delivers output until there is no more. A read deadline is set once the program is gone; it counts silence, not time.
func (p *Process) drain(pool *sync.Pool, from *os.File, to io.Writer) {
	buf := pool.Get().(*[]byte)
	defer pool.Put(buf)
	silent := false
	for {
		n, err := from.Read(*buf)
		if n > 0 {
			silent = false
			p.out.Add(int64(n))
			if _, werr := to.Write((*buf)[:n]); werr != nil {
				p.discard(from, *buf)
				return
			}
		}
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			if silent {
				return
			}
			silent = true
		case err != nil:
			return // EOF, or EIO from a terminal that nobody has open
		}
		if p.terminal != nil && p.hasExited() {
			_ = from.SetReadDeadline(time.Now().Add(drainGrace))
		}
	}
}

// discard keeps a program from blocking on output that nobody takes any more.
func (p *Process) discard(from *os.File, buf []byte) {
	for {
		if _, err := from.Read(buf); err != nil {
			return
		}
	}
}

func (p *Process) hasExited() bool {
	select {
	case <-p.exited:
		return true
	default:
		return false
	}
}

// end hangs up on the process group, and kills all of it if the program stays. Where it goes, what it left behind that ignores the
// hangup stays, as with OpenSSH's sshd: an editor's server that was started with nohup is still there after a lost connection.
func (p *Process) end() {
	_ = p.kill(syscall.SIGHUP)
	p.hangUp()
	timer := time.NewTimer(hangupGrace)
	defer timer.Stop()
	select {
	case <-p.exited:
	case <-timer.C:
		_ = p.kill(syscall.SIGKILL)
		<-p.exited
	}
}

// Signal sends a signal to the program's process group, as the account: what is in it and has become somebody else, by way of sudo, is
// not the account's to end.
func (p *Process) Signal(sig syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.reaped {
		return os.ErrProcessDone
	}
	return p.accounts.signal(p.acc, p.cmd.Process.Pid, sig)
}

// kill is Signal with all the rights there are.
func (p *Process) kill(sig syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.reaped {
		return os.ErrProcessDone
	}
	return syscall.Kill(-p.cmd.Process.Pid, sig)
}

// Resize tells the program of a new window. Without a terminal it does nothing.
func (p *Process) Resize(s pty.Size) error {
	if p.terminal == nil {
		return nil
	}
	return p.terminal.Resize(s)
}

// errNoTerminal says that something was asked of a terminal where there is none.
var errNoTerminal = errors.New("the session has no terminal")

// Break sends a break to the terminal.
func (p *Process) Break() error {
	if p.terminal == nil {
		return errNoTerminal
	}
	return p.terminal.Break()
}

// hangUp frees the seat in the machine's records, and closes the terminal only then: the next session may get the same one.
func (p *Process) hangUp() {
	if p.terminal == nil {
		return
	}
	p.free.Do(func() {
		pid := 0
		if p.cmd.Process != nil {
			pid = p.cmd.Process.Pid
		}
		if p.seat != nil {
			_ = p.seat.leave(pid) // as in greet
		}
	})
	p.terminal.Close()
}

func (p *Process) closeAll() {
	p.hangUp()
	for _, f := range []*os.File{p.stdin, p.stdout, p.stderr} {
		if f != nil {
			_ = f.Close()
		}
	}
}

var (
	buffers      = sync.Pool{New: func() any { b := make([]byte, copyBytes); return &b }}
	smallBuffers = sync.Pool{New: func() any { b := make([]byte, smallCopyBytes); return &b }} // of stderr, where little comes
)

type counted struct {
	w io.Writer
	n *atomic.Int64
}

func (c counted) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.n.Add(int64(n))
	return n, err
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
