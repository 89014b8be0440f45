package tunnel

import (
	"encoding/binary"
	"errors"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/tunnel/mux"
)

// A peer that sends only pings and reads nothing loses the connection after a few.
func TestAFloodOfPingsEndsTheTunnel(t *testing.T) {
	near, far := net.Pipe()
	flood := make(chan int)
	go func() {
		const kindPing = 6 // in mux/DESIGN.md
		sent := 0
		for ; sent < 100_000; sent++ { // without reading
			ping := binary.BigEndian.AppendUint32([]byte{kindPing, 0, 0, 0, 0, 0}, uint32(sent))
			if _, err := far.Write(ping); err != nil {
				break
			}
		}
		flood <- sent
	}()
	proxy := Proxy{Name: "proxy-1", Now: time.Now}
	if _, err := Accept(t.Context(), near, identity.Peer{}, proxy); err == nil {
		t.Error("got a tunnel, want an end")
	}
	far.Close()
	if sent := <-flood; sent > 64 {
		t.Errorf("got %d pings taken, want about 32", sent)
	}
}

// A proxy that opens streams and never ends them gets those beyond maxStreams refused, and one more when
// another has ended.
func TestStreamsBeyondTheBoundOfANodeAreRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		hostile := muxConfig(false)
		hostile.MaxStreams = 2 * maxStreams
		proxy := mux.New(near, hostile)
		defer proxy.Close()
		uplink := &Uplink{
			session:  mux.New(far, muxConfig(true)),
			services: []Service{SSH},
			streams:  make(chan acceptedStream),
		}
		defer uplink.Close()
		uplink.goroutines.Go(uplink.acceptStreams)
		open := func() (accepted net.Conn, err error) {
			s, err := proxy.Open()
			if err != nil {
				return nil, err
			}
			_ = headerMessage.write(s, validHeader)
			refusal := make(chan error, 1)
			go func() {
				_, err := s.Read(make([]byte, 1))
				refusal <- err
			}()
			select {
			case accepted := <-uplink.streams:
				return accepted.conn, nil
			case err := <-refusal:
				return nil, err
			}
		}
		var first net.Conn
		for i := range maxStreams {
			c, err := open()
			if err != nil {
				t.Fatalf("stream %d: %v", i, err)
			}
			if i == 0 {
				first = c
			}
		}
		if _, err := open(); !errors.Is(err, mux.ResetError{Code: mux.Refused}) {
			t.Fatalf("got %v for one stream too many, want a refusal", err)
		}
		first.Close()
		if _, err := open(); err != nil {
			t.Errorf("got %v after a stream ended, want one more", err)
		}
	})
}
