package session

import (
	"maps"
	"net/netip"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Limits on what a client may set.
const (
	maxEnv      = 64
	maxEnvValue = 1 << 10
)

// clientVariableRE is what a client may set: the language and nothing that a loader, shell or interpreter
// obeys. TERM comes with the terminal.
var clientVariableRE = regexp.MustCompile(`^(LANG|LC_[A-Z]{1,32}|TERM)$`)

// Env is the environment that a client asked for.
type Env map[string]string

// Set takes a variable over, if it is one of the few that clients may set, and reports whether it did. No
// value may have a slash or a percent sign: C libraries have taken those for file names and formats.
func (e Env) Set(name, value string) bool {
	if !clientVariableRE.MatchString(name) || len(value) > maxEnvValue || len(e) >= maxEnv ||
		strings.ContainsAny(value, "\x00\n\r/%") {
		return false
	}
	e[name] = value
	return true
}

// Where sessions look for programs, unless the machine says otherwise.
const (
	rootPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	userPath = "/usr/local/bin:/usr/bin:/bin:/usr/games"
)

// environ makes a clean environment: nothing of the node's own gets into a session. What the machine sets for
// everyone comes first, what the client asked for wins over it, and what says who this is cannot be set by
// either.
func (a Database) environ(acc Account, s Spec) []string {
	vars := map[string]string{"PATH": userPath}
	if acc.UID == 0 {
		vars["PATH"] = rootPath
	}
	for _, name := range []string{"etc/default/locale", "etc/environment"} {
		text, _ := readText(a.path(name)) // without the file, the machine sets nothing
		parseEnvironment(text, vars)
	}
	maps.Copy(vars, s.Env)
	maps.Copy(vars, map[string]string{
		"HOME": acc.Home, "USER": string(acc.Login), "LOGNAME": string(acc.Login), "SHELL": acc.Shell, "MAIL": "/var/mail/" + string(acc.Login),
		"THRESHOLD_SESSION": s.ID, "THRESHOLD_USER": s.User, "THRESHOLD_NODE": s.Node, "THRESHOLD_FROM": s.ClientAddr,
	})
	host, port := splitAddr(s.ClientAddr)
	ownHost, ownPort := splitAddr(s.LocalAddr)
	vars["SSH_CLIENT"] = strings.Join([]string{host, port, ownPort}, " ")
	vars["SSH_CONNECTION"] = strings.Join([]string{host, port, ownHost, ownPort}, " ")
	if s.Agent != "" {
		vars["SSH_AUTH_SOCK"] = s.Agent
	}
	if s.Terminal != nil {
		vars["TERM"] = s.Terminal.Term
	}
	out := make([]string, 0, len(vars))
	for _, k := range slices.Sorted(maps.Keys(vars)) {
		out = append(out, k+"="+vars[k])
	}
	return out
}

// splitAddr parts an address from its port, in sshd's words where there is none.
func splitAddr(addr string) (host, port string) {
	a, err := netip.ParseAddrPort(addr)
	if err != nil {
		return "UNKNOWN", "65535"
	}
	return a.Addr().Unmap().String(), strconv.Itoa(int(a.Port()))
}

var (
	variableRE = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,127}$`)
	// reservedVariableRE is what the machine's files do not set: what a loader obeys, and what sessions and
	// their terminals are known by.
	reservedVariableRE = regexp.MustCompile(`^(LD_|SSH_|THRESHOLD_|TERM$)`)
)

// parseEnvironment adds the variables of a file that is read by pam_env(8) too: lines of NAME=value, of which
// all from a # on is a comment.
func parseEnvironment(text string, vars map[string]string) {
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		name, value, ok := strings.Cut(strings.TrimPrefix(strings.TrimSpace(line), "export "), "=")
		if ok && variableRE.MatchString(name) && !reservedVariableRE.MatchString(name) &&
			!strings.ContainsRune(value, 0) {
			vars[name] = unquote(value)
		}
	}
}

// unquote takes a quotation mark from the beginning of a value, and then one from its end: any mark, as
// pam_env does.
func unquote(value string) string {
	const marks = `"'`
	if value == "" || !strings.Contains(marks, value[:1]) {
		return value
	}
	value = value[1:]
	if n := len(value); n > 0 && strings.Contains(marks, value[n-1:]) {
		value = value[:n-1]
	}
	return value
}

// argv0 is how a shell is told that it is a login shell.
func argv0(shell string, login bool) string {
	name := filepath.Base(shell)
	if login {
		return "-" + name
	}
	return name
}
