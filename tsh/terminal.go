package tsh

import (
	"fmt"
	"io"

	"golang.org/x/crypto/ssh"
	"golang.org/x/term"

	"github.com/threshold-access/threshold/internal/fault"
)

// localeNames are what goes along so that the remote program speaks the person's language. A node accepts them or does not.
var localeNames = []string{"LANG", "LC_ALL", "LC_ADDRESS", "LC_COLLATE", "LC_CTYPE", "LC_IDENTIFICATION", "LC_MEASUREMENT", "LC_MESSAGES",
	"LC_MONETARY", "LC_NAME", "LC_NUMERIC", "LC_PAPER", "LC_TELEPHONE", "LC_TIME"}

// sendEnv does not wait for answers: that would cost a round trip each, and a refusal changes nothing.
func (a *app) sendEnv(s *ssh.Session) {
	for _, name := range localeNames {
		if v := a.Getenv(name); v != "" {
			_, _ = s.SendRequest("env", false, ssh.Marshal(struct{ Name, Value string }{name, v}))
		}
	}
}

// requestPTY asks for a terminal of the local one's kind and size.
func (a *app) requestPTY(s *session) error {
	kind := a.Getenv("TERM")
	if kind == "" {
		kind = "dumb"
	}
	width, height := 80, 24
	if s.in != nil {
		if w, h, err := term.GetSize(int(s.in.Fd())); err == nil {
			width, height = w, h
		}
	}
	err := s.RequestPty(kind, height, width, ssh.TerminalModes{})
	return fault.Wrap(err, fault.Denied, "", "the node gives no terminal", "try without one: tsh ssh -T")
}

// escapes watches what is typed in a terminal for ~ at the start of a line, as OpenSSH's client does.
type escapes struct {
	in    io.Reader
	tell  io.Writer
	leave func()
	state int
	ended bool
	ready []byte
}

// States of escapes.
const (
	lineStart = iota
	afterTilde
	midLine
)

const escapeHelp = "\r\nSupported escape sequences:\r\n ~.   end the connection\r\n ~?   this message\r\n ~~   send the character ~\r\n(only at the start of a line)\r\n"

func newEscapes(in io.Reader, tell io.Writer, leave func()) *escapes {
	return &escapes{in: in, tell: tell, leave: leave}
}

func (e *escapes) Read(b []byte) (int, error) {
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
			if e.feed(c); e.ended {
				break
			}
		}
		if n == 0 && err != nil {
			return 0, err
		}
	}
}

func (e *escapes) feed(c byte) {
	switch {
	case e.state == lineStart && c == '~':
		e.state = afterTilde
		return
	case e.state == afterTilde && c == '.':
		e.ended = true
		e.leave()
		return
	case e.state == afterTilde && c == '?':
		fmt.Fprint(e.tell, escapeHelp)
		e.state = lineStart
		return
	case e.state == afterTilde && c != '~':
		e.ready = append(e.ready, '~')
	}
	e.ready = append(e.ready, c)
	e.state = midLine
	if c == '\r' || c == '\n' {
		e.state = lineStart
	}
}
