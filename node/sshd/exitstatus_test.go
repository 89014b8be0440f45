package sshd_test

import (
	"io"
	"sync"
	"testing"

	"golang.org/x/crypto/ssh"
)

// OpenSSH closes a channel as soon as it has seen the end of the output, if its own input has ended: a status
// sent after that is lost, and the person is told 255.
func TestExitStatusReachesAClientThatClosesAtEOF(t *testing.T) {
	t.Parallel()
	r := newFixture(t, nil)
	c := r.client(r.signer("ops"))
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

func runHastySession(t *testing.T, c *ssh.Client) {
	ch, reqs, err := c.OpenChannel("session", nil)
	if err != nil {
		t.Error(err)
		return
	}
	if ok, err := ch.SendRequest("exec", true, ssh.Marshal(struct{ Command string }{"exit 3"})); err != nil ||
		!ok {
		t.Errorf("exec: got %v, %v", ok, err)
	}
	_ = ch.CloseWrite()
	_, _ = io.Copy(io.Discard, ch)
	_ = ch.Close()
	told := false
	for req := range reqs {
		told = told || req.Type == "exit-status"
	}
	if !told {
		t.Error("got no exit status, want 3")
	}
}
