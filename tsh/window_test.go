package tsh_test

import (
	"io"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// A node may send two megabytes before the user's side has read any: that is x/crypto's window, which a
// distant node needs to be fast (1 MB at a round trip of 50 ms is 20 MB a second). It is also the bound for a
// slow reader.
func TestNodeMaySendOneMegabyteAhead(t *testing.T) {
	t.Parallel()
	const ahead, rest = 1 << 20, 5 << 20
	tc := newTestCluster(t)
	wroteAhead, wroteRest := make(chan struct{}), make(chan struct{})
	tc.addNode("web-1").command = func(_ string, ch ssh.Channel) ssh.Signal {
		_, _ = ch.Write(make([]byte, ahead))
		close(wroteAhead)
		_, _ = ch.Write(make([]byte, rest))
		close(wroteRest)
		return ""
	}
	c := tc.loggedIn()
	out, stdout := io.Pipe()
	codes := c.start(stdout, io.Discard, "ssh", "web-1", "x")
	if _, err := io.ReadFull(out, make([]byte, 1)); err != nil { // and no more for now
		t.Fatal(err)
	}
	select {
	case <-wroteAhead:
	case <-time.After(10 * time.Second):
		t.Fatal("the node could not send a megabyte to a slow reader")
	}
	select {
	case <-wroteRest:
		t.Errorf("got all %d bytes accepted, want a bound", ahead+rest)
	default:
	}
	if n, err := io.CopyN(io.Discard, out, ahead+rest-1); err != nil {
		t.Errorf("got %d bytes and %v, want the rest", n, err)
	}
	if code := <-codes; code != 0 {
		t.Errorf("got %d, want 0", code)
	}
}
