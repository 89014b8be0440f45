package process

import (
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/threshold-access/threshold/internal/ascii"
	"github.com/threshold-access/threshold/node/account"
)

// Limits on what a client may set.
const (
	maxEnv      = 64      // variables
	maxEnvValue = 1 << 10 // bytes
)

// localeForm is the form of what follows LC_ in the name of a variable.
var localeForm = ascii.Form{First: ascii.Of("A-Z"), Inner: ascii.Of("A-Z"), Max: 32}

// isClientVariable reports whether a client may set a variable: the language, and nothing that a loader,
// shell or interpreter obeys. TERM comes with the terminal.
func isClientVariable(name string) bool {
	category, isLocale := strings.CutPrefix(name, "LC_")
	return name == "LANG" || name == "TERM" || isLocale && localeForm.Matches(category)
}

// Env is the environment that a client asked for.
type Env map[string]string

// Set adds a variable if clients may set it, and reports whether it did. Values with a slash or a percent
// sign are refused: C libraries have taken such values for file names and formats.
func (e Env) Set(name, value string) bool {
	if !isClientVariable(name) || len(value) > maxEnvValue || len(e) >= maxEnv ||
		strings.ContainsAny(value, "\x00\n\r/%") {
		return false
	}
	e[name] = value
	return true
}

// environ returns the environment of a program as sorted NAME=value strings. It contains nothing of the
// agent's own environment. The machine's variables come first, then the client's, then those that identify
// the account and the session; of variables with the same name the later replaces the earlier, so a client
// cannot change what identifies it.
func environ(db account.Database, acc account.Account, spec Spec) []string {
	vars := db.Environ(acc)
	maps.Copy(vars, spec.Env)
	maps.Copy(vars, map[string]string{
		"HOME":              acc.Home,
		"USER":              string(acc.Login),
		"LOGNAME":           string(acc.Login),
		"SHELL":             acc.Shell,
		"MAIL":              "/var/mail/" + string(acc.Login),
		"THRESHOLD_SESSION": spec.ID,
		"THRESHOLD_USER":    spec.User,
		"THRESHOLD_NODE":    spec.Node,
		"THRESHOLD_FROM":    spec.ClientAddr,
	})
	// SSH_CLIENT and SSH_CONNECTION are as in sshd(8).
	host, port := splitAddr(spec.ClientAddr)
	localHost, localPort := splitAddr(spec.LocalAddr)
	vars["SSH_CLIENT"] = strings.Join([]string{host, port, localPort}, " ")
	vars["SSH_CONNECTION"] = strings.Join([]string{host, port, localHost, localPort}, " ")
	if spec.Agent != "" {
		vars["SSH_AUTH_SOCK"] = spec.Agent
	}
	if spec.Terminal != nil {
		vars["TERM"] = spec.Terminal.Term
	}
	env := make([]string, 0, len(vars))
	for _, k := range slices.Sorted(maps.Keys(vars)) {
		env = append(env, k+"="+vars[k])
	}
	return env
}

// splitAddr splits an address and port. For anything else it returns what sshd writes when it does not know
// the address.
func splitAddr(addr string) (host, port string) {
	a, err := netip.ParseAddrPort(addr)
	if err != nil {
		return "UNKNOWN", "65535"
	}
	return a.Addr().Unmap().String(), strconv.Itoa(int(a.Port()))
}
