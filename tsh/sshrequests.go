package tsh

import (
	"os"
	"strings"

	"github.com/threshold-access/threshold/internal/dial"
	"github.com/threshold-access/threshold/tsh/sshclient"
	"github.com/threshold-access/threshold/tsh/terminal"
)

// localeNames are the variables that are sent so that the remote program uses the user's language.
var localeNames = []string{
	"LANG", "LC_ALL", "LC_ADDRESS", "LC_COLLATE", "LC_CTYPE", "LC_IDENTIFICATION", "LC_MEASUREMENT",
	"LC_MESSAGES", "LC_MONETARY", "LC_NAME", "LC_NUMERIC", "LC_PAPER", "LC_TELEPHONE", "LC_TIME",
}

// envRequests sends the user's locale and the variables in more, as NAME=VALUE.
func (a *app) envRequests(more []string) []dial.ChannelRequest {
	var list []dial.ChannelRequest
	for _, name := range localeNames {
		if v := a.Getenv(name); v != "" {
			list = append(list, sshclient.EnvRequest(name, v))
		}
	}
	for _, pair := range more {
		if name, value, ok := strings.Cut(pair, "="); ok {
			list = append(list, sshclient.EnvRequest(name, value))
		}
	}
	return list
}

// ptyRequest asks for a terminal of the type and size of the local one. Without a local terminal, tty is nil
// and the size is 80x24.
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
	return sshclient.PTYRequest(kind, width, height)
}
