package state

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

// lockList returns the locks as "facts effect", sorted, with the times left out.
func lockList(t *testing.T, s *State) []string {
	t.Helper()
	all, err := locks.all(t.Context(), s.Reader)
	must(t, err)
	var out []string
	for _, l := range all {
		m := l.Value.Match
		who := m.User.Connector + "/" + m.User.Subject
		before := map[bool]string{true: "", false: " before"}[m.IssuedBefore.IsZero()]
		out = append(out, fmt.Sprintf("%s%s%s %s%s%s", strings.Trim(who, "/"), m.Connector, m.Machine,
			l.Value.Effect.Kind, l.Value.Effect.Role, before))
	}
	slices.Sort(out)
	return out
}

func wantLocks(t *testing.T, s *State, what string, want ...string) {
	t.Helper()
	slices.Sort(want)
	if got := lockList(t, s); !slices.Equal(got, want) {
		t.Errorf("%s: got locks %q, want %q", what, got, want)
	}
}

func denyLock(match access.Facts) access.Lock {
	return access.NewLock(match, access.Effect{Kind: access.Deny})
}

// putLock stores a lock.
func putLock(t *testing.T, s *State, lock access.Lock) Stored[access.Lock] {
	t.Helper()
	must(t, s.Locks.PutLock(t.Context(), Stored[access.Lock]{}, lock, time.Now()))
	stored, err := s.Lock(t.Context(), lock.ID)
	must(t, err)
	return stored
}

func putUser(t *testing.T, s *State, u User) Stored[User] {
	t.Helper()
	old, err := users.getOrNew(t.Context(), s.Reader, UserID(u.UserKey()))
	must(t, err)
	must(t, s.Users.PutUser(t.Context(), old, u, By{Name: "root", Time: time.Now()}))
	stored, err := s.User(t.Context(), u.UserKey())
	must(t, err)
	return stored
}

// Every removal writes its lock in the same entry, which a change that fails does not do. A change that takes
// nothing locks nothing.
func TestWhatIsTakenIsLockedInTheSameEntry(t *testing.T) {
	t.Parallel()
	s := open(t)
	v := NewVault(s, fakeSeal{})
	by := By{Name: "root", Time: time.Now()}
	bob := User{Connector: "corp", Subject: "bob"}
	bob.Roles, bob.Mapped = []string{"ops", "dev"}, []string{"dev", "qa"}
	stale := putUser(t, s, bob)
	bob.Roles = []string{"ops", "extra"}
	putUser(t, s, bob)
	wantLocks(t, s, "a role more, and one that the connector gives too")
	bob.Roles = nil
	if err := s.Users.PutUser(t.Context(), stale, bob, by); !fault.Is(err, fault.Conflict) {
		t.Errorf("got %v for a record that was changed, want conflict", err)
	}
	wantLocks(t, s, "a change that failed")
	putUser(t, s, bob)
	want := []string{"corp/bob without-roleops before", "corp/bob without-roleextra before"}
	wantLocks(t, s, "two roles less", want...)

	login := newPendingLogin(time.Now())
	login.Who.Subject, login.Mapped = "bob", []string{"dev"}
	attempt := addAttempt(t, v, AttemptID{1}, "bob", time.Now())
	must(t, s.Logins.AddLogin(t.Context(), CodeHash{1}, login, attempt))
	want = append(want, "corp/bob without-roleqa before")
	wantLocks(t, s, "a role that the connector gives no more", want...)

	user, err := s.User(t.Context(), bob.UserKey())
	must(t, err)
	must(t, s.Users.RemoveUser(t.Context(), user, by))
	want = append(want, "corp/bob deny before")
	wantLocks(t, s, "a user", want...)

	node := newMachine(identity.Node, "web")
	must(t, s.Machines.AddMachine(t.Context(), node, token(t, s, "one")))
	stored, err := s.Machine(t.Context(), node.ID)
	must(t, err)
	must(t, s.Machines.RemoveMachine(t.Context(), stored, by))
	want = append(want, string(node.ID)+" deny")
	wantLocks(t, s, "a machine", want...)

	corp := StoredConnector{Name: "corp"}
	must(t, v.Connectors.PutConnector(t.Context(), corp, Connector{Issuer: "x"}, nil, by))
	wantLocks(t, s, "a connector that takes nothing", want...)
	corp, err = v.Connectors.Connector(t.Context(), "corp")
	must(t, err)
	taken := LockOfIssuedBefore(access.Facts{Connector: "corp"},
		access.Effect{Kind: access.WithoutRole, Role: "dev"}, by.Time)
	must(t, v.Connectors.PutConnector(t.Context(), corp, Connector{Issuer: "x"}, []access.Lock{taken}, by))
	want = append(want, "corp without-roledev before")
	wantLocks(t, s, "a mapping", want...)
	corp, err = v.Connectors.Connector(t.Context(), "corp")
	must(t, err)
	must(t, v.Connectors.RemoveConnector(t.Context(), corp, by))
	wantLocks(t, s, "a connector", append(want, "corp deny before")...)

	set, err := s.LockSet(t.Context())
	must(t, err)
	if len(set.Machines.Locks) != 1 || len(set.Users.Locks) != len(want) {
		t.Errorf("got %d and %d locks in the documents", len(set.Machines.Locks), len(set.Users.Locks))
	}
	for _, l := range set.Users.Locks {
		if !l.End.After(by.Time.Add(identity.MaxLifetime)) {
			t.Errorf("got the end %s, want it after that of every certificate that it hits", l.End)
		}
	}
}

