package testnet_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/threshold-access/threshold/internal/testnet"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestBothEndsKnowTheAddresses(t *testing.T) {
	t.Parallel()
	client, server := testnet.Pipe()
	for _, tt := range []struct {
		conn          net.Conn
		local, remote string
	}{
		{client, testnet.ClientAddr, testnet.ListenAddr},
		{server, testnet.ListenAddr, testnet.ClientAddr},
	} {
		local, remote := tt.conn.LocalAddr().String(), tt.conn.RemoteAddr().String()
		if local != tt.local || remote != tt.remote {
			t.Errorf("got %s to %s, want %s to %s", local, remote, tt.local, tt.remote)
		}
	}
}

// A write of more than the buffer waits until the peer reads. A half-close leaves the other direction open.
func TestWritesAreBufferedAndThenWaitForTheReader(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		client, server := testnet.Pipe()
		sent := bytes.Repeat([]byte("0123456789abcdef"), 16<<10) // 256 KiB
		wrote := false
		go func() {
			if n, err := client.Write(sent); n != len(sent) || err != nil {
				t.Errorf("got %d, %v, want all written", n, err)
			}
			wrote = true
			client.CloseWrite()
		}()
		synctest.Wait()
		if wrote {
			t.Error("got 256 KiB written before anything was read, want a bounded buffer")
		}
		if got, err := io.ReadAll(server); err != nil || !bytes.Equal(got, sent) {
			t.Errorf("got %d bytes, %v, want the %d sent", len(got), err, len(sent))
		}
		if _, err := server.Write([]byte("answer")); err != nil { // the other direction is still open
			t.Error(err)
		}
		answer := make([]byte, 6)
		if _, err := io.ReadFull(client, answer); err != nil || string(answer) != "answer" {
			t.Errorf("got %q, %v after a half-close, want the answer", answer, err)
		}
	})
}

// After Close, reads and writes at both ends have the results of a TCP connection.
func TestCloseEndsBothEnds(t *testing.T) {
	t.Parallel()
	client, server := testnet.Pipe()
	client.Write([]byte("last"))
	read := make(chan error)
	go func() {
		_, err := client.Read(make([]byte, 1))
		read <- err
	}()
	client.Close()
	if err := <-read; !errors.Is(err, net.ErrClosed) {
		t.Errorf("a read that waited: got %v, want net.ErrClosed", err)
	}
	if _, err := client.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a write after Close: got %v, want net.ErrClosed", err)
	}
	if got, err := io.ReadAll(server); err != nil || string(got) != "last" {
		t.Errorf("the peer: got %q, %v, want what was written before", got, err)
	}
	if _, err := server.Write([]byte("x")); !errors.Is(err, syscall.EPIPE) {
		t.Errorf("a write of the peer: got %v, want EPIPE", err)
	}
}

// Deadlines can be set, replaced and taken away, and wake readers and writers that wait.
func TestDeadlines(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		client, server := testnet.Pipe()
		start := time.Now()
		client.SetReadDeadline(start.Add(time.Hour))
		client.SetReadDeadline(start.Add(time.Minute)) // replaces the first
		_, err := client.Read(make([]byte, 1))
		if !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != time.Minute {
			t.Errorf("got %v after %s, want a deadline after 1m", err, time.Since(start))
		}
		var netErr net.Error
		if !errors.As(err, &netErr) || !netErr.Timeout() {
			t.Errorf("got %v, want a net.Error that is a timeout", err)
		}
		client.SetReadDeadline(time.Time{})
		server.Write([]byte("x"))
		if n, err := client.Read(make([]byte, 1)); n != 1 || err != nil {
			t.Errorf("after the deadline was taken away: got %d, %v, want a byte", n, err)
		}
		client.SetWriteDeadline(time.Now().Add(time.Second))
		if _, err := io.Copy(client, zeros{}); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("got %v from a write that nobody reads, want a deadline", err)
		}
		server.SetDeadline(time.Now().Add(-1))
		if _, err := server.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("got %v with a deadline in the past, want it passed", err)
		}
	})
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { return len(b), nil }

// An HTTP server and client work over the network in memory.
func TestAListenerServesHTTP(t *testing.T) {
	t.Parallel()
	listener := testnet.Listen(testnet.ListenAddr)
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, r.RemoteAddr)
	})}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(listener) }()
	client := &http.Client{
		Transport: &http.Transport{DialContext: listener.DialContext, DisableKeepAlives: true},
	}
	resp, err := client.Get("http://anywhere.example/")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, err := io.ReadAll(resp.Body); err != nil || string(b) != testnet.ClientAddr {
		t.Errorf("got %q, %v, want the client's address", b, err)
	}
	srv.Close()
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		t.Errorf("got %v, want the server closed", err)
	}
}

func TestDialingAListenerThatDoesNotAccept(t *testing.T) {
	t.Parallel()
	listener := testnet.Listen(testnet.ListenAddr)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := listener.DialContext(ctx, "tcp", ""); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want the context's error", err)
	}
	listener.Close()
	listener.Close() // once more changes nothing
	if _, err := listener.DialFrom(t.Context(), testnet.ClientAddr); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("got %v from a closed listener, want connection refused", err)
	}
	if _, err := listener.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v from Accept, want net.ErrClosed", err)
	}
}
