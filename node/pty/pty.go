// Package pty answers: which terminal does a program get?
//
// It opens pseudo-terminals (pty(7)) with the size and modes that an SSH client asks for (RFC 4254 section
// 6.2), and makes them belong to an account. Whether the client may have a terminal was decided before.
package pty

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"github.com/creack/pty"
	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"github.com/threshold-access/threshold/internal/ascii"
)

// Size is the size of a window, in characters (Cols, Rows) and in pixels (Width, Height, which may be 0). The
// order of the fields is that of the wire.
type Size struct {
	Cols, Rows, Width, Height uint32
}

// maxSide bounds each side of a window: the kernel keeps 16 bits.
const maxSide = 0xffff

func (s Size) winsize() *unix.Winsize {
	side := func(n uint32) uint16 { return uint16(min(n, maxSide)) }
	return &unix.Winsize{Row: side(s.Rows), Col: side(s.Cols), Xpixel: side(s.Width), Ypixel: side(s.Height)}
}

// Request is the terminal that a client asks for.
type Request struct {
	Term  string // the terminal's type, for $TERM; "dumb" if the client named no valid type
	Size  Size
	modes []mode
}

// termForm is the form of terminal types that no program takes for a path or an option.
var termForm = ascii.Form{First: ascii.Of("A-Za-z0-9"), Inner: ascii.Of("A-Za-z0-9._+-"), Max: 64}

// ParseRequest reads the payload of a pty-req (RFC 4254 section 6.2). A terminal type that is not valid is
// replaced by "dumb", and modes that Linux does not have are skipped later. The error says that the payload
// is malformed.
func ParseRequest(payload []byte) (Request, error) {
	var wire struct {
		Term                      string
		Cols, Rows, Width, Height uint32
		Modes                     []byte
	}
	if err := ssh.Unmarshal(payload, &wire); err != nil {
		return Request{}, fmt.Errorf("pty-req: %w", err)
	}
	req := Request{
		Term:  wire.Term,
		Size:  Size{Cols: wire.Cols, Rows: wire.Rows, Width: wire.Width, Height: wire.Height},
		modes: parseModes(wire.Modes),
	}
	if !termForm.Matches(req.Term) {
		req.Term = "dumb"
	}
	return req, nil
}

// ParseSize reads the payload of a window-change (RFC 4254 section 6.7).
func ParseSize(payload []byte) (s Size, err error) {
	if err := ssh.Unmarshal(payload, &s); err != nil {
		return Size{}, fmt.Errorf("window-change: %w", err)
	}
	return s, nil
}

// Terminal is an open pseudo-terminal. Master and slave are its two sides, in the words of pty(7): the
// program has the slave.
type Terminal struct {
	master *os.File
	slave  *os.File // closed by CloseSlave
}

// Open opens a terminal with the size and modes of the request. Its slave belongs to the user uid and the
// group gid and has the mode; if this process is not root, it belongs to the process's own account with the
// mode that the system gives it. The caller closes the terminal.
func Open(req Request, uid, gid int, mode os.FileMode) (*Terminal, error) {
	master, slave, err := pty.Open()
	if err != nil {
		return nil, fmt.Errorf("open terminal: %w", err)
	}
	if master, err = pollable(master); err != nil {
		slave.Close()
		return nil, fmt.Errorf("open terminal: %w", err)
	}
	t := &Terminal{master, slave}
	if err := t.prepare(req, uid, gid, mode); err != nil {
		t.Close()
		return nil, fmt.Errorf("prepare terminal: %w", err)
	}
	return t, nil
}

// pollable returns a copy of the file in non-blocking mode, and closes the original. Go waits for such a file
// in its poller: reads and writes occupy no thread and may have a deadline.
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

// prepare sets the size, modes and owner of a terminal that was just opened.
func (t *Terminal) prepare(req Request, uid, gid int, mode os.FileMode) error {
	if err := t.Resize(req.Size); err != nil {
		return err
	}
	if err := applyModes(t.slave, req.modes); err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return nil // devpts has made this account the owner
	}
	return errors.Join(t.slave.Chown(uid, gid), t.slave.Chmod(mode))
}

// Attach makes the terminal the command's standard streams and controlling terminal, in a new session
// (setsid(2)).
func (t *Terminal) Attach(cmd *exec.Cmd) {
	cmd.Stdin, cmd.Stdout, cmd.Stderr = t.slave, t.slave, t.slave
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	const stdin = 0 // the child's descriptor that becomes the controlling terminal
	cmd.SysProcAttr.Setsid, cmd.SysProcAttr.Setctty, cmd.SysProcAttr.Ctty = true, true, stdin
}

// CloseSlave closes this process's copy of the slave, once the program has started. Reads from the master
// then end when the last program closes the terminal.
func (t *Terminal) CloseSlave() { _ = t.slave.Close() }

// Name returns the path of the slave, as "/dev/pts/3".
func (t *Terminal) Name() string { return t.slave.Name() }

// Break sends a break (RFC 4335), as tcsendbreak(3) does. The kernel decides whether programs notice.
func (t *Terminal) Break() error {
	return withFD(t.master, func(fd int) error { return unix.IoctlSetInt(fd, unix.TCSBRK, 0) })
}

// Master returns the side that the client reads and writes. Reading it fails with EIO once no program has the
// terminal open.
func (t *Terminal) Master() *os.File { return t.master }

// Resize sets the size of the window. The kernel tells the programs of it by SIGWINCH.
func (t *Terminal) Resize(s Size) error {
	return withFD(t.master, func(fd int) error {
		return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, s.winsize())
	})
}

// EndOfInput returns the character that ends the input of a program that reads lines (usually ^D), or 0 if
// the terminal is not in line mode (ICANON) or is closed.
func (t *Terminal) EndOfInput() byte {
	var eof byte
	_ = withFD(t.master, func(fd int) error { // fails for a closed terminal, which has no such character
		tio, err := unix.IoctlGetTermios(fd, unix.TCGETS)
		if err == nil && tio.Lflag&unix.ICANON != 0 {
			eof = tio.Cc[unix.VEOF]
		}
		return err
	})
	return eof
}

// Close closes both sides. Programs that still have the terminal open get SIGHUP.
func (t *Terminal) Close() {
	_ = t.slave.Close()
	_ = t.master.Close()
}

// withFD calls fn with the file's descriptor, and returns the error of fn. The file cannot be closed during
// the call. Unlike File.Fd, it leaves the file in non-blocking mode.
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
