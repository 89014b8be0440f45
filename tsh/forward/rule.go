package forward

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/threshold-access/threshold/internal/fault"
)

// Addr is an end of forwarded connections: a TCP port, or a Unix socket. The zero value is none.
type Addr struct {
	Host string
	Port uint16
	Path string // not empty: a Unix socket
}

func (a Addr) String() string {
	switch {
	case a.Path != "":
		return a.Path
	case a.Host == "":
		return fmt.Sprintf("port %d", a.Port)
	}
	return net.JoinHostPort(a.Host, strconv.Itoa(int(a.Port)))
}

// file is the path for the kernel. One that begins with @ is a file's like any other, as in OpenSSH; Go would
// take it for an abstract socket, which no file mode guards.
func (a Addr) file() string {
	if strings.HasPrefix(a.Path, "@") {
		return "./" + a.Path
	}
	return a.Path
}

// unknown says that the kernel is to choose the port, which nobody on this machine would learn.
func (a Addr) unknown() bool { return a.Path == "" && a.Port == 0 }

// Rule forwards connections that come to From, to To. To is zero where whoever connects says where to, in
// SOCKS.
type Rule struct{ From, To Addr }

// ParseLocal reads what -L takes: [BIND:]PORT or a socket's path, and then HOST:PORT or a socket's path on
// the node. Without BIND the listener is this machine's own: loopback.
func ParseLocal(s string) (Rule, error) {
	r, ok := parseRule(s)
	if !ok || r.To == (Addr{}) || r.From.unknown() {
		return r, wrong(
			"-L",
			s,
			"write [BIND:]PORT:HOST:HOSTPORT, as -L 8080:localhost:80; either end may be the path of a socket",
		)
	}
	return r, nil
}

// ParseRemote reads what -R takes: as -L with the listener on the node, or [BIND:]PORT alone for SOCKS. Port
// 0 lets the node choose.
func ParseRemote(s string) (Rule, error) {
	r, ok := parseRule(s)
	if !ok {
		return r, wrong(
			"-R",
			s,
			"write [BIND:]PORT:HOST:HOSTPORT, as -R 8080:localhost:80; either end may be the path of a socket",
		)
	}
	return r, nil
}

// ParseDynamic reads what -D takes: [BIND:]PORT.
func ParseDynamic(s string) (Rule, error) {
	r, ok := parseRule(s)
	if !ok || r.To != (Addr{}) || r.From.Path != "" || r.From.unknown() {
		return r, wrong("-D", s, "write [BIND:]PORT, as -D 1080")
	}
	return r, nil
}

// ParseTarget reads what -W takes: HOST:PORT.
func ParseTarget(s string) (Addr, error) {
	words, ok := split(s)
	if ok && len(words) == 2 && words[0] != "" {
		if port, ok := parsePort(words[1]); ok && port != 0 {
			return Addr{Host: words[0], Port: port}, nil
		}
	}
	return Addr{}, wrong("-W", s, "write HOST:PORT, as -W localhost:80")
}

func wrong(flag, s, remedy string) error {
	return fault.New(fault.Invalid, "", fmt.Sprintf("%s %q cannot be read", flag, s), remedy)
}

// parseRule reads FROM or FROM:TO. What has a slash is a socket's path, as OpenSSH has it.
func parseRule(s string) (r Rule, ok bool) {
	words, ok := split(s)
	if !ok || len(words) > 4 {
		return r, false
	}
	n := len(words)
	switch to := words[n-1]; {
	case n > 1 && isPath(to):
		r.To, words = Addr{Path: to}, words[:n-1]
	case n > 2:
		port, ok := parsePort(to)
		if !ok || port == 0 || words[n-2] == "" || isPath(words[n-2]) {
			return r, false
		}
		r.To, words = Addr{Host: words[n-2], Port: port}, words[:n-2]
	}
	r.From, ok = parseFrom(words)
	return r, ok
}

func parseFrom(words []string) (Addr, bool) {
	if len(words) == 1 && isPath(words[0]) {
		return Addr{Path: words[0]}, true
	}
	if len(words) < 1 || len(words) > 2 {
		return Addr{}, false
	}
	a := Addr{Host: "localhost"}
	if len(words) == 2 {
		if a.Host = words[0]; a.Host == "*" {
			a.Host = "" // every interface, as OpenSSH has it
		}
	}
	port, ok := parsePort(words[len(words)-1])
	a.Port = port
	return a, ok && !isPath(a.Host)
}

// split parts at colons, but for those within brackets, which go.
func split(s string) ([]string, bool) {
	if strings.ContainsFunc(s, func(c rune) bool { return c < ' ' || c == 0x7f }) {
		return nil, false
	}
	var words []string
	for {
		if rest, bracket := strings.CutPrefix(s, "["); bracket {
			word, after, closed := strings.Cut(rest, "]")
			if !closed || after != "" && after[0] != ':' {
				return nil, false
			}
			words = append(words, word)
			if after == "" {
				return words, true
			}
			s = after[1:]
			continue
		}
		word, rest, more := strings.Cut(s, ":")
		words = append(words, word)
		if !more {
			return words, true
		}
		s = rest
	}
}

func isPath(s string) bool { return strings.Contains(s, "/") }

func parsePort(s string) (uint16, bool) {
	n, err := strconv.ParseUint(s, 10, 16)
	return uint16(n), err == nil && !slices.Contains([]byte(s), '+')
}
