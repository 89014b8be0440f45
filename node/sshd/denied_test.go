package sshd_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/rules"
	"github.com/threshold-access/threshold/node/sshd"
)

// heldSession is a session whose program echoes lines until its input ends.
type heldSession struct {
	in   io.WriteCloser
	out  io.Reader
	errs *bytes.Buffer
	s    *ssh.Session
}

// hold starts a program on the connection that goes on until its input ends.
func hold(t testing.TB, c *ssh.Client) *heldSession {
	t.Helper()
	h := &heldSession{s: newSession(t, c), errs: &bytes.Buffer{}}
	h.in, _ = h.s.StdinPipe()
	h.out, _ = h.s.StdoutPipe()
	h.s.Stderr = h.errs
	startProgram(t, h.s, "cat")
	h.echoes(t)
	return h
}

// echoes checks that the session goes on.
func (h *heldSession) echoes(t testing.TB) {
	t.Helper()
	answer := make([]byte, 3)
	_, err := h.in.Write([]byte("on\n"))
	if err == nil {
		_, err = io.ReadFull(h.out, answer)
	}
	if err != nil || string(answer) != "on\n" {
		t.Fatalf("got %q, %v, want the session to go on (%s)", answer, err, h.errs)
	}
}

// ended waits for the end of the session.
func (h *heldSession) ended(t testing.TB) result {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- h.s.Wait() }()
	return resultOf(t, receive(t, "the end of the session", done), &bytes.Buffer{}, h.errs)
}

// lock makes these the only locks in force.
func (f *fixture) lock(locks ...access.Lock) {
	f.changeTrust(func(next *rules.Trust) { next.Policy.Locks = access.NewLocks(locks) })
}

// lockOn is a lock of a user, with a message and an author.
func lockOn(who identity.Identity) access.Lock {
	match := access.Facts{User: access.UserFact(who.UserKey())}
	lock := access.NewLock(match, access.Effect{Kind: access.Deny})
	lock.Message, lock.Author = "the laptop was lost", "root@example.com"
	return lock
}

// Somebody is locked. All that they have open ends, with a line that says why and whom to ask, and with exit
// status 124; new logins are refused with the same; and others go on.
func TestALockEndsWhatItsUserHasOpen(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	bob := f.cluster.User("bob@example.com", "ops")
	bobs := f.client(f.cluster.UserSigner(bob, nil, testAccount()))
	alices := hold(t, f.client())
	first, second := hold(t, bobs), hold(t, bobs)
	direct, err := bobs.Dial("tcp", startEcho(t, "tcp").String())
	if err != nil {
		t.Fatal(err)
	}
	f.lock(lockOn(bob))
	for _, h := range []*heldSession{first, second} {
		got := h.ended(t)
		wantEnded(t, f, got, "denied", "the session has ended: it is not allowed any more: lock ")
		for _, part := range []string{"the laptop was lost", "ask root@example.com"} {
			if !strings.Contains(got.err, part) {
				t.Errorf("got %q, want %q in it", got.err, part)
			}
		}
	}
	if n, err := direct.Read(make([]byte, 1)); err == nil {
		t.Errorf("got %d bytes from a forwarded connection, want it closed", n)
	}
	closed := make(chan error, 1)
	go func() { closed <- bobs.Wait() }()
	receive(t, "the end of the connection", closed)
	if _, banner, err := f.dial(testAccount(), f.cluster.UserSigner(bob, nil, testAccount())); err == nil ||
		!strings.Contains(banner, "the laptop was lost") {
		t.Errorf("got %v, banner %q, want no new login, and the message of the lock", err, banner)
	}
	alices.echoes(t)
	f.lock()
	hold(t, f.client(f.cluster.UserSigner(bob, nil, testAccount())))
}

