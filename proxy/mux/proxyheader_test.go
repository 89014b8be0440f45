package mux

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// version2 makes a header of version 2.
func version2(command, family byte, tail []byte) []byte {
	b := append([]byte(proxyV2), command, family)
	return append(binary.BigEndian.AppendUint16(b, uint16(len(tail))), tail...)
}

// ends are a source and a destination as version 2 has them.
func ends(from, to string) (tail []byte) {
	a, b := netip.MustParseAddrPort(from), netip.MustParseAddrPort(to)
	tail = append(a.Addr().AsSlice(), b.Addr().AsSlice()...)
	return binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(tail, a.Port()), b.Port())
}

var (
	four = ends("192.0.2.7:40000", "198.51.100.1:443")
	six  = ends("[2001:db8::7]:40000", "[2001:db8::1]:443")
	tlvs = append([]byte{0x04, 0x00, 0x03}, 1, 2, 3) // PP2_TYPE_NOOP
)

func TestProxyHeader(t *testing.T) {
	for _, tt := range []struct {
		name   string
		header []byte
		want   string // empty: none is named
	}{
		{"version 1, IPv4", []byte("PROXY TCP4 192.0.2.7 198.51.100.1 40000 443\r\n"), "192.0.2.7:40000"},
		{"version 1, IPv6", []byte("PROXY TCP6 2001:db8::7 2001:db8::1 40000 443\r\n"), "[2001:db8::7]:40000"},
		{"version 1, mapped", []byte("PROXY TCP6 ::ffff:192.0.2.7 2001:db8::1 1 443\r\n"), "192.0.2.7:1"},
		{"version 1, unknown", []byte("PROXY UNKNOWN\r\n"), ""},
		{"version 1, unknown with addresses", []byte("PROXY UNKNOWN ffff:: ffff:: 65535 65535\r\n"), ""},
		{"version 2, IPv4", version2(proxyFor, proxyTCP4, four), "192.0.2.7:40000"},
		{"version 2, IPv6", version2(proxyFor, proxyTCP6, six), "[2001:db8::7]:40000"},
		{"version 2, TLVs", version2(proxyFor, proxyTCP4, slices.Concat(four, tlvs)), "192.0.2.7:40000"},
		{"version 2, as many TLVs as may be", version2(proxyFor, proxyTCP4, append(four, make([]byte, maxProxyTail-len(four))...)), "192.0.2.7:40000"},
		{"version 2, local", version2(proxyLocal, proxyUnspecified, nil), ""},
		{"version 2, local with addresses", version2(proxyLocal, proxyTCP4, four), ""},
		{"version 2, local of any family", version2(proxyLocal, 0x31, make([]byte, 216)), ""},
		{"version 2, unspecified", version2(proxyFor, proxyUnspecified, tlvs), ""},
	} {
		n, from, err := proxyHeader(append(slices.Clone(tt.header), "SSH-2.0-x"...))
		if err != nil || n != len(tt.header) || from.IsValid() != (tt.want != "") || tt.want != "" && from.String() != tt.want {
			t.Errorf("%s: got %d bytes, %s, %v, want %d, %s", tt.name, n, from, err, len(tt.header), tt.want)
		}
		for i := range len(tt.header) {
			if _, _, err := proxyHeader(tt.header[:i]); !errors.Is(err, errMore) {
				t.Fatalf("%s: first %d bytes: got %v, want to be asked for more", tt.name, i, err)
			}
		}
	}
}

