package rules_test

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"log/slog"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/threshold-access/threshold/auth/rules"
	"github.com/threshold-access/threshold/auth/state"
	"github.com/threshold-access/threshold/ca/keyring/keyringtest"
	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/clustertest"
	"github.com/threshold-access/threshold/internal/fault"
	signed "github.com/threshold-access/threshold/internal/rules"
	"github.com/threshold-access/threshold/raftstore/raftstoretest"
)

const cluster = clustertest.Name

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction(raftstoretest.UnansweredFuture))
}

// fixture is a publisher over the store of a new cluster.
type fixture struct {
	*testing.T
	*rules.Publisher
	st   *state.State
	keys *clustertest.Cluster
	cfg  rules.Config
}

// newFixture creates a cluster with its authorities document and the role "one".
func newFixture(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{T: t, st: state.New(raftstoretest.Open(t)), keys: clustertest.NewInMemory(t)}
	first, err := rules.FirstAuthorities(f.keys.RootKey(), cluster, f.keys.Authorities(), time.Now())
	f.must(err)
	f.must(state.NewVault(f.st, keyringtest.Secrets(t)).CreateCluster(t.Context(), state.InitialRecords{
		Cluster:     state.Cluster{Name: cluster, Created: time.Now()},
		Keyring:     json.RawMessage(`{}`),
		Authorities: first,
		Roles:       []access.Role{{Name: "one"}},
	}))
	f.cfg = rules.Config{
		Source:  f.st.Rules,
		Cluster: cluster,
		Signer:  f.keys.RulesKey(),
		Now:     time.Now,
		Log:     slog.New(slog.DiscardHandler),
	}
	f.Publisher = rules.New(f.cfg)
	return f
}

func (f *fixture) must(err error) {
	f.Helper()
	if err != nil {
		f.Fatal(err)
	}
}

func (f *fixture) current() signed.Set {
	f.Helper()
	s, _, err := f.Current()
	f.must(err)
	return s
}

func (f *fixture) addRole(name string) {
	f.Helper()
	_, err := f.st.Roles.PutRole(
		f.Context(),
		state.Stored[access.Role]{},
		access.Role{Name: name},
		time.Now(),
	)
	f.must(err)
}

func TestTheSetVerifiesFromThePinAlone(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	if _, _, err := f.Current(); !fault.Is(err, fault.Unavailable) || fault.Remedy(err) == "" {
		t.Errorf("before the first head: got %v, want unavailable with a remedy", err)
	}
	f.must(f.Publish(t.Context()))
	trust, err := signed.Open(f.keys.Pin(), f.current())
	f.must(err)
	if _, known := trust.Policy.Roles["one"]; !known || trust.Cluster != cluster {
		t.Errorf("got %+v of %q, want the role one of %s", trust.Policy, trust.Cluster, cluster)
	}
	chain, err := f.Authorities(t.Context())
	f.must(err)
	if _, _, err := signed.OpenAuthorities(f.keys.Pin(), chain); err != nil {
		t.Errorf("the chain alone: got %v", err)
	}
}

func TestAChangedRoleAdvancesTheSet(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.must(f.Publish(t.Context()))
	trust, err := signed.Open(f.keys.Pin(), f.current())
	f.must(err)
	f.addRole("two")
	f.must(f.Publish(t.Context()))
	newer, err := trust.Advance(f.current())
	f.must(err)
	if _, known := newer.Policy.Roles["two"]; !known {
		t.Errorf("got %+v, want the role two", newer.Policy)
	}
	if _, err := newer.Advance(trust.Set()); err == nil {
		t.Error("the set before was accepted again")
	}
}

func TestEveryReplicaSignsTheSameDocuments(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.addRole("two")
	f.must(f.Publish(t.Context()))
	here := f.current()
	there := rules.New(f.cfg)
	f.must(there.Publish(t.Context()))
	other, _, err := there.Current()
	f.must(err)
	for kind, doc := range here.Docs {
		if string(doc.Payload) != string(other.Docs[kind].Payload) ||
			string(doc.Sig) != string(other.Docs[kind].Sig) {
			t.Errorf("got %s\n%s\nand\n%s, want the same bytes", kind, doc.Payload, other.Docs[kind].Payload)
		}
	}
}

