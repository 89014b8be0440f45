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

// The PROXY protocol, versions 1 and 2 (haproxy.org, doc/proxy-protocol.txt sections 2.1, 2.2): a balancer
// says in front of a connection whose it is.
const (
	proxyV1          = "PROXY "
	proxyV2          = "\r\n\r\n\x00\r\nQUIT\n"
	proxyV1Max       = 107 // bytes of a header of version 1, CRLF included
	proxyV2HeaderLen = 16  // bytes of a header of version 2 before its addresses

	// maxProxyV2Tail bounds the addresses and TLVs of version 2. TLVs tell of TLS that a balancer has ended,
	// and are skipped.
	maxProxyV2Tail = 4 << 10
)

// What the bytes of version 2 may say.
const (
	proxyLocal     = 0x20 // version 2, the balancer speaks for itself: a health check
	proxyForwarded = 0x21 // version 2, in a client's name

	proxyUnspecified = 0x00
	proxyTCP4        = 0x11
	proxyTCP6        = 0x21
)

var errProxyHeader = errors.New("a listed balancer sent no PROXY header that is understood")

// parseProxyHeader reads the header at the start of b. It returns the header's length and the client's
// address, which is the zero one where the header names none: then the connection counts as the balancer's
// own. It gives errIncomplete while b is only the beginning of a header.
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

func parseProxyV1(b []byte) (int, netip.AddrPort, error) {
	line, _, whole := bytes.Cut(b[:min(len(b), proxyV1Max)], []byte("\r\n"))
	switch {
	case !whole && len(b) < proxyV1Max:
		return 0, netip.AddrPort{}, errIncomplete
	case !whole:
		return 0, netip.AddrPort{}, errProxyHeader
	}
	n := len(line) + len("\r\n")
	words := strings.Split(string(line), " ")
	if words[1] == "UNKNOWN" { // what follows must be ignored
		return n, netip.AddrPort{}, nil
	}
	if len(words) != 6 || words[1] != "TCP4" && words[1] != "TCP6" {
		return 0, netip.AddrPort{}, errProxyHeader
	}
	from, ok := parseEndpoint(words[1], words[2], words[4])
	if _, ok2 := parseEndpoint(words[1], words[3], words[5]); !ok || !ok2 {
		return 0, netip.AddrPort{}, errProxyHeader
	}
	return n, from, nil
}

// parseEndpoint reads an address of the family and a port, both in the one way that the specification allows.
func parseEndpoint(family, addr, port string) (netip.AddrPort, bool) {
	a, err := netip.ParseAddr(addr)
	p, err2 := strconv.ParseUint(port, 10, 16)
	if err != nil || err2 != nil || a.Zone() != "" || a.Is4() != (family == "TCP4") ||
		strconv.FormatUint(p, 10) != port {
		return netip.AddrPort{}, false
	}
	return netip.AddrPortFrom(a.Unmap(), uint16(p)), true
}

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
	if command == proxyLocal { // the rest must be ignored
		return n, netip.AddrPort{}, nil
	}
	from, err := sourceAddr(family, b[proxyV2HeaderLen:n])
	if err != nil {
		return 0, from, err
	}
	return n, from, nil
}

// sourceAddr is the source address in the tail of version 2: addresses, then ports. Datagrams and UNIX
// sockets do not end here.
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
	a, _ := netip.AddrFromSlice(tail[:size]) // both sizes fit
	return netip.AddrPortFrom(a.Unmap(), binary.BigEndian.Uint16(tail[2*size:])), nil
}

// readProxyHeader takes the header off the front of the connection, and the client's address from it.
func (p *prefixedConn) readProxyHeader() error {
	for {
		n, from, err := parseProxyHeader(p.prefix)
		switch {
		case errors.Is(err, errIncomplete):
			if err := p.readMore(); err != nil {
				return err
			}
			continue
		case err != nil:
			return err
		}
		if p.prefix = p.prefix[n:]; len(p.prefix) == 0 {
			p.prefix = nil
		}
		if from.IsValid() {
			p.clientAddr = net.TCPAddrFromAddrPort(from)
		}
		return nil
	}
}