// What a role allowed ends alone when the role does not allow it any more; the rest of the connection goes
// on.
func TestOnlyWhatIsDeniedEnds(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	c := f.client()
	program := hold(t, c)
	files := newSession(t, c)
	fromSFTP, _ := files.StdoutPipe()
	if err := files.RequestSubsystem("sftp"); err != nil {
		t.Fatal(err)
	}
	direct, err := c.Dial("tcp", startEcho(t, "tcp").String())
	if err != nil {
		t.Fatal(err)
	}
	port, err := listenTCP(c, "127.0.0.1", 0)
	if err != nil {
		t.Fatal(err)
	}
	f.allow(fullRole("ops", "exec", "forward-remote"))
	if n, err := fromSFTP.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("got %d bytes, %v from sftp, want its end", n, err)
	}
	if end := bodyOf[audit.SessionEnd](t, f.awaitEnd(t)); end.Program != "sftp" || !hasStatus(end, 124) {
		t.Errorf("got %+v, want sftp ended with status 124", end)
	}
	if n, err := direct.Read(make([]byte, 1)); err == nil {
		t.Errorf("got %d bytes from a forwarded connection, want it closed", n)
	}
	program.echoes(t)
	toListener, err := net.Dial("tcp", loopbackFor("", port))
	if err != nil {
		t.Errorf("got %v, want the listener to go on", err)
	} else {
		toListener.Close()
	}
	f.allow(fullRole("ops", "exec"))
	eventually(t, "the listener is closed", func() bool {
		conn, err := net.Dial("tcp", loopbackFor("", port))
		if err == nil {
			conn.Close()
		}
		return err != nil
	})
	program.echoes(t)
	again := hold(t, c)
	again.echoes(t)
}

// On a terminal the reason is a line of its own, and the audit log has it.
func TestATerminalReadsWhyItEnds(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	s := newSession(t, f.client())
	requestTerminal(t, s, "xterm")
	out, _ := s.StdoutPipe()
	var errs bytes.Buffer
	s.Stderr = &errs
	if err := s.Start("echo on; exec sleep 1000"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, 2)); err != nil {
		t.Fatal(err)
	}
	f.allow(access.Role{Name: "ops", Deny: []access.Grant{{Nodes: map[string]access.Strings{"*": {"*"}}}}})
	ended := make(chan error, 1)
	go func() { ended <- s.Wait() }()
	got := resultOf(t, receive(t, "the end of the session", ended), &bytes.Buffer{}, &errs)
	wantEnded(t, f, got, "denied", "role ops, deny 1 denies")
	if !strings.Contains(got.err, "\r\n") {
		t.Errorf("got %q, want lines for a terminal", got.err)
	}
}

// Rules that are too old for a role end what it allows, and refuse new sessions; what another role allows
// goes on. A fresh head brings it back, also one of an auth service whose clock is ahead.
func TestRulesThatAreTooOldForARoleEndItsSessions(t *testing.T) {
	t.Parallel()
	var ahead atomic.Int64
	f, denied := newDeniedFixture(t, func(c *sshd.Config) {
		c.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	})
	strict, other := fullRole("ops", "exec"), fullRole("files", "sftp")
	strict.Options.RulesAge = access.Set(access.Duration(5 * time.Minute))
	f.allow(strict, other)
	alice := f.cluster.User("alice@example.com", "ops", "files")
	c := f.client(f.cluster.UserSigner(alice, nil, testAccount()))
	program := hold(t, c)
	files := newSession(t, c)
	if err := files.RequestSubsystem("sftp"); err != nil {
		t.Fatal(err)
	}
	ahead.Store(int64(4 * time.Minute))
	f.lock() // decides again
	program.echoes(t)
	ahead.Store(int64(6 * time.Minute))
	f.lock()
	receive(t, "what is denied", denied)
	wantEnded(t, f, program.ended(t), "denied", "by rules that are older than 5m")
	if got := run(t, c, "true", ""); got.status == 0 || !strings.Contains(got.err, "older than 5m") {
		t.Errorf("got %+v, want no new session by the role", got)
	}
	if ok, err := files.SendRequest("keepalive@openssh.com", true, nil); err != nil {
		t.Errorf("got %v, %v, want what the other role allows to go on", ok, err)
	}
	f.setRules(f.cluster.SignRulesAt(time.Now().Add(6 * time.Minute)))
	again := hold(t, c)
	// The clock of auth is ahead: a head from the future counts as heard when it came.
	f.setRules(f.cluster.SignRulesAt(time.Now().Add(40 * time.Minute)))
	f.lock()
	again.echoes(t)
}

