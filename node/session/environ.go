package session

import (
	"path/filepath"
	"regexp"
	"strings"
)

// Limits on what a client may set.
const (
	maxEnv      = 64
	maxEnvValue = 1 << 10
)

// envRE is what a client may set: the language and nothing that a loader, shell or interpreter obeys. TERM comes with the terminal.
var envRE = regexp.MustCompile(`^(LANG|LC_[A-Z]{1,32}|TERM)$`)

// Env is the environment that a client asked for.
type Env map[string]string

// Set takes a variable over, if it is one of the few that clients may set, and reports whether it did. No value may have a slash or a
// percent sign: C libraries have taken those for file names and formats.
func (e Env) Set(name, value string) bool {
	if !envRE.MatchString(name) || len(value) > maxEnvValue || len(e) >= maxEnv || strings.ContainsAny(value, "\x00\n\r/%") {
		return false
	}
	e[name] = value
	return true
}

// Where sessions look for programs.
const (
	rootPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	userPath = "/usr/local/bin:/usr/bin:/bin"
)

// environ makes a clean environment: nothing of the node's own gets into a session.
func (s Spec) environ(acc Account) []string {
	path := userPath
	if acc.UID == 0 {
		path = rootPath
	}
	vars := Env{}
	for k, v := range s.Env {
		vars[k] = v
	}
	if s.Terminal != nil {
		vars["TERM"] = s.Terminal.Term
	}
	out := []string{"PATH=" + path, "HOME=" + acc.Home, "USER=" + string(acc.Login), "LOGNAME=" + string(acc.Login), "SHELL=" + acc.Shell,
		"THRESHOLD_SESSION=" + s.ID, "THRESHOLD_USER=" + s.User, "THRESHOLD_NODE=" + s.Node, "THRESHOLD_FROM=" + s.From}
	for k, v := range vars {
		out = append(out, k+"="+v)
	}
	return out
}

// argv0 is how a shell is told that it is a login shell.
func argv0(shell string, login bool) string {
	name := filepath.Base(shell)
	if login {
		return "-" + name
	}
	return name
}
