package tunnel

import (
	"bytes"
	"io"
	"net"
	"slices"
	"testing"
	"testing/iotest"
	"time"

	"github.com/hashicorp/yamux"

	"github.com/threshold-access/threshold/internal/coalesce"
	"github.com/threshold-access/threshold/internal/identity"
)

// frame is a frame of the multiplexer.
func frame(kind byte, flags byte, length byte, data string) []byte {
	return append([]byte{0, kind, 0, flags, 0, 0, 0, 1, 0, 0, 0, length}, data...)
}

// A peer that sends only pings and reads nothing loses the connection after about maxPings.
func TestAFloodOfPingsEndsTheTunnel(t *testing.T) {
	near, far := net.Pipe()
	flood := make(chan int)
	go func() {
		sent := 0
		for ; sent < 100_000; sent++ { // without reading
			if _, err := far.Write(frame(muxPing, muxSYN, 1, "")); err != nil {
				break
			}
		}
		flood <- sent
	}()
	if _, err := Accept(t.Context(), near, identity.Peer{}, "proxy-1", time.Now); err == nil {
		t.Error("got a tunnel, want an end")
	}
	far.Close()
	if sent := <-flood; sent > 2*maxPings {
		t.Errorf("got %d pings taken, want about %d", sent, maxPings)
	}
}

// Only pings between frames count, not bytes of data that look like them or answers to pings, and the count
// starts again after pingPeriod. Frames arrive byte by byte here.
func TestPingsAreCountedBetweenData(t *testing.T) {
	Bubble(t, func(t *testing.T) {
		const muxACK = 2 // the flag of an answer
		ping := string(frame(muxPing, muxSYN, 0, ""))
		var wire bytes.Buffer
		for range maxPings {
			wire.WriteString(ping)
			wire.Write(frame(muxData, 0, byte(2*len(ping)), ping+ping)) // pings within data are data
			wire.Write(frame(muxPing, muxACK, 0, ""))                   // an answer to a ping
		}
		guarded := &guardedConn{}
		read := func(b []byte) error {
			_, err := io.Copy(writerFunc(guarded.scanFrames), iotest.OneByteReader(bytes.NewReader(b)))
			return err
		}
		if err := read(wire.Bytes()); err != nil {
			t.Errorf("got %v for as many pings as are allowed", err)
		}
		if err := read(frame(muxPing, muxSYN, 0, "")); err == nil {
			t.Error("got one ping more through, want an error")
		}
		<-time.After(pingPeriod + 1) // in the bubble's time
		if err := read(frame(muxPing, muxSYN, 0, "")); err != nil {
			t.Errorf("got %v for a ping after a pause", err)
		}
	})
}

type writerFunc func([]byte) error

func (f writerFunc) Write(b []byte) (int, error) { return len(b), f(b) }

// A proxy that opens streams and never closes its side of them loses the tunnel when they exceed maxStreams.
func TestAProxyThatOpensStreamsWithoutEndLosesTheTunnel(t *testing.T) {
	Bubble(t, func(t *testing.T) {
		near, far := net.Pipe()
		proxy, err := yamux.Server(near, muxConfig())
		if err != nil {
			t.Fatal(err)
		}
		session, err := yamux.Client(newGuardedConn(far), muxConfig())
		if err != nil {
			t.Fatal(err)
		}
		uplink := &Uplink{session: session, streams: make(chan acceptedStream)}
		uplink.goroutines.Go(uplink.acceptStreams)
		go func() {
			for { // the node closes its side at once, and the proxy never does
				conn, _, err := uplink.Accept()
				if err != nil {
					return
				}
				conn.Close()
			}
		}()
		opened := 0
		for ; opened < 2*maxStreams; opened++ {
			s, err := proxy.OpenStream()
			if err == nil {
				err = writeMessage(s, frameHeader, Header{V: 1, From: "192.0.2.7:1", Protocol: "ssh"})
			}
			if err != nil {
				break
			}
		}
		if opened > maxStreams+backlog+pendingHeaders {
			t.Errorf("got %d streams opened, want an end at about %d", opened, maxStreams)
		}
		proxy.Close()
		uplink.Close()
	})
}

// recordingConn records each write.
type recordingConn struct {
	net.Conn
	pieces []string
}

func (s *recordingConn) Write(b []byte) (int, error) {
	s.pieces = append(s.pieces, string(b))
	return len(b), nil
}

func TestADataFrameIsWrittenInOnePiece(t *testing.T) {
	var wire recordingConn
	under := coalesce.UnderTLS(&wire)
	guarded := &guardedConn{Conn: under, transport: under}
	data, last, ping := frame(muxData, 0, 5, ""), frame(muxData, 4, 0, ""), frame(muxPing, muxSYN, 0, "")
	for _, b := range []string{string(ping), string(data), "hello", string(last), string(data), "again",
		string(ping)} {
		if n, err := guarded.Write([]byte(b)); n != len(b) || err != nil {
			t.Fatalf("got %d, %v, want %d", n, err, len(b))
		}
	}
	want := []string{string(ping), string(data) + "hello", string(last), string(data) + "again", string(ping)}
	if !slices.Equal(wire.pieces, want) {
		t.Errorf("got %q, want %q", wire.pieces, want)
	}
}
