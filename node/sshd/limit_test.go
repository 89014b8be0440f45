package sshd_test

import (
	"bytes"
	"errors"
	"io"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/audit"
)

// roleWithOptions is a full role with options.
func roleWithOptions(o access.Options) access.Role {
	r := fullRole("ops")
	r.Options = o
	return r
}

// syncBuffer collects the output of a program. It may be read meanwhile.
type syncBuffer struct {
	mu      sync.Mutex // guards the fields below
	b       bytes.Buffer
	changed chan struct{} // closed with the next write; nil if nobody waits
}

func (x *syncBuffer) Write(b []byte) (int, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.changed != nil {
		close(x.changed)
		x.changed = nil
	}
	return x.b.Write(b)
}

func (x *syncBuffer) String() string { x.mu.Lock(); defer x.mu.Unlock(); return x.b.String() }

// await waits until the output contains text.
func (x *syncBuffer) await(t testing.TB, text string) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	for {
		x.mu.Lock()
		found := strings.Contains(x.b.String(), text)
		if x.changed == nil {
			x.changed = make(chan struct{})
		}
		changed := x.changed
		x.mu.Unlock()
		if found {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("got %q after 10 s, want %q in it", x.String(), text)
		}
	}
}

// repeatUntilEnd calls do at once, and again after each d until the test ends.
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

// wantEnded checks what the client and the audit log are told of a session that the node ended for a cause.
func wantEnded(t *testing.T, f *fixture, got result, cause, text string) {
	t.Helper()
	for _, part := range []string{"threshold: error: ", text, "threshold: hint: "} {
		if got.status != 124 || got.signal != "" || !strings.Contains(got.err, part) {
			t.Errorf("got %+v, want status 124 and stderr with %q", got, part)
		}
	}
	end := bodyOf[audit.SessionEnd](t, f.awaitEnd(t))
	if end.Cause != cause || !hasStatus(end, 124) || !strings.Contains(end.Reason, text) {
		t.Errorf("got event %+v, want it to name %s, with %q", end, cause, text)
	}
}

// The client sends everything that does not count as activity, and the program writes all the time.
func TestAnIdleSessionEndsDespiteOutputAndKeepalives(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	f.allow(roleWithOptions(access.Options{IdleTimeout: access.Set(access.Duration(time.Second))}))
	c := f.client()
	s := newSession(t, c)
	requestTerminal(t, s, "xterm")
	var out, errs syncBuffer
	s.Stdout, s.Stderr = &out, &errs
	startProgram(t, s, `trap '' WINCH URG; while :; do echo tick; sleep 0.05; done`)
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
	wantEnded(t, f, got, "idle_timeout", "nothing was typed for 1s (role ops, idle_timeout)")
	if err := c.Wait(); err == nil {
		t.Error("got the connection closed by the client, want by the node")
	}
}

// Input that comes in shorter intervals than the idle timeout keeps the session open for longer than that.
func TestTypingKeepsASessionOpen(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	f.allow(roleWithOptions(access.Options{IdleTimeout: access.Set(access.Duration(2 * time.Second))}))
	s := newSession(t, f.client())
	var out, errs syncBuffer
	in, _ := s.StdinPipe()
	s.Stdout, s.Stderr = &out, &errs
	start := time.Now()
	startProgram(t, s, "cat")
	typing := time.NewTicker(200 * time.Millisecond)
	defer typing.Stop()
	for range 15 {
		<-typing.C
		if _, err := io.WriteString(in, "x"); err != nil {
			t.Fatalf("after %s: got %v, want the session to go on", time.Since(start), err)
		}
	}
	got := resultOf(t, s.Wait(), &out, &errs)
	if lasted := time.Since(start); lasted < 3*time.Second || len(got.out) != 15 {
		t.Errorf("got %d bytes back within %s, want 15 and an end after the last", len(got.out), lasted)
	}
	wantEnded(t, f, got, "idle_timeout", "nothing was typed for 2s")
}

func TestMaxSessionEndsAnActiveSession(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	f.allow(roleWithOptions(access.Options{
		IdleTimeout: access.Set(access.Duration(time.Hour)),
		MaxSession:  access.Set(access.Duration(time.Second)),
	}))
	s := newSession(t, f.client())
	var out, errs syncBuffer
	in, _ := s.StdinPipe()
	s.Stdout, s.Stderr = &out, &errs
	startProgram(t, s, "cat")
	repeatUntilEnd(t, 50*time.Millisecond, func() { _, _ = io.WriteString(in, "x") })
	got := resultOf(t, s.Wait(), &out, &errs)
	wantEnded(t, f, got, "max_session", "it may last 1s (role ops, max_session)")
}

// The certificate expires while a program runs, with the option of the role and without it.
func TestASessionEndsWithItsCertificateOnlyIfARoleSaysSo(t *testing.T) {
	t.Parallel()
	for name, ends := range map[string]bool{"with the option": true, "without it": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t, nil)
			f.allow(roleWithOptions(access.Options{EndWithCertificate: access.Set(ends)}))
			end := time.Now().Add(2 * time.Second).Truncate(time.Second)
			short := f.cluster.UserSigner(
				f.cluster.User("alice@example.com", "ops"),
				func(c *ssh.Certificate) { c.ValidBefore = uint64(end.Unix()) },
				testAccount(),
			)
			got := run(t, f.client(short), "sleep 2.5; echo done", "")
			switch {
			case ends:
				const text = "ended with its certificate (role ops, end_with_certificate)"
				wantEnded(t, f, got, "end_with_certificate", text)
			case got.out != "done\n" || got.status != 0:
				t.Errorf("got %+v, want the program to outlive the certificate", got)
			}
		})
	}
}