// What is taken while certificates are issued is locked: the lock is of a time after the issuance, although
// the change was begun before it.
func TestALockIsAfterWhatWasIssuedBeforeItsCommit(t *testing.T) {
	t.Parallel()
	s := open(t)
	v := NewVault(s, fakeSeal{})
	begun := By{Name: "root", Time: time.Now()}
	issued := begun.Time.Add(1500 * time.Millisecond)
	hits := func(what string) {
		t.Helper()
		who := identity.Identity{Kind: identity.User, Connector: "corp", Subject: "a/1"}
		who.Roles = []string{"dev"}
		who.IssuedAt = issued.UTC().Truncate(time.Second)
		set, err := s.LockSet(t.Context())
		must(t, err)
		request := access.Request{Who: who, Now: time.Now()}
		_, denied := set.Locks.Denying(request)
		if _, taken := set.Locks.TakingRole("dev", request); !denied && !taken {
			t.Errorf("%s: the certificate that was issued meanwhile is not hit", what)
		}
		for _, l := range set.Users.Locks {
			stored, err := s.Lock(t.Context(), l.ID)
			must(t, err)
			must(t, s.Locks.RemoveLock(t.Context(), stored, time.Now()))
		}
	}
	corp := func() StoredConnector {
		t.Helper()
		c, err := v.Connectors.Connector(t.Context(), "corp")
		must(t, err)
		return c
	}
	must(t, v.Connectors.PutConnector(t.Context(), StoredConnector{Name: "corp"}, Connector{}, nil, begun))
	attempt := addAttempt(t, v, AttemptID{1}, "alice", time.Now())
	login := newPendingLogin(time.Now())
	login.Mapped = []string{"dev"}
	must(t, s.Logins.AddLogin(t.Context(), CodeHash{1}, login, attempt))
	pending, err := s.PendingLogin(t.Context(), CodeHash{1})
	must(t, err)
	must(t, s.Logins.RedeemLogin(t.Context(), pending, decided(t, s), issued, nil))

	without := access.Effect{Kind: access.WithoutRole, Role: "dev"}
	taken := LockOfIssuedBefore(access.Facts{Connector: "corp"}, without, begun.Time)
	must(t, v.Connectors.PutConnector(t.Context(), corp(), Connector{}, []access.Lock{taken}, begun))
	hits("mapping")
	must(t, v.Connectors.RemoveConnector(t.Context(), corp(), begun))
	hits("connector")
	user, err := s.User(t.Context(), alice)
	must(t, err)
	next := user.Value
	next.Mapped = nil
	must(t, s.Users.PutUser(t.Context(), user, next, begun))
	hits("role")
	user, err = s.User(t.Context(), alice)
	must(t, err)
	must(t, s.Users.RemoveUser(t.Context(), user, begun))
	hits("user")
}

