package forward_test

import (
	"bytes"
	"io"
	"strings"
	"testing"

	"github.com/threshold-access/threshold/tsh/forward"
)

// talk is what a SOCKS client says, and what it hears.
type talk struct {
	io.Reader
	bytes.Buffer
}

func (t *talk) Read(b []byte) (int, error) { return t.Reader.Read(b) }

func TestSOCKSRequests(t *testing.T) {
	for _, tt := range []struct {
		name, said string
		to         forward.Addr
		heard      string // before the answer
	}{
		{"version 4", "\x04\x01\x00\x50\x7f\x00\x00\x01me\x00", port("127.0.0.1", 80), ""},
		{"version 4a", "\x04\x01\x01\xbb\x00\x00\x00\x01\x00db.example.com\x00", port("db.example.com", 443), ""},
		{"version 5, a name", "\x05\x01\x00\x05\x01\x00\x03\x02db\x00\x50", port("db", 80), "\x05\x00"},
		{"version 5, IPv4", "\x05\x02\x02\x00\x05\x01\x00\x01\x0a\x00\x00\x01\x00\x50", port("10.0.0.1", 80), "\x05\x00"},
		{"version 5, IPv6", "\x05\x01\x00\x05\x01\x00\x04" + strings.Repeat("\x00", 15) + "\x01\x00\x50", port("::1", 80), "\x05\x00"},
	} {
		c := &talk{Reader: strings.NewReader(tt.said + "more")}
		got, err := forward.ReadSOCKS(c)
		if err != nil || got.To != tt.to || got.Version != tt.said[0] {
			t.Errorf("%s: got %+v, %v, want %+v", tt.name, got, err, tt.to)
		}
		if c.String() != tt.heard {
			t.Errorf("%s: got %q answered, want %q", tt.name, c.String(), tt.heard)
		}
		if rest, _ := io.ReadAll(c.Reader); string(rest) != "more" {
			t.Errorf("%s: got %q left to read, want what follows the request untouched", tt.name, rest)
		}
		if yes, no := got.Reply(true), got.Reply(false); bytes.Equal(yes, no) || len(yes) != len(no) {
			t.Errorf("%s: got the answers %q and %q, want two that differ", tt.name, yes, no)
		}
	}
}

func TestSOCKSRequestsThatAreRefused(t *testing.T) {
	for name, said := range map[string]string{
		"nothing":                         "",
		"HTTP":                            "GET http://db/ HTTP/1.1\r\n",
		"version 4, to listen":            "\x04\x02\x00\x50\x7f\x00\x00\x01\x00",
		"version 4, a user without end":   "\x04\x01\x00\x50\x7f\x00\x00\x01" + strings.Repeat("u", 1000),
		"version 4a, no name":             "\x04\x01\x00\x50\x00\x00\x00\x01\x00\x00",
		"version 4a, a name with a line":  "\x04\x01\x00\x50\x00\x00\x00\x01\x00a\nb\x00",
		"version 5, cut off":              "\x05\x01\x00\x05\x01\x00\x03\x09db",
		"version 5, only with a password": "\x05\x01\x02",
		"version 5, no methods":           "\x05\x00",
		"version 5, by UDP":               "\x05\x01\x00\x05\x03\x00\x01\x0a\x00\x00\x01\x00\x50",
		"version 5, another address type": "\x05\x01\x00\x05\x01\x00\x09\x0a\x00\x00\x01\x00\x50",
		"version 5, port 0":               "\x05\x01\x00\x05\x01\x00\x01\x0a\x00\x00\x01\x00\x00",
		"version 5, an empty name":        "\x05\x01\x00\x05\x01\x00\x03\x00\x00\x50",
	} {
		if got, err := forward.ReadSOCKS(&talk{Reader: strings.NewReader(said)}); err == nil {
			t.Errorf("%s: got %+v, want refused", name, got)
		}
	}
	c := &talk{Reader: strings.NewReader("\x05\x01\x02")}
	if _, err := forward.ReadSOCKS(c); err == nil || c.String() != "\x05\xff" {
		t.Errorf("got %q, %v, want a client that must authenticate told so", c.String(), err)
	}
}

func FuzzReadSOCKS(f *testing.F) {
	f.Add([]byte("\x04\x01\x00\x50\x7f\x00\x00\x01me\x00"))
	f.Add([]byte("\x04\x01\x01\xbb\x00\x00\x00\x01\x00db\x00"))
	f.Add([]byte("\x05\x01\x00\x05\x01\x00\x03\x02db\x00\x50"))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := forward.ReadSOCKS(&talk{Reader: bytes.NewReader(b)})
		if err == nil &&
			(got.To.Host == "" || len(got.To.Host) > 255 || got.To.Port == 0 || strings.ContainsAny(got.To.Host, "\x00\r\n ")) {
			t.Errorf("got %+v, want an address that can be asked for", got)
		}
	})
}
