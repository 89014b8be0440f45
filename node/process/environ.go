package process

import (
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/threshold-access/threshold/node/account"
)

// Limits on what a client may set.
const (
	maxEnv      = 64      // variables
	maxEnvValue = 1 << 10 // bytes
)

// clientVariableRE matches the variables that a client may set: the language, and nothing that a loader,
// shell or interpreter obeys. TERM comes with the terminal.
var clientVariableRE = regexp.MustCompile(`^(LANG|LC_[A-Z]{1,32}|TERM)$`)

// Env is the environment that a client asked for.
type Env map[string]string

// Set adds a variable if clients may set it, and reports whether it did. Values with a slash or a percent
// sign are refused: C libraries have taken such values for file names and formats.
func (e Env) Set(name, value string) bool {
	if !clientVariableRE.MatchString(name) || len(value) > maxEnvValue || len(e) >= maxEnv ||
		strings.ContainsAny(value, "\x00\n\r/%") {
		return false
	}
	e[name] = value
	return true
}

// environ returns a clean environment: it contains nothing of the agent's own. The machine's variables come
// first, the client's replace them, and neither can replace those that identify the account and the session.
func environ(db account.Database, acc account.Account, s Spec) []string {
	vars := db.Environ(acc)
	maps.Copy(vars, s.Env)
	maps.Copy(vars, map[string]string{
		"HOME":              acc.Home,
		"USER":              string(acc.Login),
		"LOGNAME":           string(acc.Login),
		"SHELL":             acc.Shell,
		"MAIL":              "/var/mail/" + string(acc.Login),
		"THRESHOLD_SESSION": s.ID,
		"THRESHOLD_USER":    s.User,
		"THRESHOLD_NODE":    s.Node,
		"THRESHOLD_FROM":    s.ClientAddr,
	})
	host, port := splitAddr(s.ClientAddr)
	localHost, localPort := splitAddr(s.LocalAddr)
	vars["SSH_CLIENT"] = strings.Join([]string{host, port, localPort}, " ")
	vars["SSH_CONNECTION"] = strings.Join([]string{host, port, localHost, localPort}, " ")
	if s.Agent != "" {
		vars["SSH_AUTH_SOCK"] = s.Agent
	}
	if s.Terminal != nil {
		vars["TERM"] = s.Terminal.Term
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
