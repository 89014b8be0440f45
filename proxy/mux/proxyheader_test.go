package mux

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// proxyV2Header makes a header of version 2.
func proxyV2Header(command, family byte, tail []byte) []byte {
	b := append([]byte(proxyV2), command, family)
	return append(binary.BigEndian.AppendUint16(b, uint16(len(tail))), tail...)
}

// addressTail makes the tail of version 2 from a source and a destination.
func addressTail(from, to string) (tail []byte) {
	a, b := netip.MustParseAddrPort(from), netip.MustParseAddrPort(to)
	tail = append(a.Addr().AsSlice(), b.Addr().AsSlice()...)
	return binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(tail, a.Port()), b.Port())
}

var (
	tailIPv4 = addressTail("192.0.2.7:40000", "198.51.100.1:443")
	tailIPv6 = addressTail("[2001:db8::7]:40000", "[2001:db8::1]:443")
	tlvs     = append([]byte{0x04, 0x00, 0x03}, 1, 2, 3) // PP2_TYPE_NOOP
)

// Valid PROXY headers of both versions give the client's address and the length of the header. Every
// beginning of a header gives errIncomplete.
func TestProxyHeader(t *testing.T) {
	t.Parallel()
	withTLVs := slices.Concat(tailIPv4, tlvs)
	longest := slices.Concat(tailIPv4, make([]byte, maxProxyV2Tail-len(tailIPv4)))
	for _, tt := range []struct {
		name   string
		header []byte
		want   string // the client's address; empty: the header has none
	}{
		{"version 1, IPv4", []byte("PROXY TCP4 192.0.2.7 198.51.100.1 40000 443\r\n"), "192.0.2.7:40000"},
		{"version 1, IPv6", []byte("PROXY TCP6 2001:db8::7 2001:db8::1 4000 443\r\n"), "[2001:db8::7]:4000"},
		{"version 1, mapped", []byte("PROXY TCP6 ::ffff:192.0.2.7 2001:db8::1 1 443\r\n"), "192.0.2.7:1"},
		{"version 1, unknown", []byte("PROXY UNKNOWN\r\n"), ""},
		{"version 1, unknown with addresses", []byte("PROXY UNKNOWN ffff:: ffff:: 65535 65535\r\n"), ""},
		{"version 2, IPv4", proxyV2Header(proxyForwarded, proxyTCP4, tailIPv4), "192.0.2.7:40000"},
		{"version 2, IPv6", proxyV2Header(proxyForwarded, proxyTCP6, tailIPv6), "[2001:db8::7]:40000"},
		{"version 2, TLVs", proxyV2Header(proxyForwarded, proxyTCP4, withTLVs), "192.0.2.7:40000"},
		{"version 2, the longest tail", proxyV2Header(proxyForwarded, proxyTCP4, longest), "192.0.2.7:40000"},
		{"version 2, local", proxyV2Header(proxyLocal, proxyUnspecified, nil), ""},
		{"version 2, local with addresses", proxyV2Header(proxyLocal, proxyTCP4, tailIPv4), ""},
		{"version 2, local of any family", proxyV2Header(proxyLocal, 0x31, make([]byte, 216)), ""},
		{"version 2, unspecified", proxyV2Header(proxyForwarded, proxyUnspecified, tlvs), ""},
	} {
		n, from, err := parseProxyHeader(append(slices.Clone(tt.header), "SSH-2.0-x"...))
		if err != nil || n != len(tt.header) || from.IsValid() != (tt.want != "") ||
			tt.want != "" && from.String() != tt.want {
			t.Errorf("%s: got %d bytes, %s, %v, want %d, %s", tt.name, n, from, err, len(tt.header), tt.want)
		}
		for i := range len(tt.header) {
			if _, _, err := parseProxyHeader(tt.header[:i]); !errors.Is(err, errIncomplete) {
				t.Fatalf("%s: first %d bytes: got %v, want errIncomplete", tt.name, i, err)
			}
		}
	}
}

