package forward

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/threshold-access/threshold/internal/fault"
)

// Addr is an address of forwarded connections: a TCP port or a Unix socket. The zero value is no address.
type Addr struct {
	Host string
	Port uint16
	Path string // not empty: a Unix socket
}

// String is the path of a socket, host:port, or "port N" for a listener on every interface.
func (a Addr) String() string {
	switch {
	case a.Path != "":
		return a.Path
	case a.Host == "":
		return fmt.Sprintf("port %d", a.Port)
	}
	return net.JoinHostPort(a.Host, strconv.Itoa(int(a.Port)))
}

// file is the path for the kernel. A path that begins with @ names a file, as in OpenSSH. Go would take it
// for an abstract socket, which no file mode protects.
func (a Addr) file() string {
	if strings.HasPrefix(a.Path, "@") {
		return "./" + a.Path
	}
	return a.Path
}

// isPortZero reports whether the kernel would choose the port. Nobody on this machine would learn which.
func (a Addr) isPortZero() bool { return a.Path == "" && a.Port == 0 }

// Rule forwards connections that arrive at From to To. A zero To means that the client names the target in
// SOCKS.
type Rule struct{ From, To Addr }

// ParseLocal reads the value of -L: [BIND:]PORT or the path of a socket, and then HOST:PORT or the path of a
// socket on the node. Without BIND the listener is on loopback.
func ParseLocal(s string) (Rule, error) {
	rule, ok := parseRule(s)
	if !ok || rule.To == (Addr{}) || rule.From.isPortZero() {
		const hint = "write [BIND:]PORT:HOST:HOSTPORT, as -L 8080:localhost:80; " + socketHint
		return rule, ruleFault("-L", s, hint)
	}
	return rule, nil
}

// ParseRemote reads the value of -R: as -L with the listener on the node, or [BIND:]PORT alone for SOCKS.
// With port 0 the node chooses the port.
func ParseRemote(s string) (Rule, error) {
	rule, ok := parseRule(s)
	if !ok {
		const hint = "write [BIND:]PORT:HOST:HOSTPORT, as -R 8080:localhost:80; " + socketHint
		return rule, ruleFault("-R", s, hint)
	}
	return rule, nil
}

// ParseDynamic reads the value of -D: [BIND:]PORT.
func ParseDynamic(s string) (Rule, error) {
	rule, ok := parseRule(s)
	if !ok || rule.To != (Addr{}) || rule.From.Path != "" || rule.From.isPortZero() {
		return rule, ruleFault("-D", s, "write [BIND:]PORT, as -D 1080")
	}
	return rule, nil
}

// ParseTarget reads the value of -W: HOST:PORT.
func ParseTarget(s string) (Addr, error) {
	parts, ok := split(s)
	if ok && len(parts) == 2 && parts[0] != "" {
		if port, ok := parsePort(parts[1]); ok && port != 0 {
			return Addr{Host: parts[0], Port: port}, nil
		}
	}
	return Addr{}, ruleFault("-W", s, "write HOST:PORT, as -W localhost:80")
}

const socketHint = "either end can be the path of a socket"

// ruleFault is the error of a flag whose value has the wrong syntax.
func ruleFault(flag, s, remedy string) error {
	return fault.New(fault.Invalid, "", fmt.Sprintf("the value %q of %s is not valid", s, flag), remedy)
}

// parseRule reads FROM or FROM:TO. A part with a slash is the path of a socket, as in OpenSSH.
func parseRule(s string) (rule Rule, ok bool) {
	parts, ok := split(s)
	if !ok || len(parts) > 4 {
		return rule, false
	}
	n := len(parts)
	switch to := parts[n-1]; {
	case n > 1 && isPath(to):
		rule.To, parts = Addr{Path: to}, parts[:n-1]
	case n > 2:
		port, ok := parsePort(to)
		if !ok || port == 0 || parts[n-2] == "" || isPath(parts[n-2]) {
			return rule, false
		}
		rule.To, parts = Addr{Host: parts[n-2], Port: port}, parts[:n-2]
	}
	rule.From, ok = parseFrom(parts)
	return rule, ok
}

// parseFrom reads [BIND:]PORT or the path of a socket. Without BIND the host is localhost.
func parseFrom(parts []string) (Addr, bool) {
	if len(parts) == 1 && isPath(parts[0]) {
		return Addr{Path: parts[0]}, true
	}
	if len(parts) < 1 || len(parts) > 2 {
		return Addr{}, false
	}
	addr := Addr{Host: "localhost"}
	if len(parts) == 2 {
		if addr.Host = parts[0]; addr.Host == "*" {
			addr.Host = "" // every interface, as in OpenSSH
		}
	}
	port, ok := parsePort(parts[len(parts)-1])
	addr.Port = port
	return addr, ok && !isPath(addr.Host)
}

// split splits s at colons, except at those within brackets, and drops the brackets.
func split(s string) ([]string, bool) {
	if strings.ContainsFunc(s, func(c rune) bool { return c < ' ' || c == 0x7f }) {
		return nil, false
	}
	var parts []string
	for {
		if rest, bracket := strings.CutPrefix(s, "["); bracket {
			part, after, closed := strings.Cut(rest, "]")
			if !closed || after != "" && after[0] != ':' {
				return nil, false
			}
			parts = append(parts, part)
			if after == "" {
				return parts, true
			}
			s = after[1:]
			continue
		}
		part, rest, more := strings.Cut(s, ":")
		parts = append(parts, part)
		if !more {
			return parts, true
		}
		s = rest
	}
}

// isPath reports whether a part of a rule is the path of a socket. Host names contain no slash.
func isPath(s string) bool { return strings.Contains(s, "/") }

// parsePort accepts 0: whether that is allowed depends on the flag.
func parsePort(s string) (uint16, bool) {
	n, err := strconv.ParseUint(s, 10, 16)
	return uint16(n), err == nil && !slices.Contains([]byte(s), '+')
}
