package spool_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/fault/faulttest"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/node/spool"
)

// fakeAuth stores events, unless refuse returns an error.
type fakeAuth struct {
	mu     sync.Mutex // guards the fields below
	got    []audit.Event
	calls  int
	refuse func([]audit.Event) error
}

func (a *fakeAuth) send(_ context.Context, list []audit.Event) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.calls++
	if a.refuse != nil {
		if err := a.refuse(list); err != nil {
			return err
		}
	}
	a.got = append(a.got, list...)
	return nil
}

func openSpool(t *testing.T, dir string, a *fakeAuth) *spool.Spool {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	s, err := spool.Open(spool.Config{Dir: dir, Send: a.send, Now: time.Now, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// event returns an event of the code, of session n.
func event(code audit.Code, n int) audit.Event {
	alice := identity.Identity{Kind: identity.User, Name: "alice"}
	var body audit.Body
	switch code {
	case audit.SessionStarted:
		body = audit.SessionStart{Session: fmt.Sprint(n), Login: "root", Program: "exec"}
	case audit.SessionEnded:
		body = audit.SessionEnd{Session: fmt.Sprint(n), Login: "root", Program: "exec"}
	case audit.SessionRefused:
		body = audit.SessionRefusal{}
	case audit.ForwardStarted:
		body = audit.ForwardStart{Login: "root", Forward: "agent"}
	}
	return audit.New(time.Now(), alice, body)
}

// sessionOf returns the session that an event is about.
func sessionOf(e audit.Event) string {
	var body struct{ Session string }
	_ = json.Unmarshal(e.Body, &body)
	return body.Session
}

func record(t *testing.T, s *spool.Spool, code audit.Code, n int) {
	t.Helper()
	if err := s.Record(event(code, n)); err != nil {
		t.Fatal(err)
	}
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var errAway = faulttest.New(fault.Unavailable, "auth", "away", "wait")

// One spool records events, another one on the same directory sends them, in batches and in order.
func TestEventsSurviveARestartAndArriveInOrder(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "spool")
	s := openSpool(t, dir, &fakeAuth{})
	for i := range 450 { // more than two batches
		record(t, s, audit.SessionStarted, i)
	}
	synctest.Test(t, func(t *testing.T) {
		a := &fakeAuth{}
		s := openSpool(t, dir, a)
		runSpool(t, s, func() {
			synctest.Wait()
			if len(a.got) != 450 || a.calls != (450+authrpc.MaxEvents-1)/authrpc.MaxEvents {
				t.Errorf("got %d events in %d calls, want 450 in 3", len(a.got), a.calls)
			}
			for i, e := range a.got {
				if sessionOf(e) != fmt.Sprint(i) || len(e.ID) != 32 {
					t.Fatalf("got event %d as %+v, want order kept and an id", i, e)
				}
			}
			record(t, s, audit.SessionEnded, 450) // and what comes while it runs goes at once
			synctest.Wait()
			if len(a.got) != 451 {
				t.Errorf("got %d events, want 451", len(a.got))
			}
		})
	})
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("got %d files left, want none", len(left))
	}
}

// runSpool runs the spool while fn does its work.
func runSpool(t *testing.T, s *spool.Spool, fn func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	fn()
	cancel()
	if err := <-done; err != nil {
		t.Errorf("got %v from Run, want nil", err)
	}
}

// While sending fails, the pauses grow to a minute; once it works, the event is sent and removed.
func TestSendingIsRetriedUntilAuthIsBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a := &fakeAuth{refuse: func([]audit.Event) error { return errAway }}
		s := openSpool(t, t.TempDir(), a)
		record(t, s, audit.SessionStarted, 1)
		runSpool(t, s, func() {
			<-time.After(10 * time.Minute) // of the bubble's clock
			a.mu.Lock()
			if calls := a.calls; calls < 10 || calls > 40 {
				t.Errorf("got %d tries in 10 minutes, want about one a minute", calls)
			}
			a.refuse = nil
			a.mu.Unlock()
			<-time.After(2 * time.Minute)
			synctest.Wait()
			if s.Waiting() != 0 || len(a.got) != 1 {
				t.Errorf("got %d waiting and %d sent, want 0 and 1", s.Waiting(), len(a.got))
			}
		})
	})
}