// A login is redeemed only by what it was decided by: after a change of the user, of any lock or of the
// connector it is not, and can be redeemed by a new decision.
func TestALoginIsRedeemedAsItWasDecided(t *testing.T) {
	t.Parallel()
	machine := denyLock(access.Facts{Machine: identity.MachineID(NewID())})
	user := denyLock(access.Facts{Role: "x"})
	for name, change := range map[string]func(*testing.T, *State, *Vault){
		"a lock of a user":    func(t *testing.T, s *State, _ *Vault) { putLock(t, s, user) },
		"a lock of a machine": func(t *testing.T, s *State, _ *Vault) { putLock(t, s, machine) },
		"a role of the user": func(t *testing.T, s *State, _ *Vault) {
			user, err := s.User(t.Context(), alice)
			must(t, err)
			user.Value.Roles = []string{"more"}
			putUser(t, s, user.Value)
		},
		"the connector": func(t *testing.T, _ *State, v *Vault) {
			corp, err := v.Connectors.Connector(t.Context(), "corp")
			must(t, err)
			must(t, v.Connectors.RemoveConnector(t.Context(), corp, By{Time: time.Now()}))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := open(t)
			v := NewVault(s, fakeSeal{})
			by := By{Time: time.Now()}
			corp := StoredConnector{Name: "corp"}
			must(t, v.Connectors.PutConnector(t.Context(), corp, Connector{}, nil, by))
			attempt := addAttempt(t, v, AttemptID{1}, "alice", time.Now())
			must(t, s.Logins.AddLogin(t.Context(), CodeHash{1}, newPendingLogin(time.Now()), attempt))
			pending, err := s.PendingLogin(t.Context(), CodeHash{1})
			must(t, err)
			before := decided(t, s)
			change(t, s, v)
			err = s.Logins.RedeemLogin(t.Context(), pending, before, time.Now(), nil)
			if !fault.Is(err, fault.Conflict) {
				t.Errorf("by the old decision: got %v, want conflict", err)
			}
			must(t, s.Logins.RedeemLogin(t.Context(), pending, decided(t, s), time.Now(), nil))
		})
	}
}

// A set is read again only after a change. A lock that cannot be read is never left out: the last set holds,
// or there is none.
func TestALockThatCannotBeReadIsNotLeftOut(t *testing.T) {
	t.Parallel()
	s := open(t)
	putLock(t, s, denyLock(access.Facts{Role: "dev"}))
	first, err := s.LockSet(t.Context())
	must(t, err)
	if again, err := s.LockSet(t.Context()); err != nil || again != first {
		t.Errorf("got another set without a change (%v)", err)
	}
	newer := denyLock(access.Facts{Role: "ops"})
	var c change
	locks.put(&c, newer.ID, []byte(`{"v":1,"critical":["tomorrow"],"d":{"tomorrow":1}}`), 0)
	c.changeLocks(newer, time.Now())
	_, err = s.writer.commit(t.Context(), &c)
	must(t, err)
	set, err := s.LockSet(t.Context())
	must(t, err)
	if set.Len() != 1 || !slices.Equal(set.Unreadable, []string{newer.ID}) ||
		set.Users.Revision != first.Users.Revision {
		t.Errorf("got %+v, want the last set, which says what cannot be read", set)
	}
	restarted := New(s.writer.store)
	if _, err := restarted.LockSet(t.Context()); !fault.Is(err, fault.Internal) || fault.Remedy(err) == "" {
		t.Errorf("after a restart: got %v, want internal with a remedy", err)
	}
	// Somebody who is removed meanwhile is locked all the same.
	bob := putUser(t, s, User{Connector: "corp", Subject: "bob"})
	must(t, s.Users.RemoveUser(t.Context(), bob, By{Time: time.Now()}))
	c = change{}
	locks.deleteKey(&c, newer.ID)
	c.changeLocks(newer, time.Now())
	_, err = s.writer.commit(t.Context(), &c)
	must(t, err)
	set, err = s.LockSet(t.Context())
	if err != nil || set.Len() != 2 || len(set.Unreadable) != 0 {
		t.Errorf("got %d locks and %v, want both that can be read", set.Len(), err)
	}
}

