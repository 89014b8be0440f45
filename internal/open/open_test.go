package open_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/open"
	"github.com/threshold-access/threshold/internal/rules"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// testRules are rules that a test replaces.
type testRules struct {
	mu      sync.Mutex
	trust   *rules.Trust
	changed chan struct{}
}

func newTestRules() *testRules {
	r := &testRules{changed: make(chan struct{})}
	r.trust = &rules.Trust{Head: rules.Head{Sequence: rules.Sequence{Term: 1, Counter: 1}}}
	return r
}

func (r *testRules) Current() *rules.Trust    { r.mu.Lock(); defer r.mu.Unlock(); return r.trust }
func (r *testRules) Changed() <-chan struct{} { r.mu.Lock(); defer r.mu.Unlock(); return r.changed }

// change puts a policy in force, under the next head.
func (r *testRules) change(p access.Policy) {
	r.mu.Lock()
	defer r.mu.Unlock()
	next := *r.trust
	next.Policy = p
	next.Head.Sequence.Counter++
	r.trust = &next
	close(r.changed)
	r.changed = make(chan struct{})
}

// locked is a policy that locks the users.
func locked(names ...string) access.Policy {
	var locks []access.Lock
	for _, name := range names {
		user := access.UserFact{Connector: "corp", Subject: name}
		locks = append(locks, access.Lock{ID: name, Match: access.Facts{User: user}})
	}
	return access.Policy{Locks: access.NewLocks(locks)}
}

// holder is somebody who may do everything that no lock denies.
type holder struct {
	name string
	// before is called before each decision; nil: nothing is.
	before func()
	count  *int // decisions so far
}

func (h *holder) User() open.User {
	return open.User{Identity: identity.Identity{
		Kind: identity.User, Name: h.name, Connector: "corp", Subject: h.name, Roles: []string{"r"},
	}}
}

func (h *holder) Decide(use open.Use, trust *rules.Trust, now time.Time) error {
	if h.count != nil {
		*h.count++
	}
	if h.before != nil {
		h.before()
	}
	p := trust.Policy
	p.Roles = map[string]access.Role{"r": {Name: "r", Allow: []access.Grant{{
		Nodes:   map[string]access.Strings{"*": {"*"}},
		Logins:  access.Strings{"ubuntu"},
		Actions: access.Strings{"shell", "forward-local"},
	}}}}
	d := p.Decide(access.Request{
		Who: h.User().Identity, Target: access.ToNode(access.Node{ID: use.Node}), Login: use.Login,
		Action: use.Action, Now: now,
	})
	if !d.Allow {
		return errors.New(d.Reason)
	}
	return nil
}

// useOf is a use of the action by somebody.
func useOf(name string, action access.Action) open.Use {
	use := open.Use{Login: "ubuntu", Node: "node-1", Action: action}
	copy(use.Certificate[:], name)
	return use
}

// running is a registry whose Run runs in a synctest bubble.
type running struct {
	*open.Registry
	rules *testRules

	mu      sync.Mutex // guards denials
	denials []open.Denial
}

func run(t *testing.T) *running {
	t.Helper()
	r := &running{rules: newTestRules()}
	r.Registry = open.New(open.Config{
		Rules: r.rules,
		Now:   time.Now,
		Denied: func(d []open.Denial) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.denials = append(r.denials, d...)
		},
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := r.Run(ctx); err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
	synctest.Wait()
	return r
}

// denied returns what was denied since it was last called, as "alice shell 2".
func (r *running) denied() (out []string) {
	synctest.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, d := range r.denials {
		out = append(out, fmt.Sprintf("%s %s %d", d.User.Name, d.Use.Action, len(d.Holders)))
	}
	r.denials = nil
	slices.Sort(out)
	return out
}

func wantDenied(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: got %q denied, want %q", what, got, want)
	}
}

// At a change of the rules all that they deny is reported, with who has it open, and nothing else. It is
// reported once, and again only if it was allowed in between.
func TestAChangeIsDecidedAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := run(t)
		alice, bob := &holder{name: "alice"}, &holder{name: "bob"}
		start := time.Now()
		r.Add(useOf("alice", access.Shell), alice)
		r.Add(useOf("alice", access.Shell), alice)
		forward := r.Add(useOf("alice", access.ForwardLocal), alice)
		r.Add(useOf("bob", access.Shell), bob)
		wantDenied(t, "before the change", r.denied())
		r.rules.change(locked("alice", "carol"))
		wantDenied(t, "after the change", r.denied(), "alice forward-local 1", "alice shell 2")
		r.rules.change(locked("alice"))
		wantDenied(t, "at the next change", r.denied())
		r.rules.change(access.Policy{})
		wantDenied(t, "without the lock", r.denied())
		forward.Remove()
		r.rules.change(locked("alice"))
		wantDenied(t, "locked again", r.denied(), "alice shell 2")
		if time.Since(start) != 0 {
			t.Errorf("got it after %s, want at once", time.Since(start))
		}
	})
}

