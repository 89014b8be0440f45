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

// envRequests returns the requests that set environment variables of the remote program: the user's locale
// and then the variables in more, each as NAME=VALUE. It leaves out text without "=".
func (a *app) envRequests(more []string) []dial.ChannelRequest {
	var list []dial.ChannelRequest
	for _, name := range localeNames {
		if value := a.Getenv(name); value != "" {
			list = append(list, sshclient.EnvRequest(name, value))
		}
	}
	for _, pair := range more {
		if name, value, ok := strings.Cut(pair, "="); ok {
			list = append(list, sshclient.EnvRequest(name, value))
		}
	}
	return list
}

// ptyRequest returns the request for a terminal of the remote program, of the type in TERM and the size of
// the local terminal tty. If tty is nil, which means that there is none, the size is 80x24.
func (a *app) ptyRequest(tty *os.File) dial.ChannelRequest {
	terminalType := a.Getenv("TERM")
	if terminalType == "" {
		terminalType = "dumb"
	}
	width, height := 80, 24
	if tty != nil {
		if columns, rows, ok := terminal.Size(tty); ok {
			width, height = columns, rows
		}
	}
	return sshclient.PTYRequest(terminalType, width, height)
}
