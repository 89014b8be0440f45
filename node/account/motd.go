package account

import (
	"os"
	"path/filepath"
	"strings"
)

// WantsGreeting reports whether a login shell of the account is greeted with the messages of the day and the
// last login. A file .hushlogin in the home directory turns the greeting off, as for sshd and login(1).
func (acc Account) WantsGreeting() bool {
	_, err := os.Lstat(filepath.Join(acc.Home, ".hushlogin"))
	return err != nil
}

// MessagesOfTheDay returns the text of motd(5), the generated part first. It is empty on a machine that has
// neither file.
func (d Database) MessagesOfTheDay() string {
	var out strings.Builder
	for _, name := range []string{"run/motd.dynamic", "etc/motd"} {
		text, err := readText(d.path(name))
		if err != nil {
			continue // most machines lack one of them
		}
		out.WriteString(text)
	}
	return out.String()
}
