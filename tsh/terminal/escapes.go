package terminal

import (
	"fmt"
	"io"
)

// Escapes is an io.Reader that returns what is typed at a terminal, without the escape sequences at the start
// of a line. It carries out the sequences, as OpenSSH's client does (ssh(1), "ESCAPE CHARACTERS"). It is not
// safe for concurrent use.
type Escapes struct {
	in         io.Reader
	out        io.Writer // receives the help text
	char       byte      // the escape character, usually ~
	disconnect func()
	state      escapeState
	ended      bool   // the user typed "~.": there is no more input
	ready      []byte // read and examined, not yet returned
}

// escapeState says how much of an escape sequence has been read.
//
//	lineStart  --char--> afterChar
//	afterChar  --"."-->  the input ends
//	afterChar  --"?"-->  lineStart, after the help text
//	any        --CR, LF--> lineStart
//	any        --other--> midLine
type escapeState int

const (
	lineStart escapeState = iota
	afterChar
	midLine
)

const escapeHelp = "\r\nSupported escape sequences:\r\n" +
	" %[1]c.   end the connection\r\n" +
	" %[1]c?   show this message\r\n" +
	" %[1]c%[1]c   send the character %[1]c\r\n" +
	"(only at the start of a line)\r\n"

// NewEscapes returns an Escapes that reads from in, where char begins an escape sequence. For char and "?" it
// writes the help text to out. For char and "." it calls disconnect, within Read, and returns io.EOF from
// then on, after the input before it.
func NewEscapes(in io.Reader, out io.Writer, char byte, disconnect func()) *Escapes {
	return &Escapes{in: in, out: out, char: char, disconnect: disconnect}
}

// Read implements io.Reader. It reads from in until at least one byte can be returned, because all bytes of a
// read may belong to an escape sequence.
func (e *Escapes) Read(b []byte) (int, error) {
	for {
		if n := copy(b, e.ready); n > 0 {
			e.ready = e.ready[n:]
			return n, nil
		}
		if e.ended {
			return 0, io.EOF
		}
		buf := make([]byte, len(b))
		n, err := e.in.Read(buf)
		for _, c := range buf[:n] {
			e.add(c)
			if e.ended { // what was typed after it is dropped
				break
			}
		}
		if n == 0 && err != nil {
			return 0, err
		}
	}
}

// add examines one typed byte. It appends it to e.ready, or keeps it back in e.state as the possible start of
// an escape sequence, or carries out the sequence that it completes.
func (e *Escapes) add(c byte) {
	switch {
	case e.state == lineStart && c == e.char:
		e.state = afterChar
		return
	case e.state == afterChar && c == '.':
		e.ended = true
		e.disconnect()
		return
	case e.state == afterChar && c == '?':
		fmt.Fprintf(e.out, escapeHelp, e.char)
		e.state = lineStart
		return
	case e.state == afterChar && c != e.char: // not an escape sequence: both characters are input
		e.ready = append(e.ready, e.char)
	}
	e.ready = append(e.ready, c)
	e.state = midLine
	if c == '\r' || c == '\n' {
		e.state = lineStart
	}
}
