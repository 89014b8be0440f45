package sshd_test

import (
	"strings"
	"testing"
	"time"

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/fault/faulttest"
)

func TestNoMoreSessionsIsEnforced(t *testing.T) {
	t.Parallel()
	c := newFixture(t, nil).client()
	s := newSession(t, c)
	if ok, _, err := c.SendRequest("no-more-sessions@openssh.com", true, nil); err != nil || !ok {
		t.Fatalf("got %v, %v, want the request accepted", ok, err)
	}
	if _, err := c.NewSession(); err == nil || !strings.Contains(err.Error(), "no further sessions") {
		t.Errorf("got %v, want a further session refused", err)
	}
	if err := s.Run("true"); err != nil {
		t.Errorf("got %v, want the session that is open to go on", err)
	}
}

func TestOneProgramForEachSession(t *testing.T) {
	t.Parallel()
	c := newFixture(t, nil).client()
	s := newSession(t, c)
	in, _ := s.StdinPipe()
	startProgram(t, s, "cat")
	for _, again := range []string{"exec", "shell", "pty-req"} {
		if ok, err := s.SendRequest(again, true, execPayload("true")); err != nil || ok {
			t.Errorf("%s a second time: got %v, %v, want refused", again, ok, err)
		}
	}
	in.Close()
	if err := s.Wait(); err != nil {
		t.Errorf("got %v, want the first program undisturbed", err)
	}
}

func TestSessionsOnOneConnectionAreLimited(t *testing.T) {
	t.Parallel()
	c := newFixture(t, nil).client()
	var err error
	n := 0
	for ; n < 100 && err == nil; n++ {
		_, _, err = c.OpenChannel("session", nil)
	}
	if err == nil || n > 65 || !strings.Contains(err.Error(), "sessions already") {
		t.Errorf("got %v after %d sessions, want a refusal after 64", err, n)
	}
}

func TestNewRulesApplyToTheNextSessionOfAnOpenConnection(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	c := f.client()
	if got := run(t, c, "echo 1", ""); got.out != "1\n" {
		t.Errorf("got %+v, want it run", got)
	}
	f.allow(fullRole("ops", "sftp"))
	got := run(t, c, "echo 2", "")
	if got.status != 126 || !strings.Contains(got.err, "no role of alice@example.com") {
		t.Errorf("got %+v after exec was taken away, want refused", got)
	}
	f.allow()
	if _, err := c.NewSession(); err == nil || !strings.Contains(err.Error(), "no role of") {
		t.Errorf("got %v after everything was taken away, want refused", err)
	}
}

func TestAnExpiredCertificateStartsNoFurtherSession(t *testing.T) {
	t.Parallel()
	var off time.Duration
	f := newFixture(t, nil)
	f.cancel()
	f.cfg.Now = func() time.Time { f.mu.Lock(); defer f.mu.Unlock(); return time.Now().Add(off) }
	f.serve()
	c := f.client()
	run(t, c, "true", "")
	f.mu.Lock()
	off = 2 * time.Hour
	f.mu.Unlock()
	if _, err := c.NewSession(); err == nil || !strings.Contains(err.Error(), "expired") {
		t.Errorf("got %v, want a refusal that says expired", err)
	}
}

// errDiskFull is the error of a spool whose disk is full.
var errDiskFull = faulttest.New(
	fault.Exhausted,
	"spool.Record",
	"this node's disk is full, so the session cannot be recorded",
	"ask an administrator to free space on the node",
)

func TestSessionsThatCannotBeAuditedDoNotStart(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	c := f.client()
	f.failAudit(errDiskFull)
	marker := t.TempDir() + "/ran"
	got := run(t, c, "touch "+marker, "")
	if got.status != 126 || !strings.Contains(got.err, "this node's disk is full") ||
		!strings.Contains(got.err, "hint: ask an administrator to free space") {
		t.Errorf("got %+v, want a refusal with the reason", got)
	}
	f.failAudit(nil)
	if got := run(t, c, "test ! -e "+marker, ""); got.status != 0 {
		t.Errorf("got %+v: the command ran without being recorded", got)
	}
}
