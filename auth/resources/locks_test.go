package resources_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/threshold-access/threshold/auth/state"
	"github.com/threshold-access/threshold/auth/state/statetest"
	"github.com/threshold-access/threshold/internal/access"
	events "github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

var locker = keeperOf(access.ClusterLocks)

// newLockFixture is a cluster with the administrator admin on record, the users alice and bob, the node web
// and the proxy edge.
func newLockFixture(t *testing.T) (f *fixture, web, edge state.Machine) {
	t.Helper()
	f = newFixture(t)
	f.mustApply(doc("connector", "corp", connectorSpec))
	f.putUser(recordOf(admin))
	f.addUser("alice", "dev")
	f.addUser("bob", "dev")
	return f, f.addNode("web", "dev"), f.addMachine(identity.Proxy, "edge", "dev")
}

// recordOf is the record of a user.
func recordOf(who identity.Identity) state.User {
	return state.User{Connector: who.Connector, Subject: who.Subject, Name: who.Name, Mapped: who.Roles}
}

// lock applies a lock without a name.
func (f *fixture) lock(who identity.Identity, spec string) (access.Lock, error) {
	f.Helper()
	out, err := f.apply(who, doc("lock", "", spec))
	if err != nil {
		return access.Lock{}, err
	}
	stored, err := f.st.Lock(f.Context(), out.Resource.Metadata.Name)
	f.must(err)
	return stored.Value, nil
}

func (f *fixture) mustLock(who identity.Identity, spec string) access.Lock {
	f.Helper()
	lock, err := f.lock(who, spec)
	f.must(err)
	return lock
}

// denied returns a lock that denies the user everything now.
func (f *fixture) denied(who identity.Identity) (access.Lock, bool) {
	f.Helper()
	policy, err := f.st.Policy(f.Context())
	f.must(err)
	return policy.Locks.Denying(access.Request{Who: who, Now: time.Now()})
}

func user(subject string, roles ...string) identity.Identity {
	who := statetest.User(subject, roles...)
	who.Connector, who.Subject = "corp", "sub-"+subject
	return who
}

// A lock is made by facts as people write them, gets its id from the cluster, and is in force at
// once. Whoever is not meant goes on.
func TestALockNamesWhomItHits(t *testing.T) {
	t.Parallel()
	f, web, edge := newLockFixture(t)
	before := f.countEvents(events.ResourceApplied)
	const laptop = `{"match":{"user":"Alice"},"for":"2h","message":"laptop lost"}`
	out, err := f.apply(locker, doc("lock", "", laptop))
	f.must(err)
	stored, err := f.st.Lock(t.Context(), out.Resource.Metadata.Name)
	f.must(err)
	lock := stored.Value
	lasts := lock.End.Sub(lock.Created)
	if lasts != 2*time.Hour || lock.Author != locker.Name || lock.Message != "laptop lost" || !out.Created {
		t.Errorf("got %+v, want a lock of two hours by %s", lock, locker.Name)
	}
	var spec, status map[string]any
	f.must(json.Unmarshal(out.Resource.Spec, &spec))
	f.must(json.Unmarshal(out.Resource.Status, &status))
	if status["hits"] != "user alice (corp/sub-alice)" || status["ended"] != false || spec["for"] != nil ||
		spec["force"] != nil || spec["end"] == nil {
		t.Errorf("got %s and %s, want whom it hits and its end", out.Resource.Spec, out.Resource.Status)
	}
	if got, hit := f.denied(user("alice", "dev")); !hit || got.ID != lock.ID {
		t.Error("alice is not locked")
	}
	if _, hit := f.denied(user("bob", "dev")); hit {
		t.Error("bob is locked, who was not meant")
	}
	if n := f.countEvents(events.ResourceApplied) - before; n != 1 {
		t.Errorf("got %d events, want 1", n)
	}
	for spec, hits := range map[string]string{
		`{"match":{"machine":"web"}}`:                            "node web",
		`{"match":{"machine":"` + string(edge.ID) + `"}}`:        "proxy edge",
		`{"match":{"login_proxy":"edge","role":"dev"}}`:          "role dev, logged in by proxy edge",
		`{"match":{"user":"bob","machine":"web","account":"u"}}`: "user bob (corp/sub-bob), account u, node web",
		`{"match":{"via_proxy":"edge","connector":"corp"}}`:      "connector corp, connected by proxy edge",
	} {
		out, err := f.apply(locker, doc("lock", "", spec))
		f.must(err)
		f.must(json.Unmarshal(out.Resource.Status, &status))
		if status["hits"] != hits {
			t.Errorf("%s: got %q, want %q", spec, status["hits"], hits)
		}
	}
	stored, err = f.st.Lock(t.Context(), f.mustLock(locker, `{"match":{"machine":"web"}}`).ID)
	f.must(err)
	if !stored.Value.OfMachine() || stored.Value.Match.Machine != web.ID {
		t.Errorf("got %+v, want the id of the node", stored.Value.Match)
	}
}

