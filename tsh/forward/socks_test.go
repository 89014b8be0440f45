package forward_test

import (
	"bytes"
	"io"
	"strings"
	"testing"

	"github.com/threshold-access/threshold/tsh/forward"
)

// socksConn is the connection of a SOCKS client: Reader has what it sends, Buffer what it receives.
type socksConn struct {
	io.Reader
	bytes.Buffer
}

func (c *socksConn) Read(b []byte) (int, error) { return c.Reader.Read(b) }

// Requests of versions 4, 4a and 5 are read to their last byte and no further, and are answered in their
// version.
func TestSOCKSRequests(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, sent string
		to         forward.Addr
		received   string // before the reply
	}{
		{"version 4", "\x04\x01\x00\x50\x7f\x00\x00\x01me\x00", port("127.0.0.1", 80), ""},
		{"version 4a", "\x04\x01\x01\xbb\x00\x00\x00\x01\x00db.example.com\x00", port("db.example.com", 443), ""},
		{"version 5, a name", "\x05\x01\x00\x05\x01\x00\x03\x02db\x00\x50", port("db", 80), "\x05\x00"},
		{
			"version 5, IPv4", "\x05\x02\x02\x00\x05\x01\x00\x01\x0a\x00\x00\x01\x00\x50",
			port("10.0.0.1", 80), "\x05\x00",
		},
		{
			"version 5, IPv6", "\x05\x01\x00\x05\x01\x00\x04" + strings.Repeat("\x00", 15) + "\x01\x00\x50",
			port("::1", 80), "\x05\x00",
		},
	} {
		c := &socksConn{Reader: strings.NewReader(tt.sent + "more")}
		got, err := forward.ReadSOCKS(c)
		if err != nil || got.To != tt.to || got.Version != tt.sent[0] {
			t.Errorf("%s: got %+v, %v, want %+v", tt.name, got, err, tt.to)
		}
		if c.String() != tt.received {
			t.Errorf("%s: got %q answered, want %q", tt.name, c.String(), tt.received)
		}
		if rest, _ := io.ReadAll(c.Reader); string(rest) != "more" {
			t.Errorf("%s: got %q left to read, want the bytes after the request", tt.name, rest)
		}
		if yes, no := got.Reply(true), got.Reply(false); bytes.Equal(yes, no) || len(yes) != len(no) {
			t.Errorf("%s: got the replies %q and %q, want two different ones", tt.name, yes, no)
		}
	}
}

// A request that is cut off, not CONNECT or without a usable address, and text that is no SOCKS, is an error.
func TestSOCKSRequestsThatAreRefused(t *testing.T) {
	t.Parallel()
	for name, sent := range map[string]string{
		"nothing":                              "",
		"HTTP":                                 "GET http://db/ HTTP/1.1\r\n",
		"version 4, to listen":                 "\x04\x02\x00\x50\x7f\x00\x00\x01\x00",
		"version 4, a user without end":        "\x04\x01\x00\x50\x7f\x00\x00\x01" + strings.Repeat("u", 1000),
		"version 4a, no name":                  "\x04\x01\x00\x50\x00\x00\x00\x01\x00\x00",
		"version 4a, a name with a line break": "\x04\x01\x00\x50\x00\x00\x00\x01\x00a\nb\x00",
		"version 5, cut off":                   "\x05\x01\x00\x05\x01\x00\x03\x09db",
		"version 5, only with a password":      "\x05\x01\x02",
		"version 5, no methods":                "\x05\x00",
		"version 5, UDP":                       "\x05\x01\x00\x05\x03\x00\x01\x0a\x00\x00\x01\x00\x50",
		"version 5, another address type":      "\x05\x01\x00\x05\x01\x00\x09\x0a\x00\x00\x01\x00\x50",
		"version 5, port 0":                    "\x05\x01\x00\x05\x01\x00\x01\x0a\x00\x00\x01\x00\x00",
		"version 5, an empty name":             "\x05\x01\x00\x05\x01\x00\x03\x00\x00\x50",
	} {
		if got, err := forward.ReadSOCKS(&socksConn{Reader: strings.NewReader(sent)}); err == nil {
			t.Errorf("%s: got %+v, want refused", name, got)
		}
	}
	c := &socksConn{Reader: strings.NewReader("\x05\x01\x02")}
	if _, err := forward.ReadSOCKS(c); err == nil || c.String() != "\x05\xff" {
		t.Errorf("got %q, %v, want the reply that no method is accepted", c.String(), err)
	}
}

func FuzzReadSOCKS(f *testing.F) {
	f.Add([]byte("\x04\x01\x00\x50\x7f\x00\x00\x01me\x00"))
	f.Add([]byte("\x04\x01\x01\xbb\x00\x00\x00\x01\x00db\x00"))
	f.Add([]byte("\x05\x01\x00\x05\x01\x00\x03\x02db\x00\x50"))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := forward.ReadSOCKS(&socksConn{Reader: bytes.NewReader(b)})
		if err != nil {
			return
		}
		host := got.To.Host
		if host == "" || len(host) > 255 || got.To.Port == 0 || strings.ContainsAny(host, "\x00\r\n ") {
			t.Errorf("got %+v, want a valid address", got)
		}
	})
}
