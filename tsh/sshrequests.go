package tsh

import (
	"os"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/dial"
	"github.com/threshold-access/threshold/tsh/terminal"
)

// The requests for a program (RFC 4254 section 6.5).

func shellRequest() dial.ChannelRequest { return dial.ChannelRequest{Type: "shell"} }

func execRequest(command string) dial.ChannelRequest {
	return dial.ChannelRequest{Type: "exec", Payload: ssh.Marshal(struct{ Command string }{command})}
}

func subsystemRequest(name string) dial.ChannelRequest {
	return dial.ChannelRequest{Type: "subsystem", Payload: ssh.Marshal(struct{ Name string }{name})}
}

// localeNames are the variables that are sent so that the remote program uses the user's language.
var localeNames = []string{
	"LANG", "LC_ALL", "LC_ADDRESS", "LC_COLLATE", "LC_CTYPE", "LC_IDENTIFICATION", "LC_MEASUREMENT",
	"LC_MESSAGES", "LC_MONETARY", "LC_NAME", "LC_NUMERIC", "LC_PAPER", "LC_TELEPHONE", "LC_TIME",
}

// envRequests sends the user's locale and the variables in more, as NAME=VALUE (RFC 4254 section 6.4). A node
// accepts or ignores each; tsh does not learn which.
func (a *app) envRequests(more []string) []dial.ChannelRequest {
	var list []dial.ChannelRequest
	add := func(name, value string) {
		payload := ssh.Marshal(struct{ Name, Value string }{name, value})
		list = append(list, dial.ChannelRequest{Type: "env", Payload: payload})
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

// ptyRequest asks for a terminal of the type and size of the local one (RFC 4254 section 6.2). Without a
// local terminal, tty is nil and the size is 80x24.
func (a *app) ptyRequest(tty *os.File) dial.ChannelRequest {
	kind := a.Getenv("TERM")
	if kind == "" {
		kind = "dumb"
	}
	width, height := 80, 24
	if tty != nil {
		if columns, rows, ok := terminal.Size(tty); ok {
			width, height = columns, rows
		}
	}
	return dial.ChannelRequest{Type: "pty-req", Payload: ssh.Marshal(struct {
		Term                         string
		Columns, Rows, Width, Height uint32
		Modes                        string // only TTY_OP_END: the node's defaults
	}{kind, uint32(width), uint32(height), 0, 0, "\x00"})}
}