// A lock with the same facts and effect is the same lock: message and end are those of the last apply. What
// get shows can be applied again.
func TestTheSameLockAgainIsOneLock(t *testing.T) {
	t.Parallel()
	f, _, _ := newLockFixture(t)
	first := f.mustLock(admin, `{"match":{"user":"alice"},"for":"2h"}`)
	second := f.mustLock(locker, `{"match":{"user":"corp/sub-alice"},"message":"for good"}`)
	if first.ID != second.ID || !second.End.IsZero() || second.Message != "for good" ||
		second.Author != locker.Name {
		t.Errorf("got %+v after %+v, want the same lock with the new end and message", second, first)
	}
	shown := f.getOne(access.ClusterLocks, first.ID)
	if _, err := f.apply(locker, shown); err != nil {
		t.Errorf("what was shown is applied: got %v", err)
	}
	_, err := f.apply(locker, shown)
	f.wantFault("with a revision that was changed", err, fault.Conflict)
	// The lock of a user stays theirs when they are removed, and can still be changed.
	f.must(f.remove(admin, access.Users, "corp/sub-alice"))
	shown = f.getOne(access.ClusterLocks, first.ID)
	shown.Spec = json.RawMessage(replaced(string(shown.Spec), "for good", "removed, too"))
	if _, err := f.apply(locker, shown); err != nil {
		t.Errorf("a lock of a user who was removed: got %v", err)
	}
	other := f.getOne(access.ClusterLocks, first.ID)
	other.Spec = json.RawMessage(`{"match":{"user":"bob"}}`)
	_, err = f.apply(admin, other)
	f.wantFault("other facts under the same id", err, fault.Invalid)
	list, err := f.get(locker, access.ClusterLocks, "")
	f.must(err)
	if len(list.Resources) != 2 { // and the one of the removal
		t.Errorf("got %d locks, want 2", len(list.Resources))
	}
}

func TestLocksAreCheckedStrictly(t *testing.T) {
	t.Parallel()
	f, _, _ := newLockFixture(t)
	for spec, says := range map[string]string{
		`{}`:                        "match: names nothing",
		`{"match":{"usr":"alice"}}`: "usr",
		`{"match":{"user":"alice"},"for":"0.5s"}`:                                 "for: 500ms is not between 1s",
		`{"match":{"user":"alice"},"for":"-1h"}`:                                  "for",
		`{"match":{"user":"alice"},"for":"8761h"}`:                                "for",
		`{"match":{"user":"alice"},"for":"soon"}`:                                 "is not a duration",
		`{"match":{"user":"alice"},"for":"1h","end":"2126-01-01T00:00:00Z"}`:      "for: write either for or end",
		`{"match":{"user":"alice"},"end":"2020-01-01T00:00:00Z"}`:                 "end: is not in the future",
		`{"match":{"user":"alice"},"end":"tomorrow"}`:                             "end",
		`{"match":{"user":"alice"},"without_role":"a b","force":true}`:            "without_role",
		`{"match":{"machine":"web"},"without_role":"dev"}`:                        "without_role",
		`{"match":{"serial":"0x10"}}`:                                             "match.serial",
		`{"match":{"account":"a b"}}`:                                             "match.account",
		`{"match":{"login_id":"a b"}}`:                                            "match.login_id",
		`{"match":{"user":"alice"},"message":"` + strings.Repeat("x", 500) + `"}`: "shorten the message",
		`{"match":{"user":"alice"},"message":"a\nb"}`:                             "message",
		`{"match":{"user":"alice","since":"2026-02-01T00:00:00Z",` +
			`"issued_before":"2026-01-01T00:00:00Z"}}`: "match.since",
	} {
		_, err := f.lock(locker, spec)
		f.wantFault(spec, err, fault.Invalid)
		if !strings.Contains(fault.Message(err), says) {
			t.Errorf("%s: got %q, want it to say %q", spec, fault.Message(err), says)
		}
	}
	if list, err := f.get(locker, access.ClusterLocks, ""); err != nil || len(list.Resources) != 0 {
		t.Errorf("got %d locks and %v, want none", len(list.Resources), err)
	}
}

