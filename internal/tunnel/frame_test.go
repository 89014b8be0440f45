package tunnel

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/threshold-access/threshold/internal/tunnel/mux"
)

func headerBytes(t testing.TB, h Header) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := writeMessage(&b, frameHeader, h); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestHeaderRoundTrip(t *testing.T) {
	for _, want := range []Header{{V: 1, From: "192.0.2.7:1", Protocol: "dial"},
		{V: 1, From: "[2001:db8::1]:65535", Protocol: "ssh"}, {V: 1, From: "[fe80::1%eth0.7]:1",
			Protocol: "ssh"}} {
		got, err := readHeader(bytes.NewReader(headerBytes(t, want)))
		if err != nil || got != want {
			t.Errorf("got %+v, %v, want %+v", got, err, want)
		}
	}
}

// A header that is cut off, too large, of another version, or with text that must not reach logs and
// terminals is refused.
func TestReadHeaderRefuses(t *testing.T) {
	big := append([]byte{byte(frameHeader)}, binary.BigEndian.AppendUint32(nil, MaxHeaderBytes+1)...)
	for name, b := range map[string][]byte{
		"nothing":            nil,
		"half a frame":       headerBytes(t, Header{V: 1, From: "192.0.2.7:1", Protocol: "dial"})[:12],
		"a newer version":    headerBytes(t, Header{V: 2, From: "192.0.2.7:1", Protocol: "dial"}),
		"a name as address":  headerBytes(t, Header{V: 1, From: "web-1:22", Protocol: "dial"}),
		"a zone of odd text": headerBytes(t, Header{V: 1, From: "[fe80::1%\x1b[2J]:1", Protocol: "dial"}),
		"a zone of words": headerBytes(t,
			Header{V: 1, From: "[fe80::1%eth0 22 ::1]:1", Protocol: "dial"}),
		"no protocol":           headerBytes(t, Header{V: 1, From: "192.0.2.7:1"}),
		"a frame of other kind": {byte(frameRules), 0, 0, 0, 2, '{', '}'},
		"text that is no JSON":  {byte(frameHeader), 0, 0, 0, 2, 'h', 'i'},
		"more than allowed":     append(big, make([]byte, MaxHeaderBytes+1)...),
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
	f.Add(headerBytes(f, Header{V: 1, From: "192.0.2.7:1", Protocol: "dial"}))
	f.Add([]byte{byte(frameHeader), 0, 0, 0, 2, '{', '}'})
	f.Add([]byte{byte(frameHeader), 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := readHeader(bytes.NewReader(b))
		if err != nil {
			return
		}
		if h.check() != nil || clientAddr(h) == nil {
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
		uplink := &Uplink{session: session, streams: make(chan acceptedStream)}
		uplink.goroutines.Go(uplink.acceptStreams)
		mute, err := proxy.Open()
		if err != nil {
			t.Fatal(err)
		}
		good, err := proxy.Open()
		if err != nil {
			t.Fatal(err)
		}
		if err := writeMessage(good, frameHeader,
			Header{V: 1, From: "192.0.2.7:1", Protocol: "ssh"}); err != nil {
			t.Fatal(err)
		}
		if _, h, err := uplink.Accept(); err != nil || h.Protocol != "ssh" {
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
