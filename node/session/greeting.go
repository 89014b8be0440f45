package session

import (
	"os"
	"path/filepath"
	"strings"
	"time"
)

// greeting is what a login shell's terminal shows first, as under sshd: the messages of the day and the last
// login. An account that has a file .hushlogin wants none of it.
func (a Database) greeting(acc Account) []byte {
	if _, err := os.Lstat(filepath.Join(acc.Home, ".hushlogin")); err == nil {
		return nil
	}
	var out strings.Builder
	for _, name := range []string{"run/motd.dynamic", "etc/motd"} {
		text, err := readText(a.path(name))
		if err != nil {
			continue // most machines lack one of them
		}
		out.WriteString(text)
	}
	if at, from, ok := a.LastLogin(acc); ok {
		out.WriteString("Last login: " + at.Format(time.ANSIC))
		if from != "" {
			out.WriteString(" from " + from)
		}
		out.WriteString("\n")
	}
	return []byte(strings.ReplaceAll(out.String(), "\n", "\r\n"))
}
