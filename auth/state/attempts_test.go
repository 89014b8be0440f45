package state

import (
	"testing"
	"time"

	"github.com/threshold-access/threshold/internal/fault"
)

// addAttempt stores an attempt that expires after ten minutes, and returns it as read.
func addAttempt(t *testing.T, v *Vault, id AttemptID, content string, now time.Time) StoredAttempt {
	t.Helper()
	must(t, v.Attempts.AddAttempt(t.Context(), id, []byte(content), now.Add(10*time.Minute), now))
	a, err := v.Attempts.Attempt(t.Context(), id)
	if err != nil || string(a.Content) != content {
		t.Fatalf("got %q and %v, want what was stored", a.Content, err)
	}
	return a
}

// An attempt is added once and makes one login. After that it can neither be read nor added again.
func TestAnAttemptMakesOneLogin(t *testing.T) {
	t.Parallel()
	s := open(t)
	v := NewVault(s, fakeSeal{})
	now := time.Now()
	again := func(when string) {
		err := v.Attempts.AddAttempt(t.Context(), AttemptID{1}, []byte("other"), now.Add(time.Hour), now)
		if !fault.Is(err, fault.Expired) || fault.Remedy(err) == "" {
			t.Errorf("%s: got %v for the same attempt, want expired with a remedy", when, err)
		}
	}
	a := addAttempt(t, v, AttemptID{1}, "alice", now)
	again("before the login")
	must(t, s.Logins.AddLogin(t.Context(), CodeHash{1}, newPendingLogin(now), a))
	again("after the login")
	err := s.Logins.AddLogin(t.Context(), CodeHash{2}, newPendingLogin(now), a)
	if !fault.Is(err, fault.Expired) {
		t.Errorf("got %v for a second login, want expired", err)
	}
	if _, err := s.PendingLogin(t.Context(), CodeHash{2}); !fault.Is(err, fault.NotFound) {
		t.Errorf("got %v for the second login, want nothing stored", err)
	}
	for _, id := range []AttemptID{{1}, {2}} { // used, unknown
		if got, err := v.Attempts.Attempt(t.Context(), id); !fault.Is(err, fault.Expired) {
			t.Errorf("got %q and %v, want expired", got.Content, err)
		}
	}
}

// Attempts that were used and those that nobody finished do not accumulate.
func TestExpiredAttemptsAreSweptByTheNextOne(t *testing.T) {
	t.Parallel()
	s := open(t)
	v := NewVault(s, fakeSeal{})
	now := time.Now()
	used := addAttempt(t, v, AttemptID{1}, "alice", now)
	must(t, s.Logins.AddLogin(t.Context(), CodeHash{1}, newPendingLogin(now), used))
	addAttempt(t, v, AttemptID{2}, "alice", now)
	addAttempt(t, v, AttemptID{3}, "alice", now.Add(11*time.Minute))
	left, err := attempts.all(t.Context(), s.Reader)
	if err != nil || len(left) != 1 || left[0].Key != (AttemptID{3}).key() {
		t.Errorf("got %d attempts and %v, want the newest alone", len(left), err)
	}
}
