package tsh_test

import (
	"io"
	"testing"

	"golang.org/x/crypto/ssh"
)

// A node may send two megabytes before the user's side has read any: that is x/crypto's window, which a
// distant node needs to be fast (1 MB at a round trip of 50 ms is 20 MB a second). It is also the bound for a
// slow reader.
func TestNodeMaySendOneMegabyteAhead(t *testing.T) {
	t.Parallel()
	const ahead, rest = 1 << 20, 5 << 20
	tc := newTestCluster(t)
	unbounded := make(chan bool, 1)
	tc.addNode("web-1").command = func(_ string, ch ssh.Channel) ssh.Signal {
		_, _ = ch.Write(make([]byte, ahead)) // would block here if the window were smaller
		all := make(chan struct{})
		go func() { defer close(all); _, _ = ch.Write(make([]byte, rest)) }()
		for range 400 { // without a bound, each round trip would let the goroutine send at least a packet
			_, _ = ch.SendRequest("ping", true, nil)
		}
		select {
		case <-all:
			unbounded <- true
		default:
			unbounded <- false
		}
		<-all
		return ""
	}
	c := tc.loggedIn()
	out, stdout := io.Pipe()
	codes := c.start(stdout, io.Discard, "ssh", "web-1", "x")
	if _, err := io.ReadFull(out, make([]byte, 1)); err != nil { // and no more for now
		t.Fatal(err)
	}
	if <-unbounded {
		t.Errorf("got all %d bytes accepted, want a bound", ahead+rest)
	}
	if n, err := io.CopyN(io.Discard, out, ahead+rest-1); err != nil {
		t.Errorf("got %d bytes and %v, want the rest", n, err)
	}
	if code := <-codes; code != 0 {
		t.Errorf("got %d, want 0", code)
	}
}
