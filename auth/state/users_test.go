package state

import (
	"strings"
	"testing"

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

var alice = identity.UserKey{Connector: "corp", Subject: "a/1"}

// Subjects that contain separators, or are too long for a key, still give every user a key of their own.
func TestNoTwoUsersShareAKey(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("/", 400)
	seen := map[string]identity.UserKey{}
	for _, k := range []identity.UserKey{
		{Connector: "corp", Subject: "a/1"},
		{Connector: "corp", Subject: "a%2F1"},
		{Connector: "corp", Subject: "A/1"},
		{Connector: "corp", Subject: "/a"},
		{Connector: "corp", Subject: long},
		{Connector: "corp", Subject: long + "/"},
		{Connector: "other", Subject: "a/1"},
	} {
		id := UserID(k)
		if other, twice := seen[id]; twice {
			t.Errorf("%v and %v share %q", k, other, id)
		}
		seen[id] = k
		if len(id) > 900 {
			t.Errorf("got a key of %d bytes, want one that the store accepts", len(id))
		}
	}
}

func TestPutUserComparesRevisions(t *testing.T) {
	t.Parallel()
	s := open(t)
	u := User{Connector: "corp", Subject: "a/1", Name: "alice@example.com", Roles: []string{"ops"}}
	if err := s.Users.PutUser(t.Context(), Stored[User]{}, u, byNow()); err != nil {
		t.Fatal(err)
	}
	if err := s.Users.PutUser(t.Context(), Stored[User]{}, u, byNow()); !fault.Is(err, fault.Conflict) {
		t.Errorf("got %v for a second creation, want a conflict", err)
	}
	got, err := s.User(t.Context(), alice)
	if err != nil || got.Value.Name != u.Name || got.Value.Roles[0] != "ops" {
		t.Fatalf("got %+v and %v, want what was written", got, err)
	}
	if byID, err := s.UserByID(t.Context(), got.Key); err != nil || byID.Value.Name != u.Name {
		t.Errorf("got %+v and %v by the listed key, want alice", byID, err)
	}
}

func TestRemovingAUserRemovesTheFactor(t *testing.T) {
	t.Parallel()
	s := open(t)
	v := NewVault(s, fakeSeal{})
	must(t, s.Users.PutUser(t.Context(), Stored[User]{}, User{Connector: "corp", Subject: "a/1"}, byNow()))
	f, err := v.Factors.Factors(t.Context(), alice)
	must(t, err)
	must(t, v.Factors.PutFactors(t.Context(), f, oneFactor("JBSWY3DP")))
	u, err := s.User(t.Context(), alice)
	must(t, err)
	must(t, s.Users.RemoveUser(t.Context(), u, byNow()))
	if has, err := s.HasFactor(t.Context(), alice); has || err != nil {
		t.Errorf("got factor %v and %v, want none", has, err)
	}
}