// A changed role reaches a watcher long before the next head is due by the clock.
func TestWatchersGetAChangeAtOnce(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	ran := make(chan error, 1)
	runCtx, stop := context.WithCancel(t.Context())
	go func() { ran <- f.Publisher.Run(runCtx) }()
	pieces := make(chan []byte)
	watched := make(chan error, 1)
	f.must(f.Publish(ctx))
	trust, err := signed.Open(f.keys.Pin(), f.current())
	f.must(err)
	have := map[signed.Kind][]byte{}
	for kind, ref := range trust.Head.Docs {
		have[kind] = ref.Digest
	}
	go func() {
		watched <- f.Watch(ctx, have, func(piece []byte) error {
			select {
			case pieces <- piece:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	}()
	began := time.Now()
	machine := signed.NewReceiver(trust, began)
	f.addRole("two")
	for known := false; !known; _, known = machine.Current().Policy.Roles["two"] {
		if _, err := machine.Offer(time.Now(), <-pieces); err != nil {
			t.Fatal(err)
		}
	}
	if took := time.Since(began); took > rules.HeadInterval/2 {
		t.Errorf("the change took %s to arrive, want it at once", took)
	}
	cancel()
	if err := <-watched; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v from Watch, want it to end with its context", err)
	}
	stop()
	if err := <-ran; err != nil {
		t.Errorf("got %v from Run, want nil", err)
	}
}

func TestHeadsWriteNothing(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.must(f.Publish(t.Context())) // begins a term
	f.addRole("two")
	before, err := f.st.RoleSet(t.Context())
	f.must(err)
	for range 3 {
		f.must(f.Publish(t.Context()))
	}
	f.addRole("three")
	after, err := f.st.RoleSet(t.Context())
	f.must(err)
	if after.Revision != before.Revision+1 {
		t.Errorf("got revision %d after three heads and a role, want %d", after.Revision, before.Revision+1)
	}
}

// A publisher with a key that machines do not trust publishes nothing.
func TestAKeyOfAnotherClusterPublishesNothing(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	_, key, err := ed25519.GenerateKey(nil)
	f.must(err)
	f.cfg.Signer = key
	forger := rules.New(f.cfg)
	if err := forger.Publish(t.Context()); !fault.Is(err, fault.Internal) || fault.Remedy(err) == "" {
		t.Errorf("got %v, want an internal fault with a remedy", err)
	}
	if _, _, err := forger.Current(); !fault.Is(err, fault.Unavailable) {
		t.Errorf("got %v, want no rules", err)
	}
}

// headOf is the head of the current set of a publisher.
func headOf(f *fixture, p *rules.Publisher) signed.Head {
	f.Helper()
	f.must(p.Publish(f.Context()))
	set, _, err := p.Current()
	f.must(err)
	trust, err := signed.Open(f.keys.Pin(), set)
	f.must(err)
	return trust.Head
}

// No two heads have the same number, whatever happens between them, and the head that is signed later by a
// publisher that leads has the higher one. The clock of auth makes no difference.
func TestHeadsAreNumbered(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	clock := time.Now()
	f.cfg.Now = func() time.Time { return clock }
	first, second := rules.New(f.cfg), rules.New(f.cfg)
	var last signed.Head
	for i, tt := range []struct {
		name string
		by   *rules.Publisher
		off  time.Duration
	}{
		{"the first head", first, 0},
		{"the next head", first, 0},
		{"a clock an hour behind", first, -time.Hour},
		{"another leader", second, -time.Hour},
		{"the same leader", second, time.Hour},
		{"the first leads again", first, 0},
		{"after a restart", rules.New(f.cfg), -time.Hour},
		{"a second restart with the clock ahead", rules.New(f.cfg), time.Hour},
		{"a third restart with the clock right", rules.New(f.cfg), 0},
	} {
		clock = time.Now().Add(tt.off)
		head := headOf(f, tt.by)
		if i > 0 && !last.Sequence.Before(head.Sequence) {
			t.Errorf("%s: got number %s after %s, want a higher one", tt.name, head.Sequence, last.Sequence)
		}
		if !head.Time.Equal(clock.UTC()) {
			t.Errorf("%s: got the time %s, want that of the clock", tt.name, head.Time)
		}
		last = head
	}
}

// The settings are a signed document with a revision of its own: a change of settings leaves the roles as
// they are.
func TestSettingsAreADocumentOfTheirOwn(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	before := headOf(f, f.Publisher)
	old, err := f.st.Settings.Settings(t.Context())
	f.must(err)
	settings := access.Settings{RulesAge: access.Duration(time.Hour)}
	f.must(f.st.Settings.PutSettings(t.Context(), old, settings, time.Now()))
	after := headOf(f, f.Publisher)
	if before.Docs[signed.RolesKind].Revision != after.Docs[signed.RolesKind].Revision ||
		!before.Docs[signed.SettingsKind].Revision.Before(after.Docs[signed.SettingsKind].Revision) {
		t.Errorf("got %+v after %+v, want newer settings and the same roles", after.Docs, before.Docs)
	}
	trust, err := signed.Open(f.keys.Pin(), f.current())
	f.must(err)
	if trust.MaxAge() != time.Hour {
		t.Errorf("got a rules_age of %s, want the one that was set", trust.MaxAge())
	}
	err = f.st.Settings.PutSettings(t.Context(), old, settings, time.Now())
	if !fault.Is(err, fault.Conflict) {
		t.Errorf("over settings that have changed: got %v, want a conflict", err)
	}
}
