package harness_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/threshold-access/threshold/integration/harness"
)

// serve runs a server until the test ends, and returns its address. It handles one connection after the
// other.
func serve(t *testing.T, handle func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			handle(c)
			c.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return l.Addr().String()
}

func connect(t *testing.T, addr string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// The count includes TCP's handshake, and each round trip takes the time that was asked for.
func TestRelayCountsRoundTrips(t *testing.T) {
	echo := func(c net.Conn) { _, _ = io.Copy(c, c) }
	greet := func(c net.Conn) { fmt.Fprint(c, "x"); echo(c) }
	for _, test := range []struct {
		name     string
		server   func(net.Conn)
		greeting bool // the server sends a byte first
		requests int  // each is sent after the answer to the one before
		want     int
	}{
		{"one request", echo, false, 1, 2},
		{"three requests, each after the answer", echo, false, 3, 4},
		{"a greeting", greet, true, 0, 2},
		{"a greeting and two requests", greet, true, 2, 4},
	} {
		t.Run(test.name, func(t *testing.T) {
			const roundTrip = 40 * time.Millisecond
			r := harness.StartRelay(t, serve(t, test.server), roundTrip)
			start := time.Now()
			c, b := connect(t, r.Addr), make([]byte, 1)
			if test.greeting {
				if _, err := io.ReadFull(c, b); err != nil {
					t.Fatal(err)
				}
			}
			for range test.requests {
				if _, err := c.Write(b); err != nil {
					t.Fatal(err)
				}
				if _, err := io.ReadFull(c, b); err != nil {
					t.Fatal(err)
				}
			}
			if got := r.Trips(); got != test.want {
				t.Errorf("got %d round trips, want %d\n%s", got, test.want, r.Log())
			}
			if took := time.Since(start); took < time.Duration(test.want)*roundTrip {
				t.Errorf("got %s, want at least %d times %s", took, test.want, roundTrip)
			}
		})
	}
}

// A client that does not wait for answers needs one round trip, however often it writes.
func TestRelayCountsNoRoundTripTwice(t *testing.T) {
	r := harness.StartRelay(t, serve(t, func(c net.Conn) { _, _ = io.CopyN(c, c, 2) }), 200*time.Millisecond)
	c := connect(t, r.Addr)
	for range 2 {
		if _, err := c.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := io.ReadAll(c); err != nil {
		t.Fatal(err)
	}
	if got := r.Trips(); got != 2 {
		t.Errorf("got %d, want 2\n%s", got, r.Log())
	}
	r.Reset()
	if got := r.Trips(); got != 0 || len(r.Flights()) != 0 {
		t.Errorf("got %d and %v after a reset, want nothing", got, r.Flights())
	}
}

// All bytes arrive in order in both directions, and the end of one direction does not end the other.
func TestRelayKeepsBytesAndHalfCloses(t *testing.T) {
	received := make(chan []byte, 1)
	r := harness.StartRelay(t, serve(t, func(c net.Conn) {
		b, _ := io.ReadAll(c)
		received <- b
		_, _ = c.Write(b)
	}), 2*time.Millisecond)
	c := connect(t, r.Addr)
	sent := bytes.Repeat([]byte("0123456789abcdef"), 1<<18) // 4 MB
	if _, err := c.Write(sent); err != nil {
		t.Fatal(err)
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got := <-received; !bytes.Equal(got, sent) {
		t.Fatalf("the server got %d bytes, want the %d sent", len(got), len(sent))
	}
	if back, err := io.ReadAll(c); err != nil || !bytes.Equal(back, sent) {
		t.Errorf("got %d bytes back (%v), want %d", len(back), err, len(sent))
	}
}

func TestRelayWithoutAServerEndsTheConnection(t *testing.T) {
	addr := harness.FreeAddr(t, "127.0.0.1")
	c := connect(t, harness.StartRelay(t, addr, time.Millisecond).Addr)
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("got a byte, want the connection closed")
	}
}
