package fault

import (
	"fmt"
	"strings"
	"time"
)

// Code declares one way to fail. Every package keeps its own as variables of the package, and nothing changes
// them. A test of internal/repocheck reads all declarations: it checks the names, the texts and the arguments
// with which the codes are used, and writes docs/errors.md from them.
type Code struct {
	// Name is on the wire and in the scripts of users, so it keeps its meaning for ever. It has the form
	// subject-what, in lower case, as "token-used".
	Name string
	Kind Kind
	// Text says in English what happened, and Remedy names one command or action. Both may have arguments in
	// braces, as "there is no node {node}".
	Text, Remedy string
}

// Args are the arguments of a fault by name. A value is written as fmt.Sprint writes it, and is data: it can
// neither break the line nor hide characters, and what is longer than maxArgBytes is cut off. The names of
// arguments are in lower case, with underscores.
type Args map[string]any

// ArgRetryAfter is the argument that says when it is worth while to try again. Its value is a time.Duration.
const ArgRetryAfter = "retry_after"

// New makes a fault of this code, with no cause. op is the operation, as "auth.FinishLogin". args may be left
// out if the texts have none.
func (c Code) New(op string, args ...Args) *Error {
	e := &Error{Code: c.Name, Kind: c.Kind, Op: op}
	for _, some := range args {
		for name, value := range some {
			e.setArg(name, value)
		}
	}
	e.Msg, e.Remedy = Fill(c.Text, e.Args), Fill(c.Remedy, e.Args)
	return e
}

// Wrap is New for a fault caused by err. It returns nil when err is nil.
func (c Code) Wrap(err error, op string, args ...Args) error {
	if err == nil {
		return nil
	}
	return c.New(op, args...).Because(err)
}

// Is reports whether the first fault in err's chain has this code.
func (c Code) Is(err error) bool { return CodeOf(err) == c.Name }

// setArg stores one argument. The value of ArgRetryAfter is stored as e.RetryAfter too.
func (e *Error) setArg(name string, value any) {
	if e.Args == nil {
		e.Args = map[string]string{}
	}
	if wait, ok := value.(time.Duration); ok {
		if name == ArgRetryAfter {
			e.RetryAfter = wholeSeconds(wait)
			wait = e.RetryAfter
		}
		value = FormatDuration(wait)
	}
	e.Args[name] = clean(fmt.Sprint(value), maxArgBytes)
}

// Fill returns text with the arguments that it names in braces. It leaves a name that args does not have as
// it is. Braces in a value mean nothing.
func Fill(text string, args map[string]string) string {
	if len(args) == 0 || !strings.Contains(text, "{") {
		return text
	}
	var out strings.Builder
	for {
		before, after, found := strings.Cut(text, "{")
		out.WriteString(before)
		if !found {
			return out.String()
		}
		name, rest, closed := strings.Cut(after, "}")
		if value, ok := args[name]; ok && closed {
			out.WriteString(value)
			text = rest
			continue
		}
		out.WriteByte('{')
		text = after
	}
}

// FormatDuration writes a duration for people, as "30s", "2m" or "1h30m".
func FormatDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// wholeSeconds rounds up to whole seconds, as Retry-After of HTTP counts (RFC 9110 section 10.2.3).
func wholeSeconds(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	return (d + time.Second - 1).Truncate(time.Second)
}
