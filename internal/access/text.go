package access

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/threshold-access/threshold/internal/config"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

// Strings is a list of texts; a document may write a single text instead.
type Strings = config.Strings

// Duration is a time.Duration that is encoded as text: "8h".
type Duration time.Duration

// MarshalText writes "8h" rather than "8h0m0s".
func (d Duration) MarshalText() ([]byte, error) {
	return []byte(fault.FormatDuration(time.Duration(d))), nil
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

// parseTemplate parses a text of a role: a literal, or a text with one {{traits.NAME}} in it. Anything else
// with {{ or }} is an error.
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

// expand returns the texts that the template stands for: one for each value of the trait in traits, none if
// the user lacks the trait. A literal stands for itself.
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

// matches reports whether the pattern, with which a role describes a label, matches the label's value for a
// user with these traits. Wildcards work in the pattern's own text only. In the value of a trait they have no
// meaning, so that a provider cannot widen a grant by a claim such as "*".
func matches(pattern, value string, traits identity.Traits) bool {
	tmpl, err := parseTemplate(pattern)
	if err != nil {
		return false
	}
	if tmpl.literal() {
		return glob(pattern, value)
	}
	for _, traitValue := range traits[tmpl.trait] {
		if tmpl.matchesAround(value, traitValue) {
			return true
		}
	}
	return false
}

// matchesAround reports whether value contains traitValue, with a text in front that before matches and a
// text behind it that after matches. An empty traitValue, as from an empty claim, matches nothing.
func (t template) matchesAround(value, traitValue string) bool {
	n := len(traitValue)
	for i := 0; n > 0 && i+n <= len(value); i++ {
		if value[i:i+n] == traitValue && glob(t.before, value[:i]) && glob(t.after, value[i+n:]) {
			return true
		}
	}
	return false
}

// glob reports whether s matches the pattern, in which "*" stands for any run of bytes and "?" for any one
// byte. It takes time proportional to the product of the lengths, whatever the pattern: it goes back only to
// the last "*".
func glob(pattern, s string) bool {
	p, i := 0, 0           // pattern[:p] has matched s[:i]
	star, starEnd := -1, 0 // the last "*" in pattern[:p] is at star, and stands for bytes up to s[:starEnd]
	for i < len(s) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, starEnd = p, i
			p++
		case p < len(pattern) && (pattern[p] == '?' || pattern[p] == s[i]):
			p++
			i++
		case star >= 0: // let the "*" stand for one byte more, and try again behind it
			starEnd++
			p, i = star+1, starEnd
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

// isSystemAccount reports whether name is that of a system account. It also returns true for a name of digits
// alone: some programs read it as a user id, and 0 is root's.
func isSystemAccount(name string) bool {
	isUserID := strings.Trim(name, "0123456789") == ""
	return isUserID || strings.HasPrefix(name, "_") || strings.HasPrefix(name, "systemd-") ||
		slices.Contains(systemAccounts, strings.ToLower(name))
}