// A batch of the largest number of events may be larger than the auth service reads. It breaks such a
// connection off, so a spool that sent it would send it again for ever.
func TestBatchesFitIntoOneCall(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a := &fakeAuth{refuse: func(list []audit.Event) error {
			b, err := json.Marshal(authrpc.SendEventsRequest{Events: list})
			if int64(len(b)) > authrpc.SendEvents.MaxBody {
				return errAway
			}
			return err
		}}
		s := openSpool(t, t.TempDir(), a)
		large := strings.Repeat("\u2028", audit.MaxText/3) // six bytes each in JSON
		for range authrpc.MaxEvents {
			e := event(audit.SessionRefused, 0)
			e.Body, _ = json.Marshal(audit.SessionRefusal{Request: large, Rule: large, Reason: large})
			if err := s.Record(e); err != nil {
				t.Fatal(err)
			}
		}
		runSpool(t, s, synctest.Wait)
		if len(a.got) != authrpc.MaxEvents || s.Waiting() != 0 || a.calls < 2 || a.calls > 10 {
			t.Errorf("got %d events in %d calls, want all in a few", len(a.got), a.calls)
		}
	})
}

// The events of one run have numbers without a gap. A restart begins anew, with another run.
func TestEveryEventHasAPlace(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		a := &fakeAuth{}
		for range 2 {
			s := openSpool(t, dir, a)
			for i := range 3 {
				record(t, s, audit.SessionStarted, i)
			}
		}
		runSpool(t, openSpool(t, dir, a), synctest.Wait)
		if len(a.got) != 6 || a.got[0].Spool == a.got[3].Spool {
			t.Fatalf("got %+v, want three events of each of two runs", a.got)
		}
		for i, e := range a.got {
			if e.Number != uint64(i%3+1) || e.Spool != a.got[i/3*3].Spool {
				t.Errorf("got event %d at place %d of %s", i, e.Number, e.Spool)
			}
		}
	})
}

// goldenFile is an event as version 1 left it in a spool. Later versions must send it.
const goldenFile = "testdata/event.v1.json"

// A spool sends what an earlier release recorded, and what a newer one recorded if it can be understood. What
// it cannot understand stays on disk for the newer release.
func TestEventsOfOtherReleases(t *testing.T) {
	t.Parallel()
	golden, err := os.ReadFile(goldenFile)
	if err != nil {
		t.Fatal(err)
	}
	with := func(fields string) string { return strings.Replace(string(golden), `{"v":1`, fields, 1) }
	for name, tt := range map[string]struct {
		content string
		sent    bool
	}{
		"this release":             {string(golden), true},
		"one more field":           {with(`{"v":1,"new":7`), true},
		"a known critical field":   {with(`{"v":1,"critical":["body.rule"]`), true},
		"an unknown critical one":  {with(`{"v":1,"critical":["new"],"new":7`), false},
		"a newer version":          {with(`{"v":2`), false},
		"an event without version": {with(`{"x":1`), false},
	} {
		dir := t.TempDir()
		file := filepath.Join(dir, "00000000000000000001-x.json")
		if err := os.WriteFile(file, []byte(tt.content), 0o600); err != nil {
			t.Fatal(err)
		}
		synctest.Test(t, func(t *testing.T) {
			a := &fakeAuth{}
			runSpool(t, openSpool(t, dir, a), synctest.Wait)
			left, _ := os.ReadDir(dir)
			if (len(a.got) == 1) != tt.sent || (len(left) == 0) != tt.sent {
				t.Errorf("%s: got %d sent and %v left, want it sent: %t", name, len(a.got), left, tt.sent)
			}
			if tt.sent && (a.got[0].Number != 7 || sessionOf(a.got[0]) != "s1") {
				t.Errorf("%s: got %+v, want session s1 at place 7", name, a.got[0])
			}
		})
	}
}

