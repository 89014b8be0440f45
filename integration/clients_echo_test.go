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

// startEcho sends everything back until the story ends. It is what forwarding leads to; anybody may use its
// socket.
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

// checkClientEcho sends a megabyte over what dial reaches and wants it back. It dials until something
// answers.
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

// dialUntilUp dials until something answers: a client does not say when it has begun to listen.
func dialUntilUp(t *testing.T, dial func() (net.Conn, error)) net.Conn {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	late := time.After(harness.Timeout)
	for {
		conn, err := dial()
		if err == nil {
			return conn
		}
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("nothing answers: %v", err)
		}
	}
}

// dialer dials an address.
func dialer(network, address string) func() (net.Conn, error) {
	return func() (net.Conn, error) { return net.Dial(network, address) }
}

// sharedDir is a folder that the account, too, may enter and write to.
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

// wantFile fails the story unless the file holds the bytes.
func wantFile(t *testing.T, file string, want []byte) {
	t.Helper()
	if got, err := os.ReadFile(file); err != nil || !bytes.Equal(got, want) {
		t.Errorf(
			"%s: got %d bytes, %v, want the %d bytes sent",
			filepath.Base(file),
			len(got),
			err,
			len(want),
		)
	}
}