// fillLocks stores n locks at once, which end at end.
func fillLocks(t *testing.T, s *State, n int, end time.Time) {
	t.Helper()
	for n > 0 {
		var c change
		for range min(n, 1000) {
			lock := denyLock(access.Facts{LoginID: identity.LoginID(NewID())})
			lock.End = end
			locks.set(&c, lock.ID, lock)
		}
		c.changeLocks(denyLock(access.Facts{Role: "x"}), time.Now())
		_, err := s.writer.commit(t.Context(), &c)
		must(t, err)
		n -= min(n, 1000)
	}
}

// When administrators have made as many locks as they may, there is room for those of removals, up to
// MaxLocks, and the locks that there are can be changed.
func TestLocksAreBounded(t *testing.T) {
	t.Parallel()
	s := open(t)
	last := putLock(t, s, denyLock(access.Facts{Role: "last"}))
	fillLocks(t, s, access.MaxLocks-keptForRemovals-1, time.Time{})
	lock := denyLock(access.Facts{Role: "dev"})
	put := func(old Stored[access.Lock], lock access.Lock) error {
		return s.Locks.PutLock(t.Context(), old, lock, time.Now())
	}
	if err := put(Stored[access.Lock]{}, lock); !fault.Is(err, fault.Exhausted) || fault.Remedy(err) == "" {
		t.Errorf("one more: got %v, want exhausted with a remedy", err)
	}
	last.Value.Message = "changed"
	if err := put(last, last.Value); err != nil {
		t.Errorf("a change of one: got %v", err)
	}
	bob := putUser(t, s, User{Connector: "corp", Subject: "bob"})
	must(t, s.Users.RemoveUser(t.Context(), bob, By{Time: time.Now()}))
	fillLocks(t, s, keptForRemovals-1, time.Time{})
	eve := putUser(t, s, User{Connector: "corp", Subject: "eve"})
	if err := s.Users.RemoveUser(t.Context(), eve, By{Time: time.Now()}); !fault.Is(err, fault.Exhausted) {
		t.Errorf("beyond the last: got %v, want exhausted", err)
	}
}

// Ended locks are removed some time after their end, at most maxPruned at once, and no others.
func TestEndedLocksAreRemoved(t *testing.T) {
	t.Parallel()
	s := open(t)
	now := time.Now()
	fillLocks(t, s, maxPruned+1, now.Add(-lockMargin))
	fillLocks(t, s, 1, now.Add(-lockMargin+time.Second)) // ended, but perhaps not by the clock of a node
	fillLocks(t, s, 1, time.Time{})
	for _, want := range []int{maxPruned, 1, 0} {
		if n, err := s.Locks.RemoveEnded(t.Context(), now); err != nil || n != want {
			t.Errorf("got %d removed and %v, want %d", n, err, want)
		}
	}
	if set, err := s.LockSet(t.Context()); err != nil || set.Len() != 2 {
		t.Errorf("got %d locks and %v, want the two that have not ended", set.Len(), err)
	}
}

// After a restore from a backup everybody logs in again.
func TestEverythingIssuedBeforeIsLocked(t *testing.T) {
	t.Parallel()
	s := open(t)
	now := time.Now()
	event := audit.New(now, identity.Identity{}, audit.AuthStart{Version: "test"})
	must(t, s.Locks.LockIssuedBefore(t.Context(), now, event))
	set, err := s.LockSet(t.Context())
	must(t, err)
	who := identity.Identity{Kind: identity.User, Connector: "corp", Subject: "bob"}
	for at, denied := range map[time.Time]bool{now.Add(-time.Hour): true, now.Add(time.Second): false} {
		who.IssuedAt = at.UTC().Truncate(time.Second)
		if _, hit := set.Locks.Denying(access.Request{Who: who, Now: now}); hit != denied {
			t.Errorf("issued at %s: got denied %v, want %v", at, hit, denied)
		}
	}
}
