package tunnel

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/threshold-access/threshold/internal/tunnel/mux"
	"github.com/threshold-access/threshold/internal/wire"
)

// validHeader is a header as proxies send it.
var validHeader = Header{
	V:          1,
	Service:    SSH,
	From:       netip.MustParseAddrPort("192.0.2.7:1"),
	Protocol:   "dial",
	ProxyID:    "00112233445566778899aabbccddeeff",
	Proxy:      "proxy-1",
	Connection: "0123456789abcdef0123456789abcdef",
	Features:   wire.Features{"faults"},
}

// headerBytes is validHeader with a change, as a frame.
func headerBytes(t testing.TB, change func(*Header)) []byte {
	t.Helper()
	h := validHeader
	change(&h)
	var b bytes.Buffer
	if err := headerMessage.write(&b, h); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestHeaderRoundTrip(t *testing.T) {
	t.Parallel()
	for _, from := range []string{"192.0.2.7:1", "[2001:db8::1]:65535", "[fe80::1%eth0.7]:1"} {
		want := validHeader
		want.From = netip.MustParseAddrPort(from)
		got, err := readHeader(bytes.NewReader(headerBytes(t, func(h *Header) { h.From = want.From })))
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v, %v, want %+v", got, err, want)
		}
	}
}

// A header that is cut off, too large, of another version, or with text that must not reach logs and
// terminals is refused.
func TestReadHeaderRefuses(t *testing.T) {
	t.Parallel()
	valid := headerBytes(t, func(*Header) {})
	edited := func(old, replacement string) []byte {
		body := strings.Replace(string(valid[frameHeaderBytes:]), old, replacement, 1)
		if body == string(valid[frameHeaderBytes:]) {
			t.Fatalf("the header has no %q", old)
		}
		return append(binary.BigEndian.AppendUint32([]byte{byte(frameHeader)}, uint32(len(body))), body...)
	}
	big := append([]byte{byte(frameHeader)}, binary.BigEndian.AppendUint32(nil, MaxHeaderBytes+1)...)
	for name, b := range map[string][]byte{
		"nothing":               nil,
		"half a frame":          valid[:12],
		"a newer version":       edited(`"v":1`, `"v":2`),
		"an unknown critical":   edited(`"v":1`, `"v":1,"critical":["region"]`),
		"a name as address":     edited("192.0.2.7:1", "web-1:22"),
		"no address":            edited(`"from":"192.0.2.7:1"`, `"from":""`),
		"a zone of odd text":    edited("192.0.2.7:1", `[fe80::1%\u001b[2J]:1`),
		"a zone of words":       edited("192.0.2.7:1", "[fe80::1%eth0 22 ::1]:1"),
		"no protocol":           edited(`"dial"`, `""`),
		"an address as service": edited(`"ssh"`, `"127.0.0.1:5432"`),
		"no service":            edited(`"service":"ssh",`, ""),
		"a proxy of odd text":   edited("proxy-1", `proxy\n1`),
		"a proxy without an id": edited("00112233445566778899aabbccddeeff", ""),
		"a connection in words": edited("0123456789abcdef0123456789abcdef", "connection one"),
		"features of odd text":  edited("faults", `fa\nults`),
		"a frame of other kind": {byte(frameRules), 0, 0, 0, 2, '{', '}'},
		"text that is no JSON":  {byte(frameHeader), 0, 0, 0, 2, 'h', 'i'},
		"more than is allowed":  append(big, make([]byte, MaxHeaderBytes+1)...),
	} {
		if h, err := readHeader(bytes.NewReader(b)); err == nil {
			t.Errorf("%s: got %+v, want refused", name, h)
		}
	}
}

// A length over the limit is refused before memory is allocated for it.
func TestReadFrameAllocatesNothingForAnOversizeLength(t *testing.T) {
	r := io.MultiReader(bytes.NewReader([]byte{byte(frameRules), 0xff, 0xff, 0xff, 0xff}), neverRead{t})
	if _, _, err := readFrame(r, MaxFrameBytes); err == nil {
		t.Error("got a frame of 4 GiB accepted, want refused")
	}
}

type neverRead struct{ t *testing.T }

func (n neverRead) Read([]byte) (int, error) {
	n.t.Error("got the body read, want the length refused first")
	return 0, io.EOF
}

func FuzzReadHeader(f *testing.F) {
	f.Add(headerBytes(f, func(*Header) {}))
	f.Add([]byte{byte(frameHeader), 0, 0, 0, 2, '{', '}'})
	f.Add([]byte{byte(frameHeader), 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := readHeader(bytes.NewReader(b))
		if err != nil {
			return
		}
		if h.check() != nil {
			t.Errorf("got %+v accepted", h)
		}
	})
}

func FuzzReadFrame(f *testing.F) {
	f.Add([]byte{byte(frameRules), 0, 0, 0, 3, 'a', 'b', 'c'})
	f.Add([]byte{9, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		kind, body, err := readFrame(bytes.NewReader(b), 64)
		if err != nil {
			return
		}
		var again bytes.Buffer
		if err := writeFrame(&again, kind, body); err != nil || !bytes.HasPrefix(b, again.Bytes()) {
			t.Errorf("got %x written back as %x, %v", b, again.Bytes(), err)
		}
	})
}

// A proxy that opens streams and sends no header blocks no other stream, and loses them after headerTimeout.
func TestStreamWithoutHeaderIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		proxy := mux.New(near, muxConfig(false))
		session := mux.New(far, muxConfig(true))
		uplink := &Uplink{session: session, services: []Service{SSH}, streams: make(chan acceptedStream)}
		uplink.goroutines.Go(uplink.acceptStreams)
		mute, err := proxy.Open()
		if err != nil {
			t.Fatal(err)
		}
		good, err := proxy.Open()
		if err != nil {
			t.Fatal(err)
		}
		if err := headerMessage.write(good, validHeader); err != nil {
			t.Fatal(err)
		}
		if _, h, err := uplink.Accept(); err != nil || h.Connection != validHeader.Connection {
			t.Fatalf("got %+v, %v, want the stream with the header", h, err)
		}
		start := time.Now()
		if _, err := mute.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("got %v, want EOF", err)
		}
		if took := time.Since(start); took != headerTimeout {
			t.Errorf("got it closed after %s, want %s", took, headerTimeout)
		}
		proxy.Close()
		uplink.Close()
	})
}

// A node that does not read its control stream cannot block a push for ever.
func TestPushToANodeThatDoesNotReadEndsTheTunnel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		proxy := mux.New(near, muxConfig(false))
		session := mux.New(far, muxConfig(true))
		if _, err := session.Open(); err != nil {
			t.Fatal(err)
		}
		raw, err := proxy.Accept(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		attached := &Attached{session: proxy, control: &stream{Stream: raw}}
		push := bytesPush(make([]byte, MaxFrameBytes))
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		if err := attached.PushRules(ctx, push); err == nil {
			t.Error("got a push that nobody read, want an error")
		}
		<-attached.Done()
		session.Close()
	})
}

// bytesPush is rules with one part.
type bytesPush []byte

func (p bytesPush) Digests() map[string][32]byte { return nil }

func (p bytesPush) Next(map[string][32]byte) (pieces [][]byte, head []byte) {
	return [][]byte{p}, []byte("head")
}
