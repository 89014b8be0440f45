package forward

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
)

// maxSOCKSName bounds the names in a SOCKS request: a host, or the user that SOCKS4 sends and nobody needs.
const maxSOCKSName = 255

// Versions, the one command, and address types of SOCKS (SOCKS4, SOCKS4a; RFC 1928).
const (
	socks4       = 4
	socks5       = 5
	socksConnect = 1
	socksIPv4    = 1
	socksName    = 3
	socksIPv6    = 4
)

// SOCKSRequest is what a SOCKS client asks for.
type SOCKSRequest struct {
	Version byte
	To      Addr
}

// ReadSOCKS reads a request to connect, version 4, 4a or 5, up to its last byte and no further. In version 5
// it answers the offer of methods: no authentication is the one that serves, because only this machine's
// people reach the port. The caller sets the deadline.
func ReadSOCKS(rw io.ReadWriter) (SOCKSRequest, error) {
	version, err := readByte(rw)
	switch {
	case err != nil:
		return SOCKSRequest{}, err
	case version == socks4:
		return readSOCKS4(rw)
	case version == socks5:
		return readSOCKS5(rw)
	}
	return SOCKSRequest{}, fmt.Errorf("this port speaks SOCKS 4 and 5, and was told version %d", version)
}

func readSOCKS4(rw io.ReadWriter) (SOCKSRequest, error) {
	a := SOCKSRequest{Version: socks4}
	var head [7]byte // command, port, address
	if _, err := io.ReadFull(rw, head[:]); err != nil {
		return a, err
	}
	if _, err := readText(rw); err != nil { // the user
		return a, err
	}
	a.To.Port = uint16(head[1])<<8 | uint16(head[2])
	ip := netip.AddrFrom4([4]byte(head[3:]))
	a.To.Host = ip.String()
	if head[3] == 0 && head[4] == 0 && head[5] == 0 && head[6] != 0 { // 4a: the name follows
		name, err := readText(rw)
		if err != nil {
			return a, err
		}
		a.To.Host = name
	}
	return a, a.check(head[0])
}

// readText reads up to a zero byte.
func readText(r io.Reader) (string, error) {
	var b []byte
	for {
		c, err := readByte(r)
		switch {
		case err != nil:
			return "", err
		case c == 0:
			return string(b), nil
		case len(b) == maxSOCKSName:
			return "", errors.New("a name in a SOCKS request is too long")
		}
		b = append(b, c)
	}
}

func readSOCKS5(rw io.ReadWriter) (SOCKSRequest, error) {
	a := SOCKSRequest{Version: socks5}
	if err := chooseMethod(rw); err != nil {
		return a, err
	}
	var head [4]byte // version, command, reserved, address type
	if _, err := io.ReadFull(rw, head[:]); err != nil {
		return a, err
	}
	length := byte(0)
	switch head[3] {
	case socksIPv4:
		length = 4
	case socksIPv6:
		length = 16
	case socksName:
		n, err := readByte(rw)
		if err != nil {
			return a, err
		}
		length = n
	default:
		return a, fmt.Errorf("a SOCKS request has an address of type %d", head[3])
	}
	body := make([]byte, int(length)+2)
	if _, err := io.ReadFull(rw, body); err != nil {
		return a, err
	}
	host := body[:length]
	a.To = Addr{Host: string(host), Port: uint16(body[length])<<8 | uint16(body[length+1])}
	if ip, ok := netip.AddrFromSlice(host); ok && head[3] != socksName {
		a.To.Host = ip.String()
	}
	return a, a.check(head[1])
}

func chooseMethod(rw io.ReadWriter) error {
	n, err := readByte(rw)
	if err != nil {
		return err
	}
	methods := make([]byte, n)
	if _, err := io.ReadFull(rw, methods); err != nil {
		return err
	}
	for _, m := range methods {
		if m == 0 { // no authentication
			_, err := rw.Write([]byte{socks5, 0})
			return err
		}
	}
	_, _ = rw.Write([]byte{socks5, 0xff})
	return errors.New("a SOCKS client wants to authenticate, which this port does not do")
}

func (a SOCKSRequest) check(command byte) error {
	if command != socksConnect {
		return fmt.Errorf("a SOCKS client asks for command %d, and only connections are served", command)
	}
	if a.To.Host == "" || a.To.Port == 0 {
		return errors.New("a SOCKS client asks for a connection to nowhere")
	}
	for _, c := range []byte(a.To.Host) {
		if c <= ' ' || c == 0x7f {
			return errors.New("a SOCKS client asks for a name that is none")
		}
	}
	return nil
}

// Reply is the reply to the request.
func (a SOCKSRequest) Reply(connected bool) []byte {
	if a.Version == socks4 {
		if connected {
			return []byte{0, 0x5a, 0, 0, 0, 0, 0, 0}
		}
		return []byte{0, 0x5b, 0, 0, 0, 0, 0, 0}
	}
	if connected {
		return []byte{socks5, 0, 0, socksIPv4, 0, 0, 0, 0, 0, 0}
	}
	return []byte{
		socks5,
		1,
		0,
		socksIPv4,
		0,
		0,
		0,
		0,
		0,
		0,
	} // general failure: the reason is told to the person
}

func readByte(r io.Reader) (byte, error) {
	var b [1]byte
	_, err := io.ReadFull(r, b[:])
	return b[0], err
}
