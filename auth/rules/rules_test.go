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
	f.must(state.NewVault(f.st, keyringtest.Seal(t)).CreateCluster(t.Context(), state.InitialRecords{
		Cluster:     state.Cluster{Name: cluster, Created: time.Now()},
		Keyring:     json.RawMessage(`{}`),
		Authorities: first,
		Roles:       []access.Role{{Name: "one"}},
	}))
	f.cfg = rules.Config{
		Source:  f.st.Reader,
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
	if string(here.Roles.Payload) != string(other.Roles.Payload) ||
		string(here.Roles.Sig) != string(other.Roles.Sig) {
		t.Errorf("got roles\n%s\nand\n%s, want the same bytes", here.Roles.Payload, other.Roles.Payload)
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
	sets := make(chan signed.Set)
	watched := make(chan error, 1)
	go func() {
		watched <- f.Watch(ctx, func(s signed.Set) error {
			select {
			case sets <- s:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	}()
	began := time.Now()
	trust, err := signed.Open(f.keys.Pin(), <-sets)
	f.must(err)
	f.addRole("two")
	for known := false; !known; _, known = trust.Policy.Roles["two"] {
		if trust, err = trust.Advance(<-sets); err != nil {
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
	before, err := f.st.RoleSet(t.Context())
	f.must(err)
	for range 3 {
		f.must(f.Publish(t.Context()))
	}
	f.addRole("two")
	after, err := f.st.RoleSet(t.Context())
	f.must(err)
	if after.Revision != before.Revision+1 {
		t.Errorf("got revision %d after three heads and a role, want %d", after.Revision, before.Revision+1)
	}
}

// Machines reject a set that is signed by a key which is not the cluster's.
func TestASetOfAnotherKeyIsRejected(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	_, key, err := ed25519.GenerateKey(nil)
	f.must(err)
	f.cfg.Signer = key
	forger := rules.New(f.cfg)
	f.must(forger.Publish(t.Context()))
	set, _, err := forger.Current()
	f.must(err)
	if _, err := signed.Open(f.keys.Pin(), set); err == nil {
		t.Error("a set of another key was accepted")
	}
}