// A lock of something that does not exist is a misspelt name, unless somebody says otherwise. What has no id
// before it exists cannot be locked.
func TestALockForNobodyIsRefusedUnlessForced(t *testing.T) {
	t.Parallel()
	f, _, _ := newLockFixture(t)
	id := strings.Repeat("ab", 16)
	for _, match := range []string{
		`"user":"corp/nobody"`, `"role":"nobody"`, `"connector":"nobody"`, `"machine":"` + id + `"`,
		`"login_proxy":"` + id + `"`, `"via_proxy":"` + id + `"`,
	} {
		_, err := f.lock(locker, `{"match":{`+match+`}}`)
		f.wantFault(match, err, fault.NotFound)
		if !strings.Contains(fault.Remedy(err), "--force") {
			t.Errorf("%s: got the remedy %q, want --force", match, fault.Remedy(err))
		}
		if _, err := f.lock(locker, `{"match":{`+match+`},"force":true}`); err != nil {
			t.Errorf("%s by force: got %v", match, err)
		}
	}
	_, err := f.lock(locker, `{"match":{"user":"alice"},"without_role":"nobody"}`)
	f.wantFault("without a role that is none", err, fault.NotFound)
	for _, match := range []string{`"user":"nobody"`, `"machine":"nowhere"`, `"login_proxy":"web"`} {
		_, err := f.lock(locker, `{"match":{`+match+`},"force":true}`)
		f.wantFault(match+" by force", err, fault.NotFound)
	}
	f.putUser(state.User{Connector: "corp", Subject: "other", Name: "alice"})
	_, err = f.lock(locker, `{"match":{"user":"alice"}}`)
	f.wantFault("a name of two users", err, fault.Conflict)
}

// A lock by which the caller, or the last administrator, locks themselves out is refused, and the refusal is
// recorded. With force it is made.
func TestALockOutIsRefusedUnlessForced(t *testing.T) {
	t.Parallel()
	second := statetest.User("second", "admin")
	second.Connector = "other"
	self, boss := `"user":"corp/`+locker.Subject+`"`, `"user":"`+admin.Name+`"`
	longAgo := issuedBefore(-time.Hour)
	future := issuedBefore(100 * 365 * 24 * time.Hour)
	const noAdmin = `,"without_role":"admin"`
	for name, tt := range map[string]struct {
		who  identity.Identity
		spec string
		// withSecond: there is another administrator, of another connector.
		withSecond, refused bool
	}{
		"oneself":                          {locker, `"match":{` + self + `}`, false, true},
		"oneself on one machine":           {locker, `"match":{` + self + `,"machine":"web"}`, false, false},
		"the own role":                     {locker, `"match":{"role":"dev"}`, false, true},
		"the own connector":                {locker, `"match":{"connector":"corp"}`, true, true},
		"whatever was issued":              {locker, `"match":{` + future + `}`, true, true},
		"another user":                     {locker, `"match":{"user":"alice"}`, false, false},
		"a role of another user":           {admin, `"match":{"user":"alice"}` + noAdmin, false, false},
		"the own role admin":               {admin, `"match":{"connector":"corp"}` + noAdmin, true, true},
		"the last administrator":           {locker, `"match":{` + boss + `}`, false, true},
		"the last administrator's role":    {locker, `"match":{` + boss + `}` + noAdmin, false, true},
		"for an hour":                      {locker, `"match":{` + boss + `},"for":"1h"`, false, true},
		"one administrator of two":         {locker, `"match":{` + boss + `}`, true, false},
		"what the last administrator has":  {locker, `"match":{` + boss + `,` + longAgo + `}`, false, false},
		"one administrator by the other":   {admin, `"match":{"user":"second"}`, true, false},
		"an administrator on one machine":  {locker, `"match":{` + boss + `,"machine":"web"}`, false, false},
		"the role admin":                   {locker, `"match":{"role":"admin"}`, true, true},
		"the only administrator's account": {locker, `"match":{` + boss + `,"account":"root"}`, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, _, _ := newLockFixture(t)
			if tt.withSecond {
				f.mustApply(doc("connector", "other", connectorSpec))
				f.putUser(recordOf(second))
			}
			f.putUser(recordOf(locker))
			before := f.countEvents(events.ResourceRefused)
			_, err := f.lock(tt.who, `{`+tt.spec+`}`)
			if !tt.refused {
				f.must(err)
				return
			}
			f.wantFault(tt.spec, err, fault.Denied)
			if !strings.Contains(fault.Remedy(err), "--force") {
				t.Errorf("got the remedy %q, want --force", fault.Remedy(err))
			}
			if n := f.countEvents(events.ResourceRefused) - before; n != 1 {
				t.Errorf("got %d refusals in the log, want 1", n)
			}
			if list, err := f.st.ListLocks(t.Context(), state.Page{}); err != nil || len(list.Items) != 0 {
				t.Errorf("got %d locks and %v after the refusal, want none", len(list.Items), err)
			}
			f.mustLock(tt.who, `{`+tt.spec+`,"force":true}`)
		})
	}
}

