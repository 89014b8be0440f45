package state

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

func newPendingLogin(at time.Time) PendingLogin {
	return PendingLogin{
		Who:      identity.Identity{Kind: identity.User, Connector: "corp", Subject: "a/1", Name: "alice"},
		AuthTime: at,
		Expires:  at.Add(time.Minute),
	}
}

// decided is what a login of alice is decided by now.
func decided(t *testing.T, s *State) Decided {
	t.Helper()
	locks, err := s.LockSet(t.Context())
	must(t, err)
	user, err := s.User(t.Context(), alice)
	must(t, err)
	return Decided{User: user, Locks: locks}
}

// Of eight concurrent callers one redeems the login. The login has also created the record of its user.
func TestPendingLoginIsRedeemedOnce(t *testing.T) {
	t.Parallel()
	s := open(t)
	v := NewVault(s, fakeSeal{})
	h := CodeHash{1}
	attempt := addAttempt(t, v, AttemptID{1}, "alice", time.Now())
	must(t, s.Logins.AddLogin(t.Context(), h, newPendingLogin(time.Now()), attempt))
	l, err := s.PendingLogin(t.Context(), h)
	must(t, err)
	by := decided(t, s)
	var redeemed atomic.Int32
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			err := s.Logins.RedeemLogin(t.Context(), l, by, time.Now(), nil)
			if err == nil {
				redeemed.Add(1)
			} else if !fault.Is(err, fault.Expired) {
				t.Errorf("got %v, want expired", err)
			}
		})
	}
	all.Wait()
	if redeemed.Load() != 1 {
		t.Errorf("got %d successes, want 1", redeemed.Load())
	}
	u, err := s.User(t.Context(), alice)
	if err != nil || u.Value.Name != "alice" || u.Value.LastLogin.IsZero() {
		t.Errorf("got %+v and %v, want a record of the user", u, err)
	}
}

func TestExpiredLoginsAreSweptByTheNextOne(t *testing.T) {
	t.Parallel()
	s := open(t)
	v := NewVault(s, fakeSeal{})
	now := time.Now()
	add := func(i byte, at time.Time) {
		attempt := addAttempt(t, v, AttemptID{i}, "alice", now)
		must(t, s.Logins.AddLogin(t.Context(), CodeHash{i}, newPendingLogin(at), attempt))
	}
	for i := range byte(3) {
		add(i, now)
	}
	add(9, now.Add(2*time.Minute))
	left, err := logins.all(t.Context(), s.Reader)
	if err != nil || len(left) != 1 || left[0].Key != (CodeHash{9}).key() {
		t.Errorf("got %d logins and %v, want the newest alone", len(left), err)
	}
}
