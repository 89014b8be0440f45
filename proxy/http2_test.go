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

// floodFrames is far more than a client may send before the server has had enough of any of these.
const floodFrames = 1 << 20

// rapidFrames is fewer: a server that is quick enough keeps up with requests that are taken back, and need
// not end the connection.
const rapidFrames = 1 << 13

// h2 opens an HTTP/2 connection by hand, on which little can be under way towards the client. What is written
// to it goes out in large pieces, or with Flush.
func (d *testProxy) h2() (*tls.Conn, *bufio.Writer, *http2.Framer) {
	d.t.Helper()
	raw, err := net.Dial("tcp", d.addr)
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { raw.Close() })
	if err := raw.(*net.TCPConn).SetReadBuffer(4 << 10); err != nil {
		d.t.Fatal(err)
	}
	conn := tls.Client(raw, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	out := bufio.NewWriterSize(conn, 16<<10)
	f := http2.NewFramer(out, conn)
	if _, err := out.WriteString(http2.ClientPreface); err != nil {
		d.t.Fatal(err)
	}
	if err := errors.Join(f.WriteSettings(), out.Flush()); err != nil {
		d.t.Fatal(err)
	}
	return conn, out, f
}

// homePageHeader is a request of the front page, compressed.
func homePageHeader(d *testProxy) []byte {
	var b bytes.Buffer
	e := hpack.NewEncoder(&b)
	for _, f := range [][2]string{{":method", "GET"}, {":scheme", "https"}, {":authority", d.addr}, {":path", "/"}} {
		_ = e.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]}) // to a buffer
	}
	return b.Bytes()
}

func TestHTTP2StreamLimitIsAnnounced(t *testing.T) {
	d := startProxy(t, time.Second)
	_, _, f := d.h2()
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

// HTTP/2 lets a client abuse a connection without ever waiting for an answer. What that costs is bounded, the
// connection ends, and others are served on.
func TestHTTP2FloodsEndTheirConnection(t *testing.T) {
	d := startProxy(t, time.Second)
	request := homePageHeader(d)
	for _, tt := range []struct {
		name   string
		frames uint32
		frame  func(f *http2.Framer, i uint32) error // the i-th, from 0
		deaf   bool                                  // there are answers, which nobody reads
	}{
		{"rapid reset (CVE-2023-44487)", rapidFrames, func(f *http2.Framer, i uint32) error {
			err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: 2*i + 1, BlockFragment: request, EndStream: true, EndHeaders: true})
			return errors.Join(err, f.WriteRSTStream(2*i+1, http2.ErrCodeCancel))
		}, false},
		{"a header without end (CVE-2023-45288)", floodFrames, func(f *http2.Framer, i uint32) error {
			if i == 0 {
				return f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: request})
			}
			var b bytes.Buffer
			_ = hpack.NewEncoder(&b).WriteField(hpack.HeaderField{Name: "x", Value: string(make([]byte, 8<<10)), Sensitive: true}) // to a buffer
			return f.WriteContinuation(1, false, b.Bytes())
		}, false},
		{"more streams than there may be", rapidFrames, func(f *http2.Framer, i uint32) error {
			return f.WriteHeaders(http2.HeadersFrameParam{StreamID: 2*i + 1, BlockFragment: request, EndHeaders: true})
		}, false},
		{"pings that are never read", floodFrames, func(f *http2.Framer, i uint32) error { return f.WritePing(false, [8]byte{byte(i)}) }, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			conn, out, f := d.h2()
			defer conn.NetConn().Close() // at once: there is no room for an alert
			_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
			before, most := runtime.NumGoroutine(), 0
			var err error
			for i := uint32(0); i < tt.frames && err == nil; i++ {
				err = tt.frame(f, i)
				most = max(most, runtime.NumGoroutine())
			}
			err = errors.Join(err, out.Flush())
			// Who reads nothing may also be stopped by TCP: with its own buffers full it takes no
			// acknowledgement either, and gets no further.
			var slow net.Error
			stopped := errors.As(err, &slow) && slow.Timeout()
			if tt.frames == floodFrames && err == nil || stopped && !tt.deaf {
				t.Errorf("got %v after all of it, want the connection ended", err)
			}
			if most > before+200 {
				t.Errorf("got %d goroutines, %d before: want the streams bounded", most, before)
			}
			resp, err := d.browser().Get("https://" + d.addr + dial.PingPath)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
		})
	}
	if err := d.stop(); err != nil {
		t.Error(err)
	}
}
