package account

import (
	"slices"
	"strings"

	"github.com/threshold-access/threshold/internal/ascii"
)

// Where sessions look for programs, unless the machine's files say otherwise.
const (
	rootPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	// UserPath is the PATH of every account but root.
	UserPath = "/usr/local/bin:/usr/bin:/bin:/usr/games"
)

var variableForm = ascii.Form{First: ascii.Of("A-Za-z_"), Inner: ascii.Of("A-Za-z0-9_"), Max: 128}

// isReservedVariable reports whether the machine's files may not set a variable, because the dynamic loader
// obeys it, or because it describes a session and its terminal.
func isReservedVariable(name string) bool {
	hasPrefix := func(prefix string) bool { return strings.HasPrefix(name, prefix) }
	return name == "TERM" || slices.ContainsFunc([]string{"LD_", "SSH_", "THRESHOLD_"}, hasPrefix)
}

// Environ returns the variables that the machine sets for sessions of the account: PATH, then
// /etc/default/locale, then /etc/environment, of which the later wins. Missing files set nothing.
func (d Database) Environ(acc Account) map[string]string {
	vars := map[string]string{"PATH": UserPath}
	if acc.UID == 0 {
		vars["PATH"] = rootPath
	}
	for _, name := range []string{"etc/default/locale", "etc/environment"} {
		text, _ := readText(d.path(name)) // without the file, the machine sets nothing
		parseEnvironment(text, vars)
	}
	return vars
}

// parseEnvironment adds to vars the variables of a file in the format of pam_env(8): lines of NAME=value, in
// which everything from a # on is a comment. It skips malformed lines and reserved variables.
func parseEnvironment(text string, vars map[string]string) {
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		name, value, ok := strings.Cut(strings.TrimPrefix(strings.TrimSpace(line), "export "), "=")
		if ok && variableForm.Matches(name) && !isReservedVariable(name) &&
			!strings.ContainsRune(value, 0) {
			vars[name] = unquote(value)
		}
	}
}

// unquote removes a quotation mark from the beginning of a value, and only then one from its end. The two
// need not be the same: pam_env does not compare them either.
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
