package sshd_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/audit"
)

func roleWithOptions(o access.Options) access.Role {
	r := fullRole("ops")
	r.Options = o
	return r
}

func duration(d time.Duration) access.Duration { return access.Duration(d) }

// syncBuffer gathers what a program prints while others look.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (x *syncBuffer) Write(b []byte) (int, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.b.Write(b)
}
func (x *syncBuffer) String() string { x.mu.Lock(); defer x.mu.Unlock(); return x.b.String() }

// repeatUntilEnd does something at once and then again and again until the test is over.
func repeatUntilEnd(t *testing.T, d time.Duration, do func()) {
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(d)
		defer tick.Stop()
		for {
			do()
			select {
			case <-tick.C:
			case <-stop:
				return
			}
		}
	}()
	t.Cleanup(func() { close(stop); <-done })
}

// wantEnded checks what the client and the audit log are told of a session that the node ended.
func wantEnded(t *testing.T, r *fixture, got result, by, says string) {
	t.Helper()
	if got.status != 124 || got.signal != "" || !strings.Contains(got.err, "threshold: error: ") ||
		!strings.Contains(got.err, says) ||
		!strings.Contains(got.err, "threshold: hint: ") {
		t.Errorf("got %+v, want status 124 and stderr with %q and a hint", got, says)
	}
	eventually(t, "the end is recorded", func() bool { return len(r.recorded(audit.SessionEnded)) > 0 })
	end := r.recorded(audit.SessionEnded)[0]
	if end.Fields["ended_by"] != by || end.Fields["status"] != "124" || !strings.Contains(end.Reason, says) {
		t.Errorf("got event %+v, want it to say by %s, with %q", end, by, says)
	}
}

func TestAnIdleSessionEndsDespiteOutputAndKeepalives(t *testing.T) {
	t.Parallel()
	r := newFixture(t, nil)
	r.allow(roleWithOptions(access.Options{IdleTimeout: duration(time.Second)}))
	c := r.client()
	s := newSession(t, c)
	if err := s.RequestPty("xterm", 24, 80, nil); err != nil {
		t.Fatal(err)
	}
	var out, errs syncBuffer
	s.Stdout, s.Stderr = &out, &errs
	if err := s.Start(`trap '' WINCH URG; while :; do echo tick; sleep 0.05; done`); err != nil {
		t.Fatal(err)
	}
	repeatUntilEnd(t, 50*time.Millisecond, func() {
		_ = s.WindowChange(25, 81)
		_ = s.Signal(ssh.Signal("WINCH"))
		_ = s.Setenv("LANG", "C")
		_, _, _ = c.SendRequest("keepalive@openssh.com", true, nil)
		_, _ = s.SendRequest("keepalive@openssh.com", true, nil)
	})
	got := resultOf(t, s.Wait(), &out, &errs)
	if strings.Count(got.out, "tick") < 5 {
		t.Errorf("got %q, want output while nothing was typed", got.out)
	}
	if !strings.HasPrefix(got.err, "\r\n") || !strings.HasSuffix(got.err, "\r\n") {
		t.Errorf("got %q, want whole lines on a raw terminal", got.err)
	}
	wantEnded(t, r, got, "idle_timeout", "nothing was typed for 1s (role ops, idle_timeout)")
	if err := c.Wait(); err == nil { // hung up, too
		t.Error("got the connection closed by the client, want by the node")
	}
}

func TestTypingKeepsASessionOpen(t *testing.T) {
	t.Parallel()
	r := newFixture(t, nil)
	r.allow(roleWithOptions(access.Options{IdleTimeout: duration(2 * time.Second)}))
	s := newSession(t, r.client())
	var out, errs syncBuffer
	in, _ := s.StdinPipe()
	s.Stdout, s.Stderr = &out, &errs
	start := time.Now()
	if err := s.Start("cat"); err != nil {
		t.Fatal(err)
	}
	typing := time.NewTicker(200 * time.Millisecond)
	defer typing.Stop()
	for range 20 {
		<-typing.C
		if _, err := io.WriteString(in, "x"); err != nil {
			t.Fatalf("after %s: got %v, want the session to go on", time.Since(start), err)
		}
	}
	got := resultOf(t, s.Wait(), &out, &errs)
	if lasted := time.Since(start); lasted < 4*time.Second || len(got.out) != 20 {
		t.Errorf("got %d bytes back within %s, want 20 and an end after the last", len(got.out), lasted)
	}
	wantEnded(t, r, got, "idle_timeout", "nothing was typed for 2s")
}

