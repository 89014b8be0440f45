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

// file returns the path of the socket for package net. A path that begins with @ names a file, as in OpenSSH,
// but package net would take it for an abstract socket, which no file mode protects. So file puts ./ before
// it.
func (a Addr) file() string {
	if strings.HasPrefix(a.Path, "@") {
		return "./" + a.Path
	}
	return a.Path
}

// isPortZero reports whether the address is TCP port 0, for which the kernel that listens chooses a port. On
// this machine it is refused, because tsh does not print which port was chosen.
func (a Addr) isPortZero() bool { return a.Path == "" && a.Port == 0 }

// Rule forwards connections that arrive at From to To. A zero To means that the client names the target in
// SOCKS.
type Rule struct{ From, To Addr }

// ParseLocal reads the value of -L: [BIND:]PORT or the path of a socket, and then HOST:PORT or the path of a
// socket on the node. Without BIND the listener is on loopback. It returns an Invalid fault for other text
// and for port 0.
func ParseLocal(s string) (Rule, error) {
	rule, ok := parseRule(s)
	if !ok || rule.To == (Addr{}) || rule.From.isPortZero() {
		const hint = "write [BIND:]PORT:HOST:HOSTPORT, as -L 8080:localhost:80; " + socketHint
		return rule, ruleFault("-L", s, hint)
	}
	return rule, nil
}

// ParseRemote reads the value of -R: as -L with the listener on the node, or [BIND:]PORT alone for SOCKS.
// With port 0 for the listener the node chooses the port. It returns an Invalid fault for other text.
func ParseRemote(s string) (Rule, error) {
	rule, ok := parseRule(s)
	if !ok {
		const hint = "write [BIND:]PORT:HOST:HOSTPORT, as -R 8080:localhost:80; " + socketHint
		return rule, ruleFault("-R", s, hint)
	}
	return rule, nil
}

// ParseDynamic reads the value of -D: [BIND:]PORT. It returns an Invalid fault for other text and for port 0.
func ParseDynamic(s string) (Rule, error) {
	rule, ok := parseRule(s)
	if !ok || rule.To != (Addr{}) || rule.From.Path != "" || rule.From.isPortZero() {
		return rule, ruleFault("-D", s, "write [BIND:]PORT, as -D 1080")
	}
	return rule, nil
}

// ParseTarget reads the value of -W: HOST:PORT. It returns an Invalid fault for other text and for port 0.
func ParseTarget(s string) (Addr, error) {
	parts, ok := splitRule(s)
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
	return forwardRuleInvalid.New("", fault.Args{"value": s, "flag": flag, "hint": remedy})
}

// parseRule reads FROM or FROM:TO. FROM is [BIND:]PORT or the path of a socket; TO is HOST:PORT or the path
// of a socket. A part with a slash is a path, as in OpenSSH. Without TO the rule's To is zero. It returns
// false for other text. Whether a port 0 or a missing TO is allowed depends on the flag, so the caller checks
// it.
func parseRule(s string) (Rule, bool) {
	parts, ok := splitRule(s)
	if !ok || len(parts) > 4 { // BIND:PORT:HOST:PORT
		return Rule{}, false
	}
	// At most [BIND:]PORT is left for FROM when TO is taken off the end.
	from, to := parts, Addr{}
	count := len(parts)
	switch last := parts[count-1]; {
	case count > 1 && isPath(last):
		from, to = parts[:count-1], Addr{Path: last}
	case count > 2:
		host := parts[count-2]
		port, ok := parsePort(last)
		if !ok || port == 0 || host == "" || isPath(host) {
			return Rule{}, false
		}
		from, to = parts[:count-2], Addr{Host: host, Port: port}
	}
	fromAddr, ok := parseFrom(from)
	return Rule{From: fromAddr, To: to}, ok
}

// parseFrom reads the parts of FROM: [BIND:]PORT or the path of a socket. Without BIND the host is localhost;
// the BIND * becomes the empty host, which means every interface. It returns false for other parts.
func parseFrom(parts []string) (Addr, bool) {
	if len(parts) == 1 && isPath(parts[0]) {
		return Addr{Path: parts[0]}, true
	}
	if len(parts) < 1 || len(parts) > 2 {
		return Addr{}, false
	}
	addr := Addr{Host: "localhost"}
	if len(parts) == 2 {
		addr.Host = parts[0]
		if addr.Host == "*" {
			addr.Host = "" // every interface, as in OpenSSH
		}
	}
	port, ok := parsePort(parts[len(parts)-1])
	addr.Port = port
	return addr, ok && !isPath(addr.Host)
}

// splitRule splits s at colons. A part in brackets, such as an IPv6 address, may contain colons; the brackets
// are dropped. It returns false for a bracket that is not closed or is followed by anything but a colon, and
// for control characters.
func splitRule(s string) ([]string, bool) {
	isControl := func(c rune) bool { return c < ' ' || c == 0x7f }
	if strings.ContainsFunc(s, isControl) {
		return nil, false
	}
	var parts []string
	for rest := s; ; {
		var part string
		hasMore := false
		if inside, isBracket := strings.CutPrefix(rest, "["); isBracket {
			inBrackets, after, isClosed := strings.Cut(inside, "]")
			if !isClosed || after != "" && after[0] != ':' {
				return nil, false
			}
			part = inBrackets
			rest, hasMore = strings.CutPrefix(after, ":")
		} else {
			part, rest, hasMore = strings.Cut(rest, ":")
		}
		parts = append(parts, part)
		if !hasMore {
			return parts, true
		}
	}
}

// isPath reports whether a part of a rule is the path of a socket. Host names contain no slash.
func isPath(s string) bool { return strings.Contains(s, "/") }

// parsePort reads a port in decimal digits. It accepts 0, which only some flags allow.
func parsePort(s string) (uint16, bool) {
	n, err := strconv.ParseUint(s, 10, 16)
	return uint16(n), err == nil && !slices.Contains([]byte(s), '+')
}
