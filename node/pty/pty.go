// Package pty answers: which terminal does a program get? It opens operating-system terminals as an SSH
// client asks for them (RFC 4254 section 6.2): size, modes and owner. It decides nothing.
package pty

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"syscall"

	"github.com/creack/pty"
	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"
)

// Size is a window in characters and pixels. Pixels may be 0.
type Size struct {
	Cols, Rows, Width, Height uint32
}

// maxSide bounds rows and columns; the kernel keeps 16 bits, and no real window is near it.
const maxSide = 0xffff

func (s Size) winsize() *unix.Winsize {
	cut := func(n uint32) uint16 { return uint16(min(n, maxSide)) }
	return &unix.Winsize{Row: cut(s.Rows), Col: cut(s.Cols), Xpixel: cut(s.Width), Ypixel: cut(s.Height)}
}

// Request is what a client asks for.
type Request struct {
	Term  string // the terminal's type, for $TERM; "dumb" when the client named nothing sensible
	Size  Size
	modes []mode
}

// termRE keeps anything out of $TERM that some program might take for a path or an option.
var termRE = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._+-]{0,63}$`)

// ParseRequest reads the payload of a pty-req.
func ParseRequest(payload []byte) (Request, error) {
	var m struct {
		Term                      string
		Cols, Rows, Width, Height uint32
		Modes                     []byte
	}
	if err := ssh.Unmarshal(payload, &m); err != nil {
		return Request{}, fmt.Errorf("pty-req: %w", err)
	}
	r := Request{Term: m.Term, Size: Size{m.Cols, m.Rows, m.Width, m.Height}, modes: parseModes(m.Modes)}
	if !termRE.MatchString(r.Term) {
		r.Term = "dumb"
	}
	return r, nil
}

// ParseSize reads the payload of a window-change.
func ParseSize(payload []byte) (s Size, err error) {
	if err := ssh.Unmarshal(payload, &s); err != nil {
		return Size{}, fmt.Errorf("window-change: %w", err)
	}
	return s, nil
}

// Terminal is an open pair.
type Terminal struct {
	master *os.File
	slave  *os.File // closed by Started
}

// Open opens a terminal that belongs to the user and group, under the mode.
func Open(r Request, uid, gid int, mode os.FileMode) (*Terminal, error) {
	master, slave, err := pty.Open()
	if err != nil {
		return nil, fmt.Errorf("open terminal: %w", err)
	}
	if master, err = pollable(master); err != nil {
		slave.Close()
		return nil, fmt.Errorf("open terminal: %w", err)
	}
	t := &Terminal{master, slave}
	if err := t.prepare(r, uid, gid, mode); err != nil {
		t.Close()
		return nil, fmt.Errorf("prepare terminal: %w", err)
	}
	return t, nil
}

// pollable makes of the file one that waits without holding a thread, and takes deadlines. Opening the
// terminal made it a blocking one.
func pollable(f *os.File) (*os.File, error) {
	defer f.Close()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

func (t *Terminal) prepare(r Request, uid, gid int, mode os.FileMode) error {
	if err := t.Resize(r.Size); err != nil {
		return err
	}
	if err := applyModes(t.slave, r.modes); err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return nil // devpts made it ours already
	}
	return errors.Join(t.slave.Chown(uid, gid), t.slave.Chmod(mode))
}

// Attach makes the terminal the command's three streams and controlling terminal, in a session of its own.
func (t *Terminal) Attach(cmd *exec.Cmd) {
	cmd.Stdin, cmd.Stdout, cmd.Stderr = t.slave, t.slave, t.slave
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setsid, cmd.SysProcAttr.Setctty, cmd.SysProcAttr.Ctty = true, true, 0
}

// CloseSlave drops the program's side, so that its end shows as the end of reading.
func (t *Terminal) CloseSlave() { _ = t.slave.Close() }

// Name is the program's side, as "/dev/pts/3".
func (t *Terminal) Name() string { return t.slave.Name() }

// Break sends a break (RFC 4335), as tcsendbreak does. What programs hear of it is up to the kernel's
// terminal.
func (t *Terminal) Break() error {
	return withFD(t.master, func(fd int) error { return unix.IoctlSetInt(fd, unix.TCSBRK, 0) })
}

// Master is the side that people sit at. Reading it fails with EIO once no program has the terminal open.
func (t *Terminal) Master() *os.File { return t.master }

// Resize tells the programs of a new window.
func (t *Terminal) Resize(s Size) error {
	return withFD(
		t.master,
		func(fd int) error { return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, s.winsize()) },
	)
}

// EndOfInput is the character that a program reading lines takes for the end of its input, or 0 when it does
// not read lines.
func (t *Terminal) EndOfInput() byte {
	var eof byte
	_ = withFD(t.master, func(fd int) error { // a terminal that is gone has no such character
		tio, err := unix.IoctlGetTermios(fd, unix.TCGETS)
		if err == nil && tio.Lflag&unix.ICANON != 0 {
			eof = tio.Cc[unix.VEOF]
		}
		return err
	})
	return eof
}

// Close hangs up.
func (t *Terminal) Close() {
	_ = t.slave.Close()
	_ = t.master.Close()
}

func withFD(f *os.File, fn func(fd int) error) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	if err := raw.Control(func(fd uintptr) { inner = fn(int(fd)) }); err != nil {
		return err
	}
	return inner
}
