package tsh

import (
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/crypto/ssh"
	"golang.org/x/term"

	"github.com/threshold-access/threshold/internal/dial"
)

// localeNames are what goes along so that the remote program speaks the person's language. A node accepts
// them or does not.
var localeNames = []string{
	"LANG",
	"LC_ALL",
	"LC_ADDRESS",
	"LC_COLLATE",
	"LC_CTYPE",
	"LC_IDENTIFICATION",
	"LC_MEASUREMENT",
	"LC_MESSAGES",
	"LC_MONETARY",
	"LC_NAME",
	"LC_NUMERIC",
	"LC_PAPER",
	"LC_TELEPHONE",
	"LC_TIME",
}

// environment is the person's language, and variables that were asked for. A node takes them or does not:
// nobody waits to hear.
func (a *app) environment(more []string) []dial.ChannelRequest {
	var list []dial.ChannelRequest
	add := func(name, value string) {
		list = append(
			list,
			dial.ChannelRequest{Type: "env", Payload: ssh.Marshal(struct{ Name, Value string }{name, value})},
		)
	}
	for _, name := range localeNames {
		if v := a.Getenv(name); v != "" {
			add(name, v)
		}
	}
	for _, pair := range more {
		if name, value, ok := strings.Cut(pair, "="); ok {
			add(name, value)
		}
	}
	return list
}

// askPTY asks for a terminal of the local one's kind and size.
func (a *app) askPTY(in *os.File) dial.ChannelRequest {
	kind := a.Getenv("TERM")
	if kind == "" {
		kind = "dumb"
	}
	width, height := 80, 24
	if in != nil {
		if w, h, err := term.GetSize(int(in.Fd())); err == nil {
			width, height = w, h
		}
	}
	return dial.ChannelRequest{Type: "pty-req", Payload: ssh.Marshal(struct {
		Term                         string
		Columns, Rows, Width, Height uint32
		Modes                        string // none: the node's own
	}{kind, uint32(width), uint32(height), 0, 0, "\x00"})}
}

// escapes watches what is typed in a terminal for ~ at the start of a line, as OpenSSH's client does.
type escapes struct {
	in         io.Reader
	out        io.Writer
	char       byte // ~, or what -e says
	disconnect func()
	state      int
	ended      bool
	ready      []byte
}

// States of escapes.
const (
	lineStart = iota
	afterTilde
	midLine
)

const escapeHelp = "\r\nSupported escape sequences:\r\n %[1]c.   end the connection\r\n %[1]c?   this message\r\n %[1]c%[1]c   send the character %[1]c\r\n(only at the start of a line)\r\n"

func newEscapes(in io.Reader, tell io.Writer, char byte, leave func()) *escapes {
	return &escapes{in: in, out: tell, char: char, disconnect: leave}
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
	case e.state == lineStart && c == e.char:
		e.state = afterTilde
		return
	case e.state == afterTilde && c == '.':
		e.ended = true
		e.disconnect()
		return
	case e.state == afterTilde && c == '?':
		fmt.Fprintf(e.out, escapeHelp, e.char)
		e.state = lineStart
		return
	case e.state == afterTilde && c != e.char:
		e.ready = append(e.ready, e.char)
	}
	e.ready = append(e.ready, c)
	e.state = midLine
	if c == '\r' || c == '\n' {
		e.state = lineStart
	}
}