// A session begins while its user is locked: it is registered, and the rules change before it asks them, or
// after that. Either it is refused, or it is reported.
func TestNoChangeIsLostWhileSomethingOpens(t *testing.T) {
	t.Parallel()
	for _, changeFirst := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			r := run(t)
			alice := &holder{name: "alice"}
			use := useOf("alice", access.Shell)
			entry := r.Add(use, alice)
			if changeFirst {
				r.rules.change(locked("alice"))
			}
			refused := alice.Decide(use, r.rules.Current(), time.Now()) != nil
			if refused {
				entry.Remove()
			}
			r.rules.change(locked("alice"))
			if got := r.denied(); !refused && len(got) != 1 {
				t.Errorf("got %q, want what was opened just before the change reported", got)
			}
			if refused != changeFirst {
				t.Errorf("got refused %v, want %v", refused, changeFirst)
			}
		})
	}
}

// What joins a use that is denied already is reported too: it may have been allowed for a moment.
func TestWhatIsOpenedAfterADenialIsReported(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := run(t)
		alice := &holder{name: "alice"}
		r.Add(useOf("alice", access.Shell), alice)
		r.rules.change(locked("alice"))
		wantDenied(t, "the first", r.denied(), "alice shell 1")
		r.Add(useOf("alice", access.Shell), alice)
		r.rules.change(locked("alice"))
		wantDenied(t, "the second", r.denied(), "alice shell 1")
	})
}

// While the registry decides by rules that deny, newer ones that allow get in force. What these allowed is
// not reported.
func TestADenialIsCheckedByTheNewestRules(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := run(t)
		unlock := sync.OnceFunc(func() { r.rules.change(access.Policy{}) })
		alice, before := &holder{name: "alice"}, r.rules.Current()
		alice.before = func() {
			if r.rules.Current() != before {
				unlock()
			}
		}
		r.Add(useOf("alice", access.Shell), alice)
		r.rules.change(locked("alice"))
		wantDenied(t, "after the unlock", r.denied())
	})
}

// A denial is decided, and before it is noted, newer rules allow the same, and by them something is opened:
// that is not reported.
func TestWhatNewerRulesAllowedMeanwhileIsNotReported(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := run(t)
		alice, bob := &holder{name: "alice"}, &holder{name: "bob"}
		use, before := useOf("alice", access.Shell), r.rules.Current()
		alices, bobs := 0, false
		alice.before = func() { alices++ }
		bob.before = func() {
			// The groups are decided in any order: this is about the case that alice was before bob.
			if r.rules.Current() == before || alices == 0 || bobs {
				return
			}
			bobs = true
			r.rules.change(access.Policy{})
			r.Add(use, &holder{name: "alice"}) // and its owner, who asks the rules now, opens it
		}
		for !bobs {
			old := r.Add(use, alice)
			other := r.Add(useOf("bob", access.Shell), bob)
			r.rules.change(locked("alice"))
			synctest.Wait()
			old.Remove()
			other.Remove()
			if !bobs {
				r.denied()
				r.rules.change(access.Policy{})
				synctest.Wait()
				alices = 0
			}
		}
		wantDenied(t, "of what is open", r.denied(), "alice shell 1") // what was there before
	})
}

// What was decided before it could be registered is decided again if a head came in between.
func TestWhatWasDecidedByAnOlderHeadIsDecidedAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := run(t)
		alice := &holder{name: "alice"}
		old := r.rules.Current().Head.Sequence
		r.AddDecided(useOf("alice", access.Shell), alice, old)
		r.rules.change(locked("bob"))
		wantDenied(t, "of the rules in force", r.denied())
		r.rules.change(locked("bob"))
		synctest.Wait() // Run has seen the lock of bob, who has nothing open
		r.AddDecided(useOf("bob", access.Shell), &holder{name: "bob"}, old)
		wantDenied(t, "of older rules", r.denied(), "bob shell 1")
	})
}

// The end of a lock, and of whatever else ends by the clock, is noticed after Interval at most.
func TestWhatEndsByTheClockIsNoticed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := run(t)
		start := time.Now()
		ends := start.Add(time.Minute + time.Second)
		expiring := &expiring{holder{name: "alice"}, ends}
		r.Add(useOf("alice", access.Shell), expiring)
		<-time.After(time.Minute)
		wantDenied(t, "before the end", r.denied())
		<-time.After(open.Interval)
		wantDenied(t, "after the end", r.denied(), "alice shell 1")
	})
}

