package sshd_test

import (
	"io"
	"sync"
	"testing"

	"golang.org/x/crypto/ssh"
)

// OpenSSH closes a channel at the end of its output if the input has ended, too. A status that is sent after
// that is lost, and ssh exits with 255.
func TestExitStatusReachesAClientThatClosesAtEOF(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	c := f.client(f.signer("ops"))
	defer c.Close()
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 75 {
				runHastySession(t, c)
			}
		})
	}
	all.Wait()
}

// runHastySession runs a program and closes the channel at the end of its output.
func runHastySession(t *testing.T, c *ssh.Client) {
	ch, requests, err := c.OpenChannel("session", nil)
	if err != nil {
		t.Error(err)
		return
	}
	if ok, err := ch.SendRequest("exec", true, execPayload("exit 3")); err != nil || !ok {
		t.Errorf("exec: got %v, %v", ok, err)
	}
	_ = ch.CloseWrite()
	_, _ = io.Copy(io.Discard, ch)
	_ = ch.Close()
	hasStatus := false
	for req := range requests {
		hasStatus = hasStatus || req.Type == "exit-status"
	}
	if !hasStatus {
		t.Error("got no exit status, want 3")
	}
}
