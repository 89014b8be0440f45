package mux

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"slices"
	"testing"
	"time"
)

// helloOf returns the ClientHello that crypto/tls sends: one record.
func helloOf(t testing.TB, cfg *tls.Config) []byte {
	t.Helper()
	near, far := net.Pipe()
	defer far.Close()
	go func() {
		_ = tls.Client(near, cfg).Handshake()
		near.Close()
	}()
	var head [recordHeaderLen]byte
	if _, err := io.ReadFull(far, head[:]); err != nil {
		t.Fatal(err)
	}
	body := make([]byte, int(head[3])<<8|int(head[4]))
	if _, err := io.ReadFull(far, body); err != nil {
		t.Fatal(err)
	}
	return append(head[:], body...)
}

// fragment splits the record of a ClientHello into records of size bytes.
func fragment(hello []byte, size int) []byte {
	var out []byte
	for body := hello[recordHeaderLen:]; len(body) > 0; {
		n := min(size, len(body))
		out = append(append(out, recordHandshake, 3, 1, byte(n>>8), byte(n)), body[:n]...)
		body = body[n:]
	}
	return out
}

// The ALPN names are found in ClientHellos of several forms, also when one is split over several records.
// Every beginning of a ClientHello gives errIncomplete.
func TestHelloProtocols(t *testing.T) {
	t.Parallel()
	one := helloOf(t, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"threshold-dial"}})
	two := helloOf(t, &tls.Config{
		InsecureSkipVerify: true,
		NextProtos:         []string{"h2", "http/1.1"},
		MaxVersion:         tls.VersionTLS12,
	})
	none := helloOf(t, &tls.Config{InsecureSkipVerify: true, ServerName: "proxy.example.com"})
	for _, tt := range []struct {
		name  string
		hello []byte
		want  []string
	}{
		{"one name", one, []string{"threshold-dial"}},
		{"two names, TLS 1.2", two, []string{"h2", "http/1.1"}},
		{"no name", none, nil},
		{"split into small records", fragment(one, 60), []string{"threshold-dial"}},
		{"with bytes after it", append(slices.Clone(one), "early data"...), []string{"threshold-dial"}},
	} {
		got, err := helloProtocols(tt.hello)
		if err != nil || !slices.Equal(got, tt.want) {
			t.Errorf("%s: got %q, %v, want %q", tt.name, got, err, tt.want)
		}
	}
	for n := range len(one) {
		if _, err := helloProtocols(one[:n]); !errors.Is(err, errIncomplete) {
			t.Fatalf("first %d bytes: got %v, want errIncomplete", n, err)
		}
	}
}

// Bytes that cannot become a valid ClientHello are refused at once: the connection need not wait for more.
func TestHelloProtocolsRefuses(t *testing.T) {
	t.Parallel()
	good := helloOf(t, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	other := slices.Clone(good)
	other[recordHeaderLen] = 2 // a ServerHello
	long := slices.Clone(good)
	long[recordHeaderLen+1] = 2 // 128 KiB
	broken := slices.Clone(good)
	broken[recordHeaderLen+handshakeHeaderLen+2+32] = 200 // a session id that is too long
	for name, b := range map[string][]byte{
		"another record type":     {23, 3, 3, 0, 1, 0},
		"another version":         {22, 9, 9, 0, 1, 1},
		"an empty record":         {22, 3, 1, 0, 0},
		"a record over 16 KiB":    {22, 3, 1, 0x40, 1},
		"another message":         other,
		"a length of 128 KiB":     long,
		"lengths that disagree":   broken,
		"one byte in each record": fragment(good, 1),
	} {
		if got, err := helloProtocols(b); err == nil || errors.Is(err, errIncomplete) {
			t.Errorf("%s: got %q, %v, want it refused", name, got, err)
		}
	}
}

// A threshold-* name counts only when the client offers it alone. Together with any other name it is refused.
func TestChooseProtocol(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		offered []string
		want    string
		ok      bool
	}{
		{nil, "", true},
		{[]string{"h2", "http/1.1"}, "", true},
		{[]string{"threshold-auth"}, "threshold-auth", true},
		{[]string{"threshold-dial", "threshold-tunnel"}, "", false},
		{[]string{"h2", "threshold-auth"}, "", false},
		{[]string{"threshold-auth", "threshold-auth"}, "", false},
		{[]string{"h2", "Threshold-Auth"}, "", false},
	} {
		got, err := chooseProtocol(tt.offered)
		if got != tt.want || (err == nil) != tt.ok {
			t.Errorf("%q: got %q, %v, want %q, ok %v", tt.offered, got, err, tt.want, tt.ok)
		}
	}
}

