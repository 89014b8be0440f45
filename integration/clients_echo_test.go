//go:build integration

package integration

import (
	"bytes"
	"crypto/rand"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/threshold-access/threshold/integration/harness"
)

// startEcho runs an echo server until the test ends, as the target of forwards. Every account may connect
// to its Unix socket.
func startEcho(t *testing.T, network, address string) string {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	if network == "unix" {
		if err := os.Chmod(address, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer conn.Close()
				_, _ = io.Copy(conn, conn)
			})
		}
	})
	t.Cleanup(func() { l.Close(); all.Wait() })
	return l.Addr().String()
}

// checkClientEcho sends a megabyte to an echo server through a client, and wants it back. It dials until
// the client listens.
func checkClientEcho(t *testing.T, dial func() (net.Conn, error)) {
	t.Helper()
	conn := dialUntilUp(t, dial)
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(harness.Timeout)) // not every forwarded connection has deadlines
	sent := make([]byte, 1<<20)
	_, _ = rand.Read(sent)
	var writing sync.WaitGroup
	defer writing.Wait()
	writing.Go(func() {
		_, _ = conn.Write(sent)
		if half, ok := conn.(interface{ CloseWrite() error }); ok {
			_ = half.CloseWrite()
		}
	})
	got := make([]byte, len(sent))
	if n, err := io.ReadFull(conn, got); err != nil || !bytes.Equal(got, sent) {
		t.Errorf("got %d bytes back, %v, want the %d bytes sent", n, err, len(sent))
		conn.Close()
	}
}

// dialUntilUp dials until it succeeds, because a client does not report when it listens. It fails the test
// after harness.Timeout.
func dialUntilUp(t *testing.T, dial func() (net.Conn, error)) net.Conn {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(harness.Timeout)
	for {
		conn, err := dial()
		if err == nil {
			return conn
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("dial: %v", err)
		}
	}
}

// dialer returns a function that dials an address.
func dialer(network, address string) func() (net.Conn, error) {
	return func() (net.Conn, error) { return net.Dial(network, address) }
}

// sharedDir is a temporary folder in which every account may write.
func sharedDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "th") // short: a socket's path has at most 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	return dir
}

// writeRandomFile writes a file of random bytes and returns them.
func writeRandomFile(t *testing.T, file string, size int) []byte {
	t.Helper()
	data := make([]byte, size)
	_, _ = rand.Read(data)
	if err := os.WriteFile(file, data, 0o644); err != nil {
		t.Fatal(err)
	}
	return data
}

// wantFile fails the test unless the file has the content.
func wantFile(t *testing.T, file string, want []byte) {
	t.Helper()
	if got, err := os.ReadFile(file); err != nil || !bytes.Equal(got, want) {
		const format = "%s: got %d bytes, %v, want the %d bytes sent"
		t.Errorf(format, filepath.Base(file), len(got), err, len(want))
	}
}