// A user with two sessions on two connections gets no third on any connection. Other users do, and so does
// this user once a session has ended. A change of the role applies at once.
func TestSessionsOfOneUserAreCountedAcrossConnections(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	f.allow(roleWithOptions(access.Options{MaxSessions: access.Set(2)}))
	first, second := f.client(), f.client()
	hold := func(c *ssh.Client) (end func()) {
		s := newSession(t, c)
		in, _ := s.StdinPipe()
		startProgram(t, s, "cat")
		return func() { in.Close(); _ = s.Wait() }
	}
	end := hold(first)
	hold(second)
	const refusal = "alice@example.com has 2 sessions on web-1, and role ops, max_sessions allows 2"
	for i, c := range []*ssh.Client{first, second, f.client()} {
		got := run(t, c, "echo in", "")
		if got.status != 126 || got.out != "" || !strings.Contains(got.err, refusal) ||
			!strings.Contains(got.err, "hint: end another session") {
			t.Errorf("client %d: got %+v, want a third session refused", i, got)
		}
	}
	if got := f.recorded(audit.SessionRefused); len(got) != 3 ||
		bodyOf[audit.SessionRefusal](t, got[0]).Rule != "role ops, max_sessions" {
		t.Errorf("got refusals %+v, want three that name the limit", got)
	}
	bob := f.cluster.UserSigner(f.cluster.User("bob@example.com", "ops"), nil, testAccount())
	if got := run(t, f.client(bob), "echo in", ""); got.out != "in\n" {
		t.Errorf("got %+v, want another user admitted", got)
	}
	end()
	for range 5 { // one after the other: each releases its quota
		if got := run(t, first, "echo in", ""); got.out != "in\n" {
			t.Errorf("got %+v, want a session in place of the one that ended", got)
		}
	}
	f.allow(roleWithOptions(access.Options{MaxSessions: access.Set(1)}))
	if got := run(t, first, "echo in", ""); got.status != 126 {
		t.Errorf("got %+v, want the stricter role to apply at once", got)
	}
	f.allow(roleWithOptions(access.Options{}))
	if got := run(t, first, "echo in", ""); got.out != "in\n" {
		t.Errorf("got %+v, want no limit if the role has none", got)
	}
}

func TestARefusedOrFailedStartReleasesTheQuota(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	f.allow(roleWithOptions(access.Options{MaxSessions: access.Set(1)}))
	c := f.client()
	f.failAudit(errors.New("the disk is full"))
	if got := run(t, c, "echo in", ""); got.status != 126 {
		t.Errorf("got %+v, want no session that cannot be audited", got)
	}
	f.failAudit(nil)
	if got := run(t, c, "echo in", ""); got.out != "in\n" {
		t.Errorf("got %+v, want a session", got)
	}
}

// Five sessions of one connection are ended, one of them with a program that ignores SIGHUP.
func TestALimitEndsEverySessionOfAConnection(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	f.allow(roleWithOptions(access.Options{MaxSession: access.Set(access.Duration(1500 * time.Millisecond))}))
	c := f.client()
	var all sync.WaitGroup
	for i := range 5 {
		s := newSession(t, c)
		var errs syncBuffer
		s.Stderr = &errs
		command := "sleep 1000 & wait"
		if i == 2 { // this one needs SIGKILL
			command = "trap '' HUP; " + command
		}
		startProgram(t, s, command)
		all.Go(func() {
			got := resultOf(t, s.Wait(), &syncBuffer{}, &errs)
			if got.status != 124 || !strings.Contains(got.err, "max_session") {
				t.Errorf("session %d: got %+v, want it ended by the node", i, got)
			}
		})
	}
	all.Wait()
}

// The program cannot end, because its output has nowhere to go: the node closes the connection after
// endGrace.
func TestAClientThatReadsNoOutputIsDisconnected(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	f.allow(roleWithOptions(access.Options{MaxSession: access.Set(access.Duration(time.Second))}))
	c := f.client()
	ch, requests, err := c.OpenChannel("session", nil)
	if err != nil {
		t.Fatal(err)
	}
	go ssh.DiscardRequests(requests)
	if _, err := ch.SendRequest("exec", true, execPayload("cat /dev/zero")); err != nil {
		t.Fatal(err)
	}
	closed := make(chan error, 1)
	go func() { closed <- c.Wait() }()
	receive(t, "the end", closed) // endGrace after the limit
	if got := bodyOf[audit.SessionEnd](t, f.awaitEnd(t)); got.Cause != "max_session" {
		t.Errorf("got %+v, want the cause in it", got)
	}
}

// The first channel gets a large window and the twelfth the smallest; all is given back when the connection
// ends.
func TestManyChannelsShareTheWindowBudget(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	c := f.client()
	var windows []int
	for range 12 {
		windows = append(windows, openWindow(t, c))
	}
	if windows[0] != 1<<20 {
		t.Errorf("got a window of %d bytes on the first channel, want %d", windows[0], 1<<20)
	}
	if last := windows[len(windows)-1]; last != 64<<10 {
		t.Errorf("got a window of %d bytes on the last channel of %v, want %d", last, windows, 64<<10)
	}
	c.Close()
	f.awaitClosed(t)
	if window := openWindow(t, f.client()); window != 1<<20 {
		t.Errorf("got a window of %d bytes after the channels are closed, want the budget given back", window)
	}
}

// openWindow opens a session channel and returns the window that the node granted. x/crypto does not tell it,
// so this reads the library's unexported field.
func openWindow(t *testing.T, c *ssh.Client) int {
	t.Helper()
	ch, requests, err := c.OpenChannel("session", nil)
	if err != nil {
		t.Fatal(err)
	}
	go ssh.DiscardRequests(requests)
	return int(reflect.ValueOf(ch).Elem().FieldByName("remoteWin").FieldByName("win").Uint())
}