// detect never panics, and bytes that come later do not change what it has decided for a TLS connection.
func FuzzDetect(f *testing.F) {
	f.Add([]byte("SSH-2.0-OpenSSH_9.9\r\n"))
	f.Add([]byte("GET / HTTP/1.1\r\n"))
	f.Add([]byte{22, 3, 1, 0, 5, 1, 0, 0, 1, 3})
	f.Add(helloOf(f, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"threshold-auth"}}))
	f.Add(fragment(helloOf(f, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}}), 50))
	f.Fuzz(func(t *testing.T, b []byte) {
		proto, offered, err := detect(b)
		if err != nil && proto == protocolSSH {
			t.Errorf("got SSH and %v", err)
		}
		if err != nil || proto != protocolTLS {
			return
		}
		// Bytes that follow must not change the result.
		proto2, offered2, err := detect(append(slices.Clone(b), 0, 1, 2))
		if err != nil || proto2 != proto || !slices.Equal(offered2, offered) {
			t.Errorf("got %q, and %q, %v with bytes after it", offered, offered2, err)
		}
	})
}

// oneByteConn returns one byte from each Read.
type oneByteConn struct {
	net.Conn
	r io.Reader
}

func (d oneByteConn) Read(b []byte) (int, error)    { return d.r.Read(b[:min(1, len(b))]) }
func (oneByteConn) SetReadDeadline(time.Time) error { return nil }

func TestSniffKeepsEveryByte(t *testing.T) {
	t.Parallel()
	hello := helloOf(t, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"threshold-tunnel"}})
	c := newClientConn(oneByteConn{r: bytes.NewReader(hello)})
	proto, offered, err := c.sniff(time.Time{})
	if err != nil || proto != protocolTLS || !slices.Equal(offered, []string{"threshold-tunnel"}) {
		t.Fatalf("got %v, %q, %v, want TLS for threshold-tunnel", proto, offered, err)
	}
	if got, _ := io.ReadAll(c); !bytes.Equal(got, hello) {
		t.Errorf("got %d bytes from Read, want all %d that were read ahead", len(got), len(hello))
	}
}

// A ClientHello of the greatest size that is announced does not fit with its record headers: it is refused
// when maxHelloBytes have been read.
func TestSniffStopsAtItsSizeLimit(t *testing.T) {
	t.Parallel()
	var sent bytes.Buffer
	sent.Write([]byte{recordHandshake, 3, 1, 0x40, 0, typeClientHello, 0, 0x40, 0}) // 16 KiB are announced
	sent.Write(make([]byte, maxRecord-handshakeHeaderLen))
	sent.Write([]byte{recordHandshake, 3, 1, 0, handshakeHeaderLen})
	sent.Write(make([]byte, 2*maxHelloBytes))
	total := sent.Len()
	c := newClientConn(readerConn{r: &sent})
	if _, _, err := c.sniff(time.Time{}); !errors.Is(err, errHelloTooLong) {
		t.Errorf("got %v, want errHelloTooLong", err)
	}
	if read := total - sent.Len(); read != maxHelloBytes {
		t.Errorf("got %d bytes read, want %d", read, maxHelloBytes)
	}
}

// readerConn reads from r, 1,000 bytes at a time.
type readerConn struct {
	net.Conn
	r io.Reader
}

func (d readerConn) Read(b []byte) (int, error)    { return d.r.Read(b[:min(1000, len(b))]) }
func (readerConn) SetReadDeadline(time.Time) error { return nil }
