// Package terminal answers: how is the user's terminal driven, and what may be printed on it?
//
// It reports whether a stream is a terminal, switches one to raw mode, reads its size and follows changes of
// it, and recognises the escape sequences of tsh ssh (~.). Clean removes from the text of servers whatever a
// terminal would obey. tsh and the packages under it call this package.
package terminal

import (
	"os"

	"golang.org/x/term"
)

// File returns the file behind stream, and whether it is a terminal.
func File(stream any) (*os.File, bool) {
	f, ok := stream.(*os.File)
	return f, ok && term.IsTerminal(int(f.Fd()))
}

// Size returns the size of the terminal. ok is false if the terminal does not report one.
func Size(f *os.File) (columns, rows int, ok bool) {
	columns, rows, err := term.GetSize(int(f.Fd()))
	return columns, rows, err == nil
}

// MakeRaw switches the terminal to raw mode: every key arrives as a byte, Ctrl-C included, and nothing is
// echoed. restore switches it back to the mode it had. Call it before the process ends.
func MakeRaw(f *os.File) (restore func(), err error) {
	old, err := term.MakeRaw(int(f.Fd()))
	if err != nil {
		return nil, err
	}
	return func() { _ = term.Restore(int(f.Fd()), old) }, nil
}
