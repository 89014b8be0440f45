package forward

import (
	"bytes"
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

// SOCKSRequest is the request of a SOCKS client for a connection.
type SOCKSRequest struct {
	Version byte // 4 or 5; 0: the client has not sent a version that is served, so it cannot be answered
	To      Addr
}

// ReadSOCKS reads a CONNECT request of version 4, 4a or 5, and no byte after it. In version 5 it first
// answers the client's list of authentication methods; it accepts only "no authentication", because only
// programs on this machine can reach the port. The caller sets the deadline.
//
// It returns an error if the request is not valid or is not served. The request beside the error then has the
// version, so that the caller can send Reply(false), unless the version is not known.
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

// readSOCKS4 reads the rest of a SOCKS4 request after the version: command, port, IPv4 address and user. In
// SOCKS4a the address is 0.0.0.x, with x other than 0, and a host name comes after the user. The
// request is returned also with an error, so that the caller can answer it in its version.
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
	isSOCKS4a := head[3] == 0 && head[4] == 0 && head[5] == 0 && head[6] != 0
	if isSOCKS4a {
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

// readSOCKS5 reads the rest of a SOCKS5 request after the version: it reads and answers the authentication
// methods, and then reads the request itself (RFC 1928 section 4). See ReadSOCKS for the results.
func readSOCKS5(rw io.ReadWriter) (SOCKSRequest, error) {
	req := SOCKSRequest{Version: socks5}
	if err := chooseMethod(rw); err != nil {
		return req, err
	}
	var head [4]byte // version, command, reserved, address type
	if _, err := io.ReadFull(rw, head[:]); err != nil {
		return req, err
	}
	command, addrType := head[1], head[3]
	length := byte(0) // of the host in bytes
	switch addrType {
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
		return req, fmt.Errorf("a SOCKS request has an address of type %d", addrType)
	}
	body := make([]byte, int(length)+2) // host and port
	if _, err := io.ReadFull(rw, body); err != nil {
		return req, err
	}
	host := body[:length]
	req.To = Addr{Host: string(host), Port: uint16(body[length])<<8 | uint16(body[length+1])}
	if ip, ok := netip.AddrFromSlice(host); ok && addrType != socksName {
		req.To.Host = ip.String()
	}
	return req, req.check(command)
}

// chooseMethod reads the authentication methods that the client offers and answers which one is used (RFC
// 1928 section 3): "no authentication". If the client does not offer that, it answers so and returns an
// error.
func chooseMethod(rw io.ReadWriter) error {
	const noAuthentication, noneAcceptable = 0x00, 0xff
	count, err := readByte(rw)
	if err != nil {
		return err
	}
	methods := make([]byte, count)
	if _, err := io.ReadFull(rw, methods); err != nil {
		return err
	}
	if bytes.IndexByte(methods, noAuthentication) >= 0 {
		_, err := rw.Write([]byte{socks5, noAuthentication})
		return err
	}
	_, _ = rw.Write([]byte{socks5, noneAcceptable})
	return errors.New("a SOCKS client requires authentication, which this port does not support")
}

// check returns an error for a command other than CONNECT, for an empty host or port, and for a host with
// spaces or control characters.
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

// Reply returns the answer to the request in the client's version: that it is connected, or that the
// connection failed. The reason of a failure is not sent; the user of tsh reads it. The address in the answer
// is zero, because the client does not need it.
func (r SOCKSRequest) Reply(connected bool) []byte {
	if r.Version == socks4 {
		code := byte(0x5b) // rejected or failed
		if connected {
			code = 0x5a
		}
		return []byte{0, code, 0, 0, 0, 0, 0, 0}
	}
	code := byte(1) // general failure
	if connected {
		code = 0
	}
	return []byte{socks5, code, 0, socksIPv4, 0, 0, 0, 0, 0, 0}
}

// readByte reads exactly one byte. There is no buffered reader, because the bytes after the request belong to
// the connection.
func readByte(r io.Reader) (byte, error) {
	var b [1]byte
	_, err := io.ReadFull(r, b[:])
	return b[0], err
}