// The auth service refuses each batch that contains one event: only this event is given up.
func TestARejectedEventDoesNotBlockOthers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a := &fakeAuth{refuse: func(list []audit.Event) error {
			for _, e := range list {
				if sessionOf(e) == "2" {
					return faulttest.New(fault.Invalid, "auth", "no", "none")
				}
			}
			return nil
		}}
		s := openSpool(t, t.TempDir(), a)
		for i := range 5 {
			record(t, s, audit.SessionStarted, i)
		}
		runSpool(t, s, synctest.Wait)
		if len(a.got) != 4 || s.Waiting() != 0 {
			t.Errorf("got %d sent and %d waiting, want 4 and 0", len(a.got), s.Waiting())
		}
	})
}

// A file that is no event is renamed and stays; one that was half written when the machine stopped is
// removed.
func TestUnreadableFilesAreSetAside(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"00000000000000000001-x.json":  "{",
		".00000000000000000002-y.json": "half",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		a := &fakeAuth{}
		s := openSpool(t, dir, a)
		record(t, s, audit.SessionStarted, 1)
		runSpool(t, s, synctest.Wait)
		if len(a.got) != 1 {
			t.Errorf("got %d events, want the one that is intact", len(a.got))
		}
	})
	left, _ := os.ReadDir(dir)
	if len(left) != 1 || !strings.HasSuffix(left[0].Name(), ".unreadable") {
		t.Errorf("got %v, want the unreadable one set aside and the half-written one gone", left)
	}
}

// At each bound it records one event of each code, in a spool that counts so many events as waiting.
func TestRefusalsDoNotUseTheCapacityOfSessions(t *testing.T) {
	t.Parallel()
	const half = spool.MaxEvents / 2
	for _, tt := range []struct {
		waiting                 int
		refusal, forward, start bool // whether each is recorded
	}{
		{half - 1, true, true, true},
		{half, false, false, true},
		{spool.MaxEvents - 1, false, false, true},
		{spool.MaxEvents, false, false, false},
	} {
		for code, want := range map[audit.Code]bool{
			audit.SessionRefused: tt.refusal,
			audit.ForwardStarted: tt.forward,
			audit.SessionStarted: tt.start,
			audit.SessionEnded:   true, // always: its start was recorded
		} {
			s := openSpool(t, t.TempDir(), &fakeAuth{})
			s.AddWaiting(tt.waiting)
			err := s.Record(event(code, 0))
			if (err == nil) != want {
				t.Errorf("with %d waiting: got %v for %s, want it recorded: %v", tt.waiting, err, code, want)
			}
			if err != nil && (!fault.Is(err, fault.Exhausted) || fault.Remedy(err) == "") {
				t.Errorf("with %d waiting: got %v, want it exhausted with a remedy", tt.waiting, err)
			}
		}
	}
}

// It fills a small file system. An event that could not be stored must leave no part of its file.
func TestAFullDiskIsReportedAndLeavesNoFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=16k,nr_inodes=64,mode=700"); err != nil {
		dir = "" // only root may mount; without it, only the message is tested
	} else {
		t.Cleanup(func() { _ = syscall.Unmount(dir, 0) })
	}
	full := spool.DiskFault("/d", &os.PathError{Op: "write", Path: "/d", Err: syscall.ENOSPC})
	if !fault.Is(full, fault.Exhausted) || fault.Remedy(full) == "" ||
		!strings.Contains(fault.Message(full), "this node's disk is full") {
		t.Errorf("got %v, want the full disk named with a remedy", full)
	}
	if dir == "" {
		return
	}
	s := openSpool(t, dir, &fakeAuth{})
	var err error
	n := 0
	for ; n < 100 && err == nil; n++ {
		err = s.Record(event(audit.SessionStarted, n))
	}
	if !fault.Is(err, fault.Exhausted) || !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("got %v after %d events, want a full disk", err, n)
	}
	entries, _ := os.ReadDir(dir)
	if len(entries) != n-1 {
		t.Errorf("got %d files, want the %d that were acknowledged", len(entries), n-1)
	}
}

func TestInvalidEventsAreRefused(t *testing.T) {
	t.Parallel()
	s := openSpool(t, t.TempDir(), &fakeAuth{})
	e := event(audit.SessionStarted, 1)
	e.Code = "TH0000"
	if err := s.Record(e); err == nil {
		t.Error("got an unregistered code recorded, want an error")
	}
}
