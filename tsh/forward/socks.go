package forward

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
)

// maxSOCKSName bounds, in bytes, the names in a SOCKS request: the host, and the user of SOCKS4, which is
// ignored.
const maxSOCKSName = 255

// Versions, the one command that is served, and address types of SOCKS4, SOCKS4a and SOCKS5 (RFC 1928).
const (
	socks4       = 4
	socks5       = 5
	socksConnect = 1
	socksIPv4    = 1
	socksName    = 3
	socksIPv6    = 4
)

// SOCKSRequest is the request of a SOCKS client for a connection. Version is 4 or 5; 0 means that there is no
// request.
type SOCKSRequest struct {
	Version byte
	To      Addr
}

// ReadSOCKS reads a CONNECT request of version 4, 4a or 5, and no byte after it. In version 5 it answers the
// offer of methods; it accepts only "no authentication", because only programs on this machine can reach the
// port. If the request is not served, it returns an error and, once the version is known, a request that
// Reply can answer. The caller sets the deadline.
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
	err = fmt.Errorf("this port serves SOCKS 4 and 5, but the client uses version %d", version)
	return SOCKSRequest{}, err
}

// readSOCKS4 reads what follows the version: command, port, IPv4 address, user, and for SOCKS4a a host name.
// SOCKS4a marks itself by an address 0.0.0.x with x other than 0.
func readSOCKS4(rw io.ReadWriter) (SOCKSRequest, error) {
	req := SOCKSRequest{Version: socks4}
	var head [7]byte // command, port, address
	if _, err := io.ReadFull(rw, head[:]); err != nil {
		return req, err
	}
	if _, err := readText(rw); err != nil { // the user, ignored
		return req, err
	}
	req.To.Port = uint16(head[1])<<8 | uint16(head[2])
	ip := netip.AddrFrom4([4]byte(head[3:]))
	req.To.Host = ip.String()
	if head[3] == 0 && head[4] == 0 && head[5] == 0 && head[6] != 0 { // SOCKS4a: a host name follows
		name, err := readText(rw)
		if err != nil {
			return req, err
		}
		req.To.Host = name
	}
	return req, req.check(head[0])
}

// readText reads a text that ends in a zero byte.
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

// readSOCKS5 reads the methods and answers them, and then reads the request (RFC 1928 section 4).
func readSOCKS5(rw io.ReadWriter) (SOCKSRequest, error) {
	req := SOCKSRequest{Version: socks5}
	if err := chooseMethod(rw); err != nil {
		return req, err
	}
	var head [4]byte // version, command, reserved, address type
	if _, err := io.ReadFull(rw, head[:]); err != nil {
		return req, err
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
			return req, err
		}
		length = n
	default:
		return req, fmt.Errorf("a SOCKS request has an address of type %d", head[3])
	}
	body := make([]byte, int(length)+2)
	if _, err := io.ReadFull(rw, body); err != nil {
		return req, err
	}
	host := body[:length]
	req.To = Addr{Host: string(host), Port: uint16(body[length])<<8 | uint16(body[length+1])}
	if ip, ok := netip.AddrFromSlice(host); ok && head[3] != socksName {
		req.To.Host = ip.String()
	}
	return req, req.check(head[1])
}

// chooseMethod reads the offered methods and answers (RFC 1928 section 3).
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
	return errors.New("a SOCKS client requires authentication, which this port does not support")
}

// check refuses commands other than CONNECT and addresses that cannot be passed on to a node.
func (r SOCKSRequest) check(command byte) error {
	if command != socksConnect {
		return fmt.Errorf("a SOCKS client sent command %d, but only CONNECT (1) is served", command)
	}
	if r.To.Host == "" || r.To.Port == 0 {
		return errors.New("a SOCKS client sent an empty host or port")
	}
	for _, c := range []byte(r.To.Host) {
		if c <= ' ' || c == 0x7f {
			return errors.New("a SOCKS client sent a host name that is not valid")
		}
	}
	return nil
}

// Reply encodes the answer to the request.
func (r SOCKSRequest) Reply(connected bool) []byte {
	if r.Version == socks4 {
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
	} // general failure; the user sees the reason
}

// readByte reads exactly one byte. There is no buffered reader, because the bytes after the request belong to
// the connection.
func readByte(r io.Reader) (byte, error) {
	var b [1]byte
	_, err := io.ReadFull(r, b[:])
	return b[0], err
}