func TestMaxSessionEndsAnActiveSession(t *testing.T) {
	t.Parallel()
	r := newFixture(t, nil)
	r.allow(
		roleWithOptions(access.Options{IdleTimeout: duration(time.Hour), MaxSession: duration(time.Second)}),
	)
	s := newSession(t, r.client())
	var out, errs syncBuffer
	in, _ := s.StdinPipe()
	s.Stdout, s.Stderr = &out, &errs
	if err := s.Start("cat"); err != nil {
		t.Fatal(err)
	}
	repeatUntilEnd(t, 50*time.Millisecond, func() { _, _ = io.WriteString(in, "x") })
	wantEnded(
		t,
		r,
		resultOf(t, s.Wait(), &out, &errs),
		"max_session",
		"it may last 1s (role ops, max_session)",
	)
}

func TestASessionEndsWithItsCertificateOnlyIfARoleSaysSo(t *testing.T) {
	t.Parallel()
	for _, ends := range []bool{true, false} {
		r := newFixture(t, nil)
		r.allow(roleWithOptions(access.Options{EndWithCertificate: ends}))
		until := time.Now().Add(2 * time.Second).Truncate(time.Second)
		short := r.cluster.UserSigner(
			r.cluster.User("alice@example.com", "ops"),
			func(c *ssh.Certificate) { c.ValidBefore = uint64(until.Unix()) },
			testAccount(),
		)
		got := run(t, r.client(short), "sleep 2.5; echo done", "")
		if !ends {
			if got.out != "done\n" || got.status != 0 {
				t.Errorf("got %+v, want the program to outlive the certificate", got)
			}
			continue
		}
		wantEnded(
			t,
			r,
			got,
			"end_with_certificate",
			"ended with its certificate (role ops, end_with_certificate)",
		)
	}
}

func TestSessionsOfOneUserAreCountedAcrossConnections(t *testing.T) {
	r := newFixture(t, nil)
	others := fullRole("others")
	r.allow(roleWithOptions(access.Options{MaxSessions: 2}), others)
	first, second := r.client(), r.client()
	hold := func(c *ssh.Client) (end func()) {
		s := newSession(t, c)
		in, _ := s.StdinPipe()
		if err := s.Start("cat"); err != nil {
			t.Fatal(err)
		}
		return func() { in.Close(); _ = s.Wait() }
	}
	end := hold(first)
	hold(second)
	for i, c := range []*ssh.Client{first, second, r.client()} {
		got := run(t, c, "echo in", "")
		if got.status != 126 || got.out != "" ||
			!strings.Contains(
				got.err,
				"alice@example.com has 2 sessions on web-1, and role ops, max_sessions allows 2",
			) ||
			!strings.Contains(got.err, "hint: end another session") {
			t.Errorf("client %d: got %+v, want a third session refused", i, got)
		}
	}
	if got := r.recorded(audit.SessionRefused); len(got) != 3 || got[0].Rule != "role ops, max_sessions" {
		t.Errorf("got refusals %+v, want three that name the limit", got)
	}
	if got := run(t, r.client(r.cluster.UserSigner(r.cluster.User("bob@example.com", "ops"), nil, testAccount())), "echo in", ""); got.out != "in\n" {
		t.Errorf("got %+v, want another person let in", got)
	}
	end()
	for range 5 { // one after the other, as each gives its place back
		if got := run(t, first, "echo in", ""); got.out != "in\n" {
			t.Errorf("got %+v, want a session in place of the one that ended", got)
		}
	}
	r.allow(roleWithOptions(access.Options{MaxSessions: 1}))
	if got := run(t, first, "echo in", ""); got.status != 126 {
		t.Errorf("got %+v, want the stricter role to hold at once", got)
	}
	r.allow(roleWithOptions(access.Options{}))
	if got := run(t, first, "echo in", ""); got.out != "in\n" {
		t.Errorf("got %+v, want no limit where the role has none", got)
	}
}

