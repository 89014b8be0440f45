package sshd_test

import (
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/audit"
)

// Auditing panics once. The connection where this happens is closed and counts no session any more.
func TestAPanicEndsOneConnectionOnly(t *testing.T) {
	t.Parallel()
	broken := false
	f := newFixture(t, nil)
	f.cancel()
	record := f.cfg.Audit
	f.cfg.Audit = func(e audit.Event) error {
		f.mu.Lock()
		b := broken
		f.mu.Unlock()
		if b {
			panic("test")
		}
		return record(e)
	}
	f.serve()
	one := fullRole("ops")
	one.Options.MaxSessions = access.Set(1) // the one that panicked must not count any more
	f.allow(one)
	bad, good := f.client(), f.client()
	f.mu.Lock()
	broken = true
	f.mu.Unlock()
	s := newSession(t, bad)
	_ = s.Run("true")
	if err := bad.Wait(); err == nil {
		t.Error("got the connection open, want it closed")
	}
	f.mu.Lock()
	broken = false
	f.mu.Unlock()
	if got := run(t, good, "echo fine", ""); got.out != "fine\n" {
		t.Errorf("got %+v on the other connection, want it undisturbed", got)
	}
	if !strings.Contains(f.logged(), "panic on a connection") {
		t.Error("got nothing in the log, want the panic")
	}
}

// What a client sent before a panic still arrives while the connection is closed.
func TestAPanicLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	flood := func(send func(name string, wantReply bool, payload []byte) (bool, error)) {
		for range 100 {
			_, _ = send("more", false, nil)
		}
	}
	for name, provoke := range map[string]func(*ssh.Client){
		"in a session": func(c *ssh.Client) {
			ch, _, err := c.OpenChannel("session", nil)
			if err != nil {
				t.Fatal(err)
			}
			_, _ = ch.SendRequest("exec", false, encode("true"))
			flood(ch.SendRequest)
		},
		"in a request": func(c *ssh.Client) {
			_, _, _ = c.SendRequest("tcpip-forward", false, encode("127.0.0.1", uint32(0)))
			flood(func(name string, reply bool, data []byte) (bool, error) {
				_, _, err := c.SendRequest(name, reply, data)
				return false, err
			})
		},
		"at a channel": func(c *ssh.Client) {
			for range 40 {
				go func() { _, _, _ = c.OpenChannel("direct-tcpip", nil) }()
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t, nil)
			f.cancel()
			sent := make(chan struct{})
			f.cfg.Audit = func(audit.Event) error { <-sent; panic("test") }
			f.allow(fullRole("ops", "exec", "forward-remote"))
			f.serve()
			c := f.client()
			provoke(c)
			close(sent)
			_ = c.Wait()
			_, done := f.drain()
			receive(t, "the connection's end", done)
		})
	}
}
