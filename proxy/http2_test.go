package proxy

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/threshold-access/threshold/internal/dial"
)

// floodBytes is far more than a client may send before the server has had enough of any of these.
const floodBytes = 32 << 20

// h2 opens an HTTP/2 connection by hand.
func (d *door) h2() (*tls.Conn, *http2.Framer) {
	d.t.Helper()
	conn, err := tls.Dial("tcp", d.addr, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { conn.Close() })
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		d.t.Fatal(err)
	}
	f := http2.NewFramer(conn, conn)
	if err := f.WriteSettings(); err != nil {
		d.t.Fatal(err)
	}
	return conn, f
}

// header is a request of the front page, compressed.
func header(d *door) []byte {
	var b bytes.Buffer
	e := hpack.NewEncoder(&b)
	for _, f := range [][2]string{{":method", "GET"}, {":scheme", "https"}, {":authority", d.addr}, {":path", "/"}} {
		_ = e.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]}) // to a buffer
	}
	return b.Bytes()
}

func TestABrowserIsToldHowManyStreamsItMayHave(t *testing.T) {
	d := openDoor(t, time.Second)
	_, f := d.h2()
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

// HTTP/2 lets a client abuse a connection without ever waiting for an answer. The connection ends, and others are served on.
func TestHTTP2FloodsEndTheirConnection(t *testing.T) {
	d := openDoor(t, time.Second)
	request := header(d)
	for _, tt := range []struct {
		name  string
		frame func(f *http2.Framer, i uint32) error // the i-th, from 0
	}{
		{"rapid reset (CVE-2023-44487)", func(f *http2.Framer, i uint32) error {
			err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: 2*i + 1, BlockFragment: request, EndStream: true, EndHeaders: true})
			return errors.Join(err, f.WriteRSTStream(2*i+1, http2.ErrCodeCancel))
		}},
		{"a header without end (CVE-2023-45288)", func(f *http2.Framer, i uint32) error {
			if i == 0 {
				return f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: request})
			}
			var b bytes.Buffer
			_ = hpack.NewEncoder(&b).WriteField(hpack.HeaderField{Name: "x", Value: string(make([]byte, 8<<10)), Sensitive: true}) // to a buffer
			return f.WriteContinuation(1, false, b.Bytes())
		}},
		{"more streams than there may be", func(f *http2.Framer, i uint32) error {
			return f.WriteHeaders(http2.HeadersFrameParam{StreamID: 2*i + 1, BlockFragment: request, EndHeaders: true})
		}},
		{"pings that are never read", func(f *http2.Framer, i uint32) error { return f.WritePing(false, [8]byte{byte(i)}) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			conn, f := d.h2()
			_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
			sent := 0
			for i := uint32(0); sent < floodBytes; i++ {
				if err := tt.frame(f, i); err != nil {
					break
				}
				sent += len(request)
			}
			if sent >= floodBytes {
				t.Error("got all of it taken, want the connection ended")
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