// A client that reads nothing does not delay the end of the sessions of others.
func TestAStuckClientDoesNotDelayTheEndOfOthers(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	stuck := newSession(t, f.client()) // nobody reads its output
	if _, err := stuck.StdoutPipe(); err != nil {
		t.Fatal(err)
	}
	startProgram(t, stuck, "yes")
	var held []*heldSession
	for range 20 {
		held = append(held, hold(t, f.client()))
	}
	f.allow()
	for _, h := range held {
		if got := h.ended(t); got.status != 124 {
			t.Errorf("got %+v, want status 124", got)
		}
	}
}

// 200 users work while 500 locks of others come and go. None of them is cut or refused, and each one who is
// locked is.
func TestHonestSessionsAreNeverCut(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	const honest = 200
	var held []*heldSession
	for i := range honest {
		who := f.cluster.User(fmt.Sprintf("user-%d@example.com", i), "ops")
		held = append(held, hold(t, f.client(f.cluster.UserSigner(who, nil, testAccount()))))
	}
	locked := f.cluster.User("locked@example.com", "ops")
	victim := hold(t, f.client(f.cluster.UserSigner(locked, nil, testAccount())))
	random := rand.New(rand.NewPCG(1, 2))
	others := []access.Facts{
		{User: access.UserFact{Connector: "corp", Subject: "somebody"}},
		{Connector: "other"}, {Role: "other"}, {Account: "nobody-else"}, {LoginID: "other"}, {Serial: 1},
		{Machine: otherProxyID}, {ViaProxy: otherProxyID}, {LoginProxy: otherProxyID},
		{IssuedBefore: time.Now(), Connector: "other"},
	}
	standing := map[string]access.Lock{}
	for i := range 500 {
		match := others[random.IntN(len(others))]
		effect := access.Effect{Kind: access.Deny}
		if random.IntN(3) == 0 {
			effect = access.Effect{Kind: access.WithoutRole, Role: "other"}
		}
		lock := access.NewLock(match, effect)
		if _, has := standing[lock.ID]; has {
			delete(standing, lock.ID)
		} else {
			standing[lock.ID] = lock
		}
		var list []access.Lock
		for _, l := range standing {
			list = append(list, l)
		}
		f.lock(list...)
		if i%50 == 0 {
			held[random.IntN(honest)].echoes(t)
		}
	}
	victim.echoes(t)
	f.lock(lockOn(locked))
	if got := victim.ended(t); got.status != 124 {
		t.Errorf("got %+v, want the locked user's session ended", got)
	}
	for _, h := range held {
		h.echoes(t)
	}
	if ended := f.recorded(audit.SessionEnded); len(ended) != 1 {
		t.Errorf("got %d sessions ended, want the locked user's alone", len(ended))
	}
}

// A change between the decision about a session and its start is noticed: nothing is open by rules that were
// replaced.
func TestASessionThatBeginsWithTheLockEnds(t *testing.T) {
	t.Parallel()
	for range 20 {
		f := newFixture(t, nil)
		bob := f.cluster.User("bob@example.com", "ops")
		c := f.client(f.cluster.UserSigner(bob, nil, testAccount()))
		s := newSession(t, c)
		begun := make(chan error, 1)
		go func() { begun <- s.Start("exec sleep 1000") }()
		f.lock(lockOn(bob))
		if err := <-begun; err == nil { // else it was refused, or the connection has ended
			var exit *ssh.ExitError
			ended := make(chan error, 1)
			go func() { ended <- s.Wait() }()
			err := receive(t, "the end of the session", ended)
			if errors.As(err, &exit) && exit.ExitStatus() != 124 && exit.ExitStatus() != 126 {
				t.Errorf("got %v, want the session ended or refused", err)
			}
		}
	}
}
