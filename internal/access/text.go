package access

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/threshold-access/threshold/internal/config"
	"github.com/threshold-access/threshold/internal/identity"
)

// Strings is a list of texts; a document may write a single text instead.
type Strings = config.Strings

// Duration is a time.Duration that is encoded as text: "8h".
type Duration time.Duration

// MarshalText writes "8h" rather than "8h0m0s".
func (d Duration) MarshalText() ([]byte, error) {
	s := time.Duration(d).String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return []byte(s), nil
}

// UnmarshalText accepts what time.ParseDuration does.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	if err != nil {
		return fmt.Errorf("%q is not a duration: write 8h or 30m", b)
	}
	*d = Duration(v)
	return nil
}

// template is a text with at most one {{traits.x}} in it: before, the trait x, and after. Without a trait it
// is literal.
type template struct{ before, trait, after string }

func (t template) literal() bool { return t.trait == "" }

const templateOpen, templateClose = "{{", "}}"

// parseTemplate parses a literal, or a text with one template.
func parseTemplate(s string) (template, error) {
	before, rest, found := strings.Cut(s, templateOpen)
	if !found {
		if strings.Contains(s, templateClose) {
			return template{}, fmt.Errorf("%q has }} without {{", s)
		}
		return template{before: s}, nil
	}
	name, after, closed := strings.Cut(rest, templateClose)
	trait, ok := strings.CutPrefix(strings.TrimSpace(name), "traits.")
	if !closed || !ok || strings.Contains(after, templateOpen) || strings.Contains(after, templateClose) ||
		identity.CheckWord("trait", trait) != nil {
		return template{}, fmt.Errorf("%q: a template is one {{traits.NAME}}", s)
	}
	return template{before, trait, after}, nil
}

// expand returns the template's values for the traits. A literal has one: itself.
func (t template) expand(traits identity.Traits) []string {
	if t.literal() {
		return []string{t.before}
	}
	var out []string
	for _, v := range traits[t.trait] {
		out = append(out, t.before+v+t.after)
	}
	return out
}

// matches reports whether the pattern matches value for a user with the traits. Wildcards work in the
// pattern's own text only. A trait's value is compared as it is, so that no claim of a provider can widen a
// grant.
func matches(pattern, value string, traits identity.Traits) bool {
	t, err := parseTemplate(pattern)
	if err != nil {
		return false
	}
	if t.literal() {
		return glob(pattern, value)
	}
	for _, v := range traits[t.trait] {
		if t.matchesAround(value, v) {
			return true
		}
	}
	return false
}

// matchesAround reports whether value is before + v + after, for some position of v. An empty v, as from an
// empty claim, matches nothing.
func (t template) matchesAround(value, v string) bool {
	for i := 0; v != "" && i+len(v) <= len(value); i++ {
		if value[i:i+len(v)] == v && glob(t.before, value[:i]) && glob(t.after, value[i+len(v):]) {
			return true
		}
	}
	return false
}

// glob matches "*" (any run of bytes) and "?" (any one byte); everything else is literal. It takes time
// proportional to the product of the lengths.
func glob(pattern, s string) bool {
	p, i, star, mark := 0, 0, -1, 0
	for i < len(s) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, mark = p, i
			p++
		case p < len(pattern) && (pattern[p] == '?' || pattern[p] == s[i]):
			p++
			i++
		case star >= 0:
			mark++
			p, i = star+1, mark
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}

// systemAccounts are accounts of Debian and Red Hat systems that no template may yield. A role must write
// root out.
var systemAccounts = []string{
	"root", "toor", "daemon", "bin", "sys", "sync", "games", "man", "lp", "mail", "news", "uucp", "proxy",
	"www-data", "backup", "list", "irc", "gnats", "nobody", "adm", "shutdown", "halt", "operator", "ftp",
	"sshd", "messagebus", "polkitd", "dbus", "rpc", "tss", "ntp", "chrony", "postgres", "mysql", "redis",
	"docker", "wheel", "sudo", "admin", "threshold", "syslog", "uuidd", "tcpdump", "avahi", "nginx",
	"apache", "named", "statd", "rpcuser", "nfsnobody", "pollinate", "landscape", "debian-exim",
}

// isSystemAccount also reports true for a name of digits alone: some programs read it as a user id, and 0 is
// root's.
func isSystemAccount(l string) bool {
	return slices.Contains(systemAccounts, strings.ToLower(l)) || strings.HasPrefix(l, "_") ||
		strings.HasPrefix(l, "systemd-") ||
		strings.Trim(l, "0123456789") == ""
}
