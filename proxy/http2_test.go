package proxy

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"net"
	"runtime"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/threshold-access/threshold/internal/dial"
)

// floodFrames is far more than a server takes before it closes the connection.
const floodFrames = 1 << 20

// rapidFrames is fewer. A fast server can keep up with requests that are cancelled, and need not close the
// connection.
const rapidFrames = 1 << 13

// h2 opens an HTTP/2 connection with a small receive buffer, so that answers that are not read soon block
// the server. Writes are buffered until Flush.
func (p *testProxy) h2() (*tls.Conn, *bufio.Writer, *http2.Framer) {
	p.t.Helper()
	raw, err := net.Dial("tcp", p.addr)
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { raw.Close() })
	if err := raw.(*net.TCPConn).SetReadBuffer(4 << 10); err != nil {
		p.t.Fatal(err)
	}
	conn := tls.Client(raw, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	out := bufio.NewWriterSize(conn, 16<<10)
	f := http2.NewFramer(out, conn)
	if _, err := out.WriteString(http2.ClientPreface); err != nil {
		p.t.Fatal(err)
	}
	if err := errors.Join(f.WriteSettings(), out.Flush()); err != nil {
		p.t.Fatal(err)
	}
	return conn, out, f
}

// homePageHeader is the header block of a request for the home page.
func homePageHeader(p *testProxy) []byte {
	var b bytes.Buffer
	e := hpack.NewEncoder(&b)
	for _, f := range [][2]string{
		{":method", "GET"}, {":scheme", "https"}, {":authority", p.addr}, {":path", "/"},
	} {
		_ = e.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]}) // a buffer does not fail
	}
	return b.Bytes()
}

func TestHTTP2StreamLimitIsAnnounced(t *testing.T) {
	t.Parallel()
	p := startProxy(t, time.Second)
	_, _, f := p.h2()
	frame, err := f.ReadFrame()
	if err != nil {
		t.Fatal(err)
	}
	settings, ok := frame.(*http2.SettingsFrame)
	if !ok {
		t.Fatalf("got %v first, want settings", frame)
	}
	if n, _ := settings.Value(http2.SettingMaxConcurrentStreams); n == 0 || n > 32 {
		t.Errorf("got %d streams at once, want 1 to 32", n)
	}
	if n, _ := settings.Value(http2.SettingMaxHeaderListSize); n == 0 || n > 32<<10 {
		t.Errorf("got %d bytes of header, want at most 32 KiB", n)
	}
}

// HTTP/2 lets a client flood a connection without waiting for answers. The cost is bounded, the connection
// is closed, and other clients are served. The test counts goroutines, so it does not run in parallel with
// others.
func TestHTTP2FloodsEndTheirConnection(t *testing.T) {
	running := startProxy(t, time.Second)
	request := homePageHeader(running)
	rapidReset := func(f *http2.Framer, i uint32) error {
		err := f.WriteHeaders(http2.HeadersFrameParam{
			StreamID: 2*i + 1, BlockFragment: request, EndStream: true, EndHeaders: true,
		})
		return errors.Join(err, f.WriteRSTStream(2*i+1, http2.ErrCodeCancel))
	}
	endlessHeader := func(f *http2.Framer, i uint32) error {
		if i == 0 {
			return f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: request})
		}
		var b bytes.Buffer
		field := hpack.HeaderField{Name: "x", Value: string(make([]byte, 8<<10)), Sensitive: true}
		_ = hpack.NewEncoder(&b).WriteField(field) // a buffer does not fail
		return f.WriteContinuation(1, false, b.Bytes())
	}
	openStream := func(f *http2.Framer, i uint32) error {
		return f.WriteHeaders(http2.HeadersFrameParam{
			StreamID: 2*i + 1, BlockFragment: request, EndHeaders: true,
		})
	}
	ping := func(f *http2.Framer, i uint32) error { return f.WritePing(false, [8]byte{byte(i)}) }
	for _, tt := range []struct {
		name    string
		frames  uint32
		frame   func(f *http2.Framer, i uint32) error // writes frame i, from 0
		answers bool                                  // the server answers, and the client does not read
	}{
		{"rapid reset (CVE-2023-44487)", rapidFrames, rapidReset, false},
		{"a header without end (CVE-2023-45288)", floodFrames, endlessHeader, false},
		{"more streams than the limit", rapidFrames, openStream, false},
		{"pings whose answers are not read", floodFrames, ping, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			conn, out, f := running.h2()
			defer conn.NetConn().Close() // without a TLS alert, for which there is no room
			_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
			before, most := runtime.NumGoroutine(), 0
			var err error
			for i := uint32(0); i < tt.frames && err == nil; i++ {
				err = tt.frame(f, i)
				most = max(most, runtime.NumGoroutine())
			}
			err = errors.Join(err, out.Flush())
			// TCP may also stop a client that reads nothing: once all buffers are full, its writes block.
			var netErr net.Error
			blocked := errors.As(err, &netErr) && netErr.Timeout()
			if tt.frames == floodFrames && err == nil || blocked && !tt.answers {
				t.Errorf("got %v after all frames, want the connection closed", err)
			}
			if most > before+200 {
				t.Errorf("got %d goroutines, %d before: want the number of streams bounded", most, before)
			}
			resp, err := running.browser().Get("https://" + running.addr + dial.PingPath)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
		})
	}
	if err := running.stop(); err != nil {
		t.Error(err)
	}
}