// A cluster whose last administrator cannot log in any more is not kept from locking them.
func TestAnAdministratorWithoutAConnectorIsNotTheLast(t *testing.T) {
	t.Parallel()
	f, _, _ := newLockFixture(t)
	f.putUser(state.User{Connector: "gone", Subject: "old", Name: "old", Roles: []string{"admin"}})
	f.mustLock(locker, `{"match":{"user":"old"}}`)
	_, err := f.lock(locker, `{"match":{"user":"`+admin.Name+`"}}`)
	f.wantFault("the last who can log in", err, fault.Denied)
}

// Nobody frees themselves: neither by removing a lock on them nor by ending it sooner. Others do.
func TestNobodyEndsALockOnThemselves(t *testing.T) {
	t.Parallel()
	self := `"user":"corp/` + locker.Subject + `"`
	longAgo := issuedBefore(-time.Hour)
	const noAdmin = `,"without_role":"admin"`
	for name, tt := range map[string]struct {
		spec string
		// frees: the keeper of locks would free themselves. adminToo: so would an administrator of corp.
		frees, adminToo bool
	}{
		"on one machine":            {`"match":{` + self + `,"machine":"web"}`, true, false},
		"without their role":        {`"match":{` + self + `},"without_role":"dev"`, true, false},
		"without a role they lost":  {`"match":{` + self + `,` + longAgo + `}` + noAdmin, true, false},
		"issued before":             {`"match":{` + self + `,` + longAgo + `}`, true, false},
		"connector, own role":       {`"match":{"connector":"corp"},"without_role":"dev"`, true, false},
		"connector, one machine":    {`"match":{"connector":"corp","machine":"web"}`, true, true},
		"connector, issued before":  {`"match":{"connector":"corp",` + longAgo + `}` + noAdmin, true, false},
		"role of both, one machine": {`"match":{"role":"dev","account":"root"}`, true, false},
		"somebody else":             {`"match":{"user":"alice"}`, false, false},
		"another role":              {`"match":{"connector":"corp"},"without_role":"users-keeper"`, false, false},
		"a machine":                 {`"match":{"machine":"web"}`, false, false},
		"an account for everybody":  {`"match":{"machine":"web","account":"root"}`, false, false},
		"a login":                   {`"match":{"login_id":"another"}`, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, _, _ := newLockFixture(t)
			f.putUser(recordOf(locker))
			issued := locker
			issued.IssuedAt = time.Now().Truncate(time.Second)
			boss := admin
			boss.IssuedAt = issued.IssuedAt
			lock := f.mustLock(admin, `{`+tt.spec+`,"force":true}`)
			sooner := doc("lock", lock.ID, `{`+tt.spec+`,"for":"1s","force":true}`)
			later := doc("lock", lock.ID, `{`+tt.spec+`,"message":"as before","force":true}`)
			if tt.frees {
				_, err := f.apply(issued, sooner)
				f.wantFault("apply with a sooner end", err, fault.Denied)
				f.wantFault("rm", f.remove(issued, access.ClusterLocks, lock.ID), fault.Denied)
				if _, err := f.apply(issued, later); err != nil {
					t.Errorf("apply without an end: got %v", err)
				}
			} else if err := f.remove(issued, access.ClusterLocks, lock.ID); err != nil {
				t.Errorf("rm: got %v", err)
			} else {
				f.mustLock(admin, `{`+tt.spec+`,"force":true}`)
			}
			err := f.remove(boss, access.ClusterLocks, lock.ID)
			if tt.adminToo {
				f.wantFault("rm by the administrator", err, fault.Denied)
			} else if err != nil {
				t.Errorf("rm by the administrator: got %v", err)
			}
		})
	}
}

// issuedBefore is the fact of a lock that a certificate was issued before the time that is this far from now.
func issuedBefore(fromNow time.Duration) string {
	return `"issued_before":"` + time.Now().UTC().Add(fromNow).Format(time.RFC3339) + `"`
}

// A lock on what was issued before a time ends with the last certificate that it can hit.
func TestALockOnWhatWasIssuedBeforeEnds(t *testing.T) {
	t.Parallel()
	f, _, _ := newLockFixture(t)
	specOf := func(fact string) string { return `{"match":{"connector":"corp",` + fact + `},"force":true}` }
	_, err := f.apply(admin, doc("lock", "", specOf(issuedBefore(-48*time.Hour))))
	f.wantFault("a time before which every certificate has ended", err, fault.Invalid)
	out, err := f.apply(admin, doc("lock", "", specOf(issuedBefore(-time.Hour))))
	f.must(err)
	var spec struct{ End time.Time }
	f.must(json.Unmarshal(out.Resource.Spec, &spec))
	if left := time.Until(spec.End); left < 23*time.Hour || left > 24*time.Hour {
		t.Errorf("got a lock that ends in %s, want it to end a day after the time", left)
	}
}
