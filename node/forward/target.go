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

// maxHost bounds a host name, in bytes (RFC 1035 section 2.3.4).
const maxHost = 255

// Target is where a connection goes to, or where a listener is asked for: a host and port, or a path.
type Target struct {
	Host string // empty if Path is set
	Port uint16 // 0: any, for listeners only
	Path string // of a Unix socket
}

// String returns the target as users write it.
func (t Target) String() string {
	if t.Path != "" {
		return t.Path
	}
	return net.JoinHostPort(t.Host, strconv.Itoa(int(t.Port)))
}

// Parse reads the target from the data of a channel or request. name is the type of the channel or the name
// of the request, one of the constants above. The error is a fault of kind Invalid.
func Parse(name string, data []byte) (Target, error) {
	var target Target
	var err error
	switch name {
	case DirectTCP:
		target, err = parseDirectTCP(data)
	case ListenTCP, CancelTCP:
		target, err = parseListenTCP(data)
	case DirectStreamlocal:
		var wire struct {
			Path, Reserved string
			More           uint32
		}
		err = ssh.Unmarshal(data, &wire)
		target.Path = wire.Path
	default: // ListenStreamlocal, CancelStreamlocal
		var wire struct{ Path string }
		err = ssh.Unmarshal(data, &wire)
		target.Path = wire.Path
	}
	if err != nil {
		return Target{}, forwardRequestMalformed.Wrap(err, "node", fault.Args{"request": name})
	}
	return target, target.check(name)
}

// parseDirectTCP reads the data of a direct-tcpip channel. The address of the originator is ignored.
func parseDirectTCP(data []byte) (Target, error) {
	var wire struct {
		Host       string
		Port       uint32
		OriginHost string
		OriginPort uint32
	}
	err := ssh.Unmarshal(data, &wire)
	return Target{Host: wire.Host, Port: portNumber(wire.Port)}, err
}

// parseListenTCP reads the data of a tcpip-forward or cancel-tcpip-forward request. Port 0 means any port.
func parseListenTCP(data []byte) (Target, error) {
	var wire struct {
		Host string
		Port uint32
	}
	err := ssh.Unmarshal(data, &wire)
	if err == nil && wire.Port == 0 {
		return Target{Host: wire.Host}, nil
	}
	t := Target{Host: wire.Host, Port: portNumber(wire.Port)}
	if err == nil && t.Port == 0 {
		err = errInvalidPort
	}
	return t, err
}

var errInvalidPort = forwardPortInvalid.New("node")

// portNumber returns n as a port, or 0 if it is too large for one.
func portNumber(n uint32) uint16 {
	if n > 65535 {
		return 0
	}
	return uint16(n)
}

// check returns a fault of kind Invalid if the target cannot be that of a channel or request of that name.
func (t Target) check(name string) error {
	switch name {
	case DirectTCP:
		if t.Port == 0 {
			return errInvalidPort
		}
		if t.Host == "" {
			return forwardHostMissing.New("node")
		}
		return t.checkHost()
	case ListenTCP, CancelTCP:
		return t.checkHost()
	}
	if t.Path == "" {
		return forwardPathMissing.New("node")
	}
	return nil
}

func (t Target) checkHost() error {
	isBlankOrControl := func(r rune) bool { return r <= ' ' || r == 0x7f }
	if len(t.Host) > maxHost || strings.ContainsFunc(t.Host, isBlankOrControl) {
		return forwardHostInvalid.New("node")
	}
	return nil
}