// Bytes that cannot become a valid PROXY header for a TCP connection are refused at once.
func TestProxyHeaderRefuses(t *testing.T) {
	t.Parallel()
	tooLong := slices.Concat(tailIPv4, make([]byte, maxProxyV2Tail))
	for name, header := range map[string][]byte{
		"SSH":                             []byte("SSH-2.0-OpenSSH_9.9\r\n"),
		"TLS":                             {22, 3, 1},
		"another case":                    []byte("proxy TCP4"),
		"version 1 without end":           []byte("PROXY UNKNOWN " + strings.Repeat("x", 100)),
		"version 1, end beyond the limit": []byte("PROXY UNKNOWN " + strings.Repeat("x", 92) + "\r\n"),
		"version 1, a name":               []byte("PROXY TCP4 localhost 198.51.100.1 40000 443\r\n"),
		"version 1, the other family":     []byte("PROXY TCP4 2001:db8::7 2001:db8::1 40000 443\r\n"),
		"version 1, IPv4 as IPv6":         []byte("PROXY TCP6 192.0.2.7 192.0.2.8 40000 443\r\n"),
		"version 1, a zone":               []byte("PROXY TCP6 fe80::1%eth0 fe80::2 40000 443\r\n"),
		"version 1, datagrams":            []byte("PROXY UDP4 192.0.2.7 198.51.100.1 40000 443\r\n"),
		"version 1, a port too high":      []byte("PROXY TCP4 192.0.2.7 198.51.100.1 65536 443\r\n"),
		"version 1, a port with zeros":    []byte("PROXY TCP4 192.0.2.7 198.51.100.1 040 443\r\n"),
		"version 1, a sign":               []byte("PROXY TCP4 192.0.2.7 198.51.100.1 +40 443\r\n"),
		"version 1, two spaces":           []byte("PROXY TCP4  192.0.2.7 198.51.100.1 40000 443\r\n"),
		"version 1, more fields":          []byte("PROXY TCP4 192.0.2.7 198.51.100.1 40000 443 x\r\n"),
		"version 1, no fields":            []byte("PROXY \r\n"),
		"version 2, version 3":            proxyV2Header(0x31, proxyTCP4, tailIPv4),
		"version 2, another command":      proxyV2Header(0x22, proxyTCP4, tailIPv4),
		"version 2, datagrams":            proxyV2Header(proxyForwarded, 0x12, tailIPv4),
		"version 2, a UNIX socket":        proxyV2Header(proxyForwarded, 0x31, make([]byte, 216)),
		"version 2, another family":       proxyV2Header(proxyForwarded, 0x41, tailIPv4),
		"version 2, no protocol":          proxyV2Header(proxyForwarded, 0x10, tailIPv4),
		"version 2, cut addresses":        proxyV2Header(proxyForwarded, proxyTCP6, tailIPv4),
		"version 2, tail too long":        proxyV2Header(proxyForwarded, proxyTCP4, tooLong),
	} {
		if n, from, err := parseProxyHeader(header); err == nil || errors.Is(err, errIncomplete) {
			t.Errorf("%s: got %d bytes, %s, %v, want it refused", name, n, from, err)
		}
	}
}

// parseProxyHeader never panics and never reads past the header. Its result does not depend on the bytes
// after the header.
func FuzzProxyHeader(f *testing.F) {
	f.Add([]byte("PROXY TCP4 192.0.2.7 198.51.100.1 40000 443\r\n"))
	f.Add([]byte("PROXY TCP6 2001:db8::7 2001:db8::1 40000 443\r\nSSH-2.0"))
	f.Add([]byte("PROXY UNKNOWN\r\n"))
	f.Add(proxyV2Header(proxyForwarded, proxyTCP4, tailIPv4))
	f.Add(proxyV2Header(proxyForwarded, proxyTCP6, slices.Concat(tailIPv6, tlvs)))
	f.Add(proxyV2Header(proxyLocal, 0x31, make([]byte, 216)))
	f.Add(proxyV2Header(proxyForwarded, 0x30, []byte("0")))
	f.Fuzz(func(t *testing.T, b []byte) {
		n, from, err := parseProxyHeader(b)
		if err != nil {
			if n != 0 || from.IsValid() {
				t.Errorf("got %d bytes and %s with the error %v", n, from, err)
			}
			return
		}
		if n < len("PROXY \r\n") || n > len(b) || n > proxyV2HeaderLen+maxProxyV2Tail {
			t.Errorf("got a header of %d bytes in %d", n, len(b))
		}
		// Bytes that follow must not change the result, and no shorter prefix is a header.
		if n2, again, err := parseProxyHeader(append(slices.Clone(b[:n]), 0, 1)); err != nil || n2 != n ||
			again != from {
			t.Errorf("got %d, %s, then %d, %s, %v with other bytes after it", n, from, n2, again, err)
		}
		if _, _, err := parseProxyHeader(b[:n-1]); !errors.Is(err, errIncomplete) {
			t.Errorf("got %v without the last byte, want errIncomplete", err)
		}
	})
}