func TestARefusedOrFailedStartReleasesTheQuota(t *testing.T) {
	r := newFixture(t, nil)
	r.allow(roleWithOptions(access.Options{MaxSessions: 1}))
	c := r.client()
	r.mu.Lock()
	r.auditErr = errors.New("the disk is full")
	r.mu.Unlock()
	if got := run(t, c, "echo in", ""); got.status != 126 {
		t.Errorf("got %+v, want no session that cannot be recorded", got)
	}
	r.mu.Lock()
	r.auditErr = nil
	r.mu.Unlock()
	if got := run(t, c, "echo in", ""); got.out != "in\n" {
		t.Errorf("got %+v, want a session", got)
	}
}

func TestALimitEndsEverySessionOfAConnection(t *testing.T) {
	t.Parallel()
	r := newFixture(t, nil)
	r.allow(roleWithOptions(access.Options{MaxSession: duration(1500 * time.Millisecond)}))
	c := r.client()
	var all sync.WaitGroup
	for i := range 5 {
		s := newSession(t, c)
		var errs syncBuffer
		s.Stderr = &errs
		// The third ignores that it is hung up on, as a client that must wait for SIGKILL sees it.
		if err := s.Start(fmt.Sprintf("%s sleep 1000 & wait", map[bool]string{true: "trap '' HUP;"}[i == 2])); err != nil {
			t.Fatal(err)
		}
		all.Go(func() {
			if got := resultOf(t, s.Wait(), &syncBuffer{}, &errs); got.status != 124 ||
				!strings.Contains(got.err, "max_session") {
				t.Errorf("session %d: got %+v, want it ended by the node", i, got)
			}
		})
	}
	all.Wait()
}

func TestAClientThatReadsNoOutputIsDisconnected(t *testing.T) {
	t.Parallel()
	r := newFixture(t, nil)
	r.allow(roleWithOptions(access.Options{MaxSession: duration(time.Second)}))
	c := r.client()
	ch, reqs, err := c.OpenChannel("session", nil)
	if err != nil {
		t.Fatal(err)
	}
	go ssh.DiscardRequests(reqs)
	if _, err := ch.SendRequest("exec", true, ssh.Marshal(struct{ Command string }{"cat /dev/zero"})); err != nil {
		t.Fatal(err)
	}
	gone := make(chan error, 1)
	go func() { gone <- c.Wait() }()
	receive(t, "the end", gone) // endGrace after the limit
	eventually(t, "the end is recorded", func() bool { return len(r.recorded(audit.SessionEnded)) == 1 })
	if got := r.recorded(audit.SessionEnded)[0]; got.Fields["ended_by"] != "max_session" {
		t.Errorf("got %+v, want it recorded why", got)
	}
}

func TestManyChannelsShareTheWindowBudget(t *testing.T) {
	r := newFixture(t, nil)
	c := r.client()
	var took []int
	for range 12 {
		took = append(took, bytesSentAhead(t, c))
	}
	if took[0] != 1<<20 {
		t.Errorf("got %d bytes ahead on the first channel, want %d", took[0], 1<<20)
	}
	if last := took[len(took)-1]; last != 64<<10 {
		t.Errorf("got %d bytes ahead on the last channel of %v, want %d", last, took, 64<<10)
	}
	c.Close()
	eventually(t, "what is given back is given again", func() bool {
		c := r.client()
		defer c.Close() // or the next try would find less
		return bytesSentAhead(t, c) == 1<<20
	})
}

// bytesSentAhead is how much the node takes on a channel whose program takes nothing.
func bytesSentAhead(t *testing.T, c *ssh.Client) (sent int) {
	t.Helper()
	ch, reqs, err := c.OpenChannel("session", nil)
	if err != nil {
		t.Fatal(err)
	}
	go ssh.DiscardRequests(reqs)
	took := make(chan int, 1024)
	go func() {
		for chunk := make([]byte, 16<<10); ; { // nothing runs on the channel: nobody reads
			n, err := ch.Write(chunk)
			if err != nil {
				return
			}
			took <- n
		}
	}()
	for {
		select {
		case n := <-took:
			sent += n
		case <-time.After(200 * time.Millisecond):
			return sent
		}
	}
}