// expiring is a holder who is allowed everything until a time.
type expiring struct {
	holder
	ends time.Time
}

func (e *expiring) Decide(_ open.Use, _ *rules.Trust, now time.Time) error {
	if now.Before(e.ends) {
		return nil
	}
	return errors.New("it has ended")
}

// Ten thousand forwarded connections of two users cost two decisions.
func TestWhatIsOfEqualUseIsDecidedOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := run(t)
		count := 0
		alice, bob := &holder{name: "alice", count: &count}, &holder{name: "bob", count: &count}
		for range 5000 {
			r.Add(useOf("alice", access.ForwardLocal), alice)
			r.Add(useOf("bob", access.ForwardLocal), bob)
		}
		r.rules.change(locked("bob"))
		wantDenied(t, "of both", r.denied(), "bob forward-local 5000")
		if count != 2 {
			t.Errorf("got %d decisions, want 2", count)
		}
	})
}

// What is removed is forgotten, however often it is removed and in whatever order.
func TestRemovedEntriesAreForgotten(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := run(t)
		alice := &holder{name: "alice"}
		var entries []*open.Entry
		for range 5 {
			entries = append(entries, r.Add(useOf("alice", access.Shell), alice))
		}
		for _, i := range []int{2, 0, 4, 2} {
			entries[i].Remove()
		}
		if got := r.Len(); got != 2 {
			t.Errorf("got %d entries, want 2", got)
		}
		r.rules.change(locked("alice"))
		wantDenied(t, "of the rest", r.denied(), "alice shell 2")
		entries[1].Remove()
		entries[3].Remove()
		entries[3].Remove()
		(*open.Entry)(nil).Remove()
		r.rules.change(access.Policy{})
		r.rules.change(locked("alice"))
		wantDenied(t, "of nothing", r.denied())
		if got := r.Len(); got != 0 {
			t.Errorf("got %d entries, want none", got)
		}
	})
}

// Entries come and go while the rules change: nothing is reported of whom no lock hits.
func TestManyUsersOpenAndCloseWhileRulesChange(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := run(t)
		var users sync.WaitGroup
		for i := range 20 {
			users.Go(func() {
				name := fmt.Sprintf("user-%d", i)
				for range 100 {
					defer r.Add(useOf(name, access.Shell), &holder{name: name}).Remove()
					e := r.Add(useOf(name, access.ForwardLocal), &holder{name: name})
					<-time.After(time.Millisecond)
					e.Remove()
				}
			})
		}
		for i := range 100 {
			r.rules.change(locked(fmt.Sprintf("nobody-%d", i)))
			<-time.After(time.Millisecond)
		}
		users.Wait()
		wantDenied(t, "of honest users", r.denied())
		if got := r.Len(); got != 0 {
			t.Errorf("got %d entries left, want none", got)
		}
	})
}

// What is open by one certificate is decided by another one from a change on, which is noticed at once. What
// others have open by the first one stays as it is.
func TestAnotherCertificateIsDecidedAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var denied [][]open.Denial
		current := newTestRules()
		r := open.New(open.Config{Rules: current, Now: time.Now, Denied: func(d []open.Denial) {
			denied = append(denied, d)
		}})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- r.Run(ctx) }()
		alice, same := &holder{name: "alice"}, &holder{name: "alice"}
		use := useOf("alice", access.Shell)
		first, second := r.Add(use, alice), r.Add(use, same)
		third := r.Add(useOf("alice", access.ForwardLocal), alice)
		synctest.Wait()
		r.Change(func(h open.Holder) bool { return h == open.Holder(alice) }, func(u open.Use) open.Use {
			u.Certificate[0]++
			if u.Action == access.ForwardLocal {
				u.Action = access.Exec // which nothing allows
			}
			return u
		})
		synctest.Wait()
		if len(denied) != 1 || len(denied[0]) != 1 || denied[0][0].Use.Action != access.Exec ||
			len(denied[0][0].Holders) != 1 || denied[0][0].Use.Certificate == use.Certificate {
			t.Errorf("got %+v denied, want the one that the other certificate does not allow", denied)
		}
		if n := r.Len(); n != 3 {
			t.Errorf("got %d entries, want 3", n)
		}
		for _, e := range []*open.Entry{first, second, third} {
			e.Remove()
		}
		if n := r.Len(); n != 0 {
			t.Errorf("got %d entries after all were removed, want none", n)
		}
		cancel()
		<-done
	})
}
