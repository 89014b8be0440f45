package forward

import (
	"net"
	"strconv"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/fault"
)

// Names of requests and channels (RFC 4254 section 7; OpenSSH PROTOCOL sections 2.4 and 2.5).
const (
	DirectTCP         = "direct-tcpip"
	DirectStreamlocal = "direct-streamlocal@openssh.com"
	ListenTCP         = "tcpip-forward"
	ListenStreamlocal = "streamlocal-forward@openssh.com"
	CancelTCP         = "cancel-tcpip-forward"
	CancelStreamlocal = "cancel-streamlocal-forward@openssh.com"
	AgentRequest      = "auth-agent-req@openssh.com"

	forwardedTCP         = "forwarded-tcpip"
	forwardedStreamlocal = "forwarded-streamlocal@openssh.com"
	agentChannel         = "auth-agent@openssh.com"
)

// maxHost bounds a host's name in bytes (RFC 1035 section 2.3.4).
const maxHost = 255

// Target is where something goes, or where a listener is asked for.
type Target struct {
	Host string // empty with Path set
	Port uint16
	Path string // of a Unix socket
}

// String is the target as people write it.
func (t Target) String() string {
	if t.Path != "" {
		return t.Path
	}
	return net.JoinHostPort(t.Host, strconv.Itoa(int(t.Port)))
}

// Parse reads the target out of the data of a channel or request of that name.
func Parse(name string, data []byte) (Target, error) {
	var t Target
	var err error
	switch name {
	case DirectTCP:
		t, err = parseDirectTCP(data)
	case ListenTCP, CancelTCP:
		t, err = parseListenTCP(data)
	case DirectStreamlocal:
		var m struct {
			Path, Reserved string
			More           uint32
		}
		err = ssh.Unmarshal(data, &m)
		t.Path = m.Path
	default:
		var m struct{ Path string }
		err = ssh.Unmarshal(data, &m)
		t.Path = m.Path
	}
	if err != nil {
		return Target{}, fault.Wrap(
			err,
			fault.Invalid,
			"node",
			"the request "+name+" could not be read",
			"update the SSH client",
		)
	}
	return t, t.check(name)
}

func parseDirectTCP(data []byte) (Target, error) {
	var m struct {
		Host   string
		Port   uint32
		From   string
		Origin uint32
	}
	err := ssh.Unmarshal(data, &m)
	return Target{Host: m.Host, Port: portNumber(m.Port)}, err
}

func parseListenTCP(data []byte) (Target, error) {
	var m struct {
		Host string
		Port uint32
	}
	err := ssh.Unmarshal(data, &m)
	if err == nil && m.Port == 0 {
		return Target{Host: m.Host}, nil
	}
	t := Target{Host: m.Host, Port: portNumber(m.Port)}
	if err == nil && t.Port == 0 {
		err = errInvalidPort
	}
	return t, err
}

var errInvalidPort = fault.New(fault.Invalid, "node", "that is no port", "name one from 1 to 65535")

// portNumber is 0 for a number that is none.
func portNumber(n uint32) uint16 {
	if n > 65535 {
		return 0
	}
	return uint16(n)
}

func (t Target) check(name string) error {
	switch name {
	case DirectTCP:
		if t.Port == 0 {
			return errInvalidPort
		}
		if t.Host == "" {
			return fault.New(
				fault.Invalid,
				"node",
				"no host is named",
				"name the host to reach, as in: ssh -L 8080:localhost:80",
			)
		}
		fallthrough
	case ListenTCP, CancelTCP:
		if len(t.Host) > maxHost ||
			strings.ContainsFunc(t.Host, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
			return fault.New(fault.Invalid, "node", "that is no name of a host", "name a host or an address")
		}
	default:
		if t.Path == "" {
			return fault.New(fault.Invalid, "node", "no path of a socket is named", "name one")
		}
	}
	return nil
}
