package mux

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// The PROXY protocol, versions 1 and 2 (haproxy.org, doc/proxy-protocol.txt sections 2.1, 2.2). A balancer
// sends a header with the client's address in front of each connection.
const (
	proxyV1          = "PROXY "
	proxyV2          = "\r\n\r\n\x00\r\nQUIT\n"
	proxyV1Max       = 107 // bytes of a header of version 1, CRLF included
	proxyV2HeaderLen = 16  // bytes of a header of version 2 before the addresses

	// maxProxyV2Tail bounds the addresses and TLVs of version 2, in bytes. The TLVs describe a TLS connection
	// that the balancer has ended; they are skipped.
	maxProxyV2Tail = 4 << 10
)

// Bytes of a header of version 2: version and command, then address family and transport.
const (
	proxyLocal     = 0x20 // LOCAL: a connection of the balancer itself, such as a health check
	proxyForwarded = 0x21 // PROXY: a client's connection

	proxyUnspecified = 0x00
	proxyTCP4        = 0x11
	proxyTCP6        = 0x21
)

var errProxyHeader = errors.New("the balancer sent no valid PROXY header")

// parseProxyHeader parses the header at the start of b. It returns n, the length of the header, and from, the
// client's address. The address is the zero AddrPort when the header names no client: then the connection is
// the balancer's own. It returns errIncomplete while b is only the beginning of a header, and errProxyHeader
// when no further bytes can make b a valid one.
func parseProxyHeader(b []byte) (n int, from netip.AddrPort, err error) {
	switch {
	case len(b) == 0:
		return 0, from, errIncomplete
	case agree(b, []byte(proxyV1)):
		return parseProxyV1(b)
	case agree(b, []byte(proxyV2)):
		return parseProxyV2(b)
	}
	return 0, from, errProxyHeader
}

// parseProxyV1 is parseProxyHeader for version 1, a line of text: "PROXY TCP4 source destination sourceport
// destinationport". The caller has compared the beginning of b with proxyV1.
func parseProxyV1(b []byte) (int, netip.AddrPort, error) {
	line, _, complete := bytes.Cut(b[:min(len(b), proxyV1Max)], []byte("\r\n"))
	switch {
	case !complete && len(b) < proxyV1Max:
		return 0, netip.AddrPort{}, errIncomplete
	case !complete:
		return 0, netip.AddrPort{}, errProxyHeader
	}
	n := len(line) + len("\r\n")
	fields := strings.Split(string(line), " ") // at least two: proxyV1 ends with a space
	if fields[1] == "UNKNOWN" {                // the specification says to ignore the rest
		return n, netip.AddrPort{}, nil
	}
	if len(fields) != 6 || fields[1] != "TCP4" && fields[1] != "TCP6" {
		return 0, netip.AddrPort{}, errProxyHeader
	}
	source, sourceValid := parseEndpoint(fields[1], fields[2], fields[4])
	_, destinationValid := parseEndpoint(fields[1], fields[3], fields[5])
	if !sourceValid || !destinationValid {
		return 0, netip.AddrPort{}, errProxyHeader
	}
	return n, source, nil
}

// parseEndpoint parses an address and a port. The address must be of the family, TCP4 or TCP6, and the port
// without sign or leading zeros, as the specification requires.
func parseEndpoint(family, addr, port string) (netip.AddrPort, bool) {
	a, err := netip.ParseAddr(addr)
	if err != nil || a.Zone() != "" || a.Is4() != (family == "TCP4") {
		return netip.AddrPort{}, false
	}
	p, err := strconv.ParseUint(port, 10, 16)
	if err != nil || strconv.FormatUint(p, 10) != port {
		return netip.AddrPort{}, false
	}
	return netip.AddrPortFrom(a.Unmap(), uint16(p)), true
}

// parseProxyV2 is parseProxyHeader for version 2, a binary header: the 12 bytes of proxyV2, which the caller
// has compared, a byte each for the command and the address family, the length of the tail, and the tail.
func parseProxyV2(b []byte) (int, netip.AddrPort, error) {
	if len(b) < proxyV2HeaderLen {
		return 0, netip.AddrPort{}, errIncomplete
	}
	command, family, tail := b[12], b[13], int(binary.BigEndian.Uint16(b[14:]))
	if command != proxyLocal && command != proxyForwarded || tail > maxProxyV2Tail {
		return 0, netip.AddrPort{}, errProxyHeader
	}
	n := proxyV2HeaderLen + tail
	if len(b) < n {
		return 0, netip.AddrPort{}, errIncomplete
	}
	if command == proxyLocal { // the specification says to ignore the addresses
		return n, netip.AddrPort{}, nil
	}
	from, err := sourceAddr(family, b[proxyV2HeaderLen:n])
	if err != nil {
		return 0, from, err
	}
	return n, from, nil
}

// sourceAddr returns the source address from the tail of version 2, which holds both addresses and then
// both ports. Datagrams and Unix sockets are refused, because the port serves TCP only.
func sourceAddr(family byte, tail []byte) (netip.AddrPort, error) {
	var size int // of one address
	switch family {
	case proxyUnspecified:
		return netip.AddrPort{}, nil
	case proxyTCP4:
		size = net.IPv4len
	case proxyTCP6:
		size = net.IPv6len
	}
	if size == 0 || len(tail) < 2*size+4 {
		return netip.AddrPort{}, errProxyHeader
	}
	a, _ := netip.AddrFromSlice(tail[:size]) // size is valid
	return netip.AddrPortFrom(a.Unmap(), binary.BigEndian.Uint16(tail[2*size:])), nil
}

// readProxyHeader reads ahead until the PROXY header is complete, removes the header from the bytes that were
// read ahead, and sets clientAddr if the header names a client. It returns errProxyHeader for a header that
// is not valid, and errors of reading.
func (c *clientConn) readProxyHeader() error {
	for {
		n, from, err := parseProxyHeader(c.Prefix())
		switch {
		case errors.Is(err, errIncomplete):
			if err := c.readMore(); err != nil {
				return err
			}
			continue
		case err != nil:
			return err
		}
		c.Discard(n)
		if from.IsValid() {
			c.clientAddr = net.TCPAddrFromAddrPort(from)
		}
		return nil
	}
}
