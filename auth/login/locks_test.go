package login_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/threshold-access/threshold/auth/state"
	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

var aliceFact = access.UserFact{Connector: "corp", Subject: "sub-alice"}

// lock stores a lock.
func (f *fixture) lock(match access.Facts, effect access.Effect) state.Stored[access.Lock] {
	f.t.Helper()
	lock := access.NewLock(match, effect)
	lock.Message, lock.Author = "laptop lost", "root@example.com"
	f.must(f.state.Locks.PutLock(f.t.Context(), state.Stored[access.Lock]{}, lock, f.clock()))
	stored, err := f.state.Lock(f.t.Context(), lock.ID)
	f.must(err)
	return stored
}

// A locked user is refused once the provider has identified them, before the second factor, and is told why.
// Others log in, and so does the user after a lock on what was issued before.
func TestALockedUserIsRefusedAfterTheProvider(t *testing.T) {
	t.Parallel()
	deny := access.Effect{Kind: access.Deny}
	past := time.Now().Add(-time.Hour)
	for name, tt := range map[string]struct {
		match access.Facts
		hits  bool
	}{
		"the user":             {access.Facts{User: aliceFact}, true},
		"a role of theirs":     {access.Facts{Role: "dev"}, true},
		"the connector":        {access.Facts{Connector: "corp"}, true},
		"the proxy of a login": {access.Facts{LoginProxy: proxyIdentity.ID, Since: past}, true},
		"another proxy":        {access.Facts{LoginProxy: identity.MachineID(state.NewID())}, false},
		"another role":         {access.Facts{Role: "ops"}, false},
		"issued before":        {access.Facts{User: aliceFact, IssuedBefore: past}, false},
		"an account":           {access.Facts{User: aliceFact, Account: "root"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			f.lock(tt.match, deny)
			c := newClient(t)
			res, err := f.Begin(t.Context(), proxyIdentity, c.begin())
			f.must(err)
			back := f.signIn(res, "alice@example.com", "wonderland")
			_, err = f.Identify(t.Context(), proxyIdentity, back)
			refusals := f.events(audit.LoginRefused)
			if !tt.hits {
				f.must(err)
				return
			}
			f.wantFault(err, fault.Denied, "laptop lost")
			f.wantFault(err, fault.Denied, "root@example.com")
			if len(refusals) != 1 || refusals[0].Actor.Name != "alice@example.com" {
				t.Errorf("got refusals %+v in the log, want one of alice", refusals)
			}
		})
	}
}

// What is taken while a login is under way is not in its certificates, whichever step it has reached: the
// user is refused, or has the other roles.
func TestWhatIsTakenDuringALoginIsNotIssued(t *testing.T) {
	t.Parallel()
	deny := access.Effect{Kind: access.Deny}
	removeUser := func(f *fixture) {
		user, err := f.state.User(f.t.Context(), identity.UserKey(aliceFact))
		f.must(err)
		f.must(f.state.Users.RemoveUser(f.t.Context(), user, state.By{Name: "root", Time: f.clock()}))
	}
	for name, tt := range map[string]struct {
		take  func(*fixture)
		kind  fault.Kind // of the refusal; empty: roles are what is left
		roles string
	}{
		"nothing":        {func(*fixture) {}, "", "dev"},
		"a lock":         {func(f *fixture) { f.lock(access.Facts{User: aliceFact}, deny) }, fault.Denied, ""},
		"another's lock": {func(f *fixture) { f.lock(access.Facts{Role: "ops"}, deny) }, "", "dev"},
		"what was issued before": {func(f *fixture) {
			match := access.Facts{Connector: "corp", IssuedBefore: f.clock()}
			f.lock(match, access.Effect{Kind: access.Deny})
		}, fault.Denied, ""},
		"a role that the connector maps": {func(f *fixture) {
			match := access.Facts{Connector: "corp", IssuedBefore: f.clock()}
			f.lock(match, access.Effect{Kind: access.WithoutRole, Role: "dev"})
		}, "", ""},
		// The lock hits the certificate at every node: its deny entries must go on to count.
		"a role for good": {func(f *fixture) {
			f.lock(access.Facts{User: aliceFact}, access.Effect{Kind: access.WithoutRole, Role: "dev"})
		}, "", "dev"},
		"the user": {removeUser, fault.Expired, ""},
		"the user, who logs in elsewhere": {func(f *fixture) {
			removeUser(f)
			f.must(f.state.Users.PutUser(f.t.Context(), state.Stored[state.User]{}, state.User{
				Connector: "corp", Subject: "sub-alice", Mapped: []string{"dev"},
			}, state.By{Time: f.clock()}))
		}, fault.Denied, ""},
		"the connector": {func(f *fixture) {
			corp, err := f.vault.Connectors.Connector(f.t.Context(), "corp")
			f.must(err)
			// The change was begun before the user was identified, and is committed after it.
			begun := state.By{Name: "root", Time: f.clock().Add(-time.Hour)}
			f.must(f.vault.Connectors.RemoveConnector(f.t.Context(), corp, begun))
		}, fault.Denied, ""},
		"a mapping whose change was begun before": {func(f *fixture) {
			corp, err := f.vault.Connectors.Connector(f.t.Context(), "corp")
			f.must(err)
			begun := f.clock().Add(-time.Hour)
			taken := state.LockOfIssuedBefore(access.Facts{Connector: "corp"},
				access.Effect{Kind: access.WithoutRole, Role: "dev"}, begun)
			f.must(f.vault.Connectors.PutConnector(f.t.Context(), corp, corp.Connector, []access.Lock{taken},
				state.By{Name: "root", Time: begun}))
		}, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			c := newClient(t)
			_, code := f.enrol(c) // advances the clock after the login
			tt.take(f)
			refusals := len(f.events(audit.LoginRefused))
			assured, err := f.redeem(c.redeem(code))
			if tt.kind == "" {
				f.must(err)
				if got := strings.Join(assured.Who().Roles, " "); got != tt.roles {
					t.Errorf("got roles %q, want %q", got, tt.roles)
				}
				return
			}
			f.wantFault(err, tt.kind, "")
			if _, err := f.redeem(c.redeem(code)); !fault.Is(err, fault.Expired) {
				t.Errorf("the refused login again: got %v, want it used up", err)
			}
			if n := len(f.events(audit.LoginRefused)) - refusals; tt.kind == fault.Denied && n != 1 {
				t.Errorf("got %d refusals in the log, want 1", n)
			}
		})
	}
}

// A change between the decision and the commit of a login refuses the commit, and the next decision knows it.
func TestAChangeDuringTheIssueIsDecidedAgain(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	c := newClient(t)
	_, code := f.enrol(c)
	assured, err := f.Redeem(t.Context(), c.redeem(code))
	f.must(err)
	f.lock(access.Facts{Connector: "corp", IssuedBefore: f.clock()},
		access.Effect{Kind: access.WithoutRole, Role: "dev"})
	err = assured.Commit()(t.Context(), []json.RawMessage{[]byte(`{}`)})
	f.wantFault(err, fault.Conflict, "tsh login")
	assured, err = f.redeem(c.redeem(code))
	if err != nil || len(assured.Who().Roles) != 0 {
		t.Errorf("got %+v and %v by the next decision, want it without the role", assured.Who().Roles, err)
	}
}
