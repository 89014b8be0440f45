package tsh_test

import (
	"io"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/tsh"
)

// A node may send two megabytes before the person's side has taken any: x/crypto's window, which a far node
// needs to be fast (1 MB at 50 ms of round trip are 20 MB a second). Somebody who reads slowly holds no more
// than that.
func TestNodeMaySendOneMegabyteAhead(t *testing.T) {
	const ahead, most = 1 << 20, 5 << 20
	w := newTestCluster(t)
	h := w.addNode("web-1")
	written, all := make(chan struct{}), make(chan struct{})
	h.command = func(_ string, ch ssh.Channel) ssh.Signal {
		_, _ = ch.Write(make([]byte, ahead))
		close(written)
		_, _ = ch.Write(make([]byte, most))
		close(all)
		return ""
	}
	c := w.loggedIn()
	out, in := io.Pipe()
	codes := make(chan int, 1)
	go func() {
		codes <- tsh.Main(t.Context(), tsh.Env{Args: []string{"ssh", "web-1", "x"}, Stdin: strings.NewReader(""), Stdout: in, Stderr: io.Discard, Getenv: c.getenv})
		_ = in.Close()
	}()
	if _, err := io.ReadFull(out, make([]byte, 1)); err != nil { // and no more for now
		t.Fatal(err)
	}
	select {
	case <-written:
	case <-time.After(10 * time.Second):
		t.Fatal("a megabyte did not fit between the node and a slow reader")
	}
	select {
	case <-all:
		t.Errorf("got all of %d bytes taken, want a bound", ahead+most)
	default:
	}
	if n, err := io.Copy(io.Discard, out); err != nil || n != ahead+most-1 || <-codes != 0 {
		t.Errorf("got %d bytes and %v, want the rest", n, err)
	}
}