func TestProxyHeaderRefuses(t *testing.T) {
	for name, header := range map[string][]byte{
		"SSH":                           []byte("SSH-2.0-OpenSSH_9.9\r\n"),
		"TLS":                           {22, 3, 1},
		"another case":                  []byte("proxy TCP4"),
		"version 1 without end":         []byte("PROXY UNKNOWN " + strings.Repeat("x", 100)),
		"version 1, end beyond the cap": []byte("PROXY UNKNOWN " + strings.Repeat("x", 92) + "\r\n"),
		"version 1, a name":             []byte("PROXY TCP4 localhost 198.51.100.1 40000 443\r\n"),
		"version 1, the other family":   []byte("PROXY TCP4 2001:db8::7 2001:db8::1 40000 443\r\n"),
		"version 1, IPv4 as IPv6":       []byte("PROXY TCP6 192.0.2.7 192.0.2.8 40000 443\r\n"),
		"version 1, a zone":             []byte("PROXY TCP6 fe80::1%eth0 fe80::2 40000 443\r\n"),
		"version 1, datagrams":          []byte("PROXY UDP4 192.0.2.7 198.51.100.1 40000 443\r\n"),
		"version 1, a port too high":    []byte("PROXY TCP4 192.0.2.7 198.51.100.1 65536 443\r\n"),
		"version 1, a port with zeros":  []byte("PROXY TCP4 192.0.2.7 198.51.100.1 040 443\r\n"),
		"version 1, a sign":             []byte("PROXY TCP4 192.0.2.7 198.51.100.1 +40 443\r\n"),
		"version 1, two spaces":         []byte("PROXY TCP4  192.0.2.7 198.51.100.1 40000 443\r\n"),
		"version 1, more words":         []byte("PROXY TCP4 192.0.2.7 198.51.100.1 40000 443 x\r\n"),
		"version 1, no words":           []byte("PROXY \r\n"),
		"version 2, version 3":          version2(0x31, proxyTCP4, four),
		"version 2, another command":    version2(0x22, proxyTCP4, four),
		"version 2, datagrams":          version2(proxyFor, 0x12, four),
		"version 2, a UNIX socket":      version2(proxyFor, 0x31, make([]byte, 216)),
		"version 2, another family":     version2(proxyFor, 0x41, four),
		"version 2, no protocol":        version2(proxyFor, 0x10, four),
		"version 2, cut addresses":      version2(proxyFor, proxyTCP6, four),
		"version 2, over the cap":       version2(proxyFor, proxyTCP4, append(four, make([]byte, maxProxyTail)...)),
	} {
		if n, from, err := proxyHeader(header); err == nil || errors.Is(err, errMore) {
			t.Errorf("%s: got %d bytes, %s, %v, want it refused", name, n, from, err)
		}
	}
}

func FuzzProxyHeader(f *testing.F) {
	f.Add([]byte("PROXY TCP4 192.0.2.7 198.51.100.1 40000 443\r\n"))
	f.Add([]byte("PROXY TCP6 2001:db8::7 2001:db8::1 40000 443\r\nSSH-2.0"))
	f.Add([]byte("PROXY UNKNOWN\r\n"))
	f.Add(version2(proxyFor, proxyTCP4, four))
	f.Add(version2(proxyFor, proxyTCP6, slices.Concat(six, tlvs)))
	f.Add(version2(proxyLocal, 0x31, make([]byte, 216)))
	f.Add(version2(proxyFor, 0x30, []byte("0")))
	f.Fuzz(func(t *testing.T, b []byte) {
		n, from, err := proxyHeader(b)
		if err != nil {
			if n != 0 || from.IsValid() {
				t.Errorf("got %d bytes and %s beside %v", n, from, err)
			}
			return
		}
		if n < len("PROXY \r\n") || n > len(b) || n > proxyV2Fix+maxProxyTail {
			t.Errorf("got a header of %d bytes in %d", n, len(b))
		}
		// A header says the same whatever comes behind it, and nothing less than all of it is one.
		if n2, again, err := proxyHeader(append(slices.Clone(b[:n]), 0, 1)); err != nil || n2 != n || again != from {
			t.Errorf("got %d, %s, then %d, %s, %v with other bytes behind it", n, from, n2, again, err)
		}
		if _, _, err := proxyHeader(b[:n-1]); !errors.Is(err, errMore) {
			t.Errorf("got %v without the last byte, want to be asked for more", err)
		}
	})
}
