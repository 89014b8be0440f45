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
	p := &fixture{T: t, st: state.New(raftstoretest.Open(t)), keys: clustertest.NewInMemory(t)}
	first, err := rules.FirstAuthorities(p.keys.RootKey(), cluster, p.keys.Authorities(), time.Now())
	p.must(err)
	p.must(state.NewVault(p.st, keyringtest.Seal(t)).CreateCluster(t.Context(), state.InitialRecords{
		Cluster:     state.Cluster{Name: cluster, Created: time.Now()},
		Keyring:     json.RawMessage(`{}`),
		Authorities: first,
		Roles:       []access.Role{{Name: "one"}},
	}))
	p.cfg = rules.Config{
		Source:  p.st.Reader,
		Cluster: cluster,
		Signer:  p.keys.RulesKey(),
		Now:     time.Now,
		Log:     slog.New(slog.DiscardHandler),
	}
	p.Publisher = rules.New(p.cfg)
	return p
}

func (p *fixture) must(err error) {
	p.Helper()
	if err != nil {
		p.Fatal(err)
	}
}

func (p *fixture) current() signed.Set {
	p.Helper()
	s, _, err := p.Current()
	p.must(err)
	return s
}

func (p *fixture) addRole(name string) {
	p.Helper()
	_, err := p.st.Roles.PutRole(
		p.Context(),
		state.Stored[access.Role]{},
		access.Role{Name: name},
		time.Now(),
	)
	p.must(err)
}

func TestTheSetVerifiesFromThePinAlone(t *testing.T) {
	t.Parallel()
	p := newFixture(t)
	if _, _, err := p.Current(); !fault.Is(err, fault.Unavailable) || fault.Remedy(err) == "" {
		t.Errorf("before the first head: got %v, want unavailable with a remedy", err)
	}
	p.must(p.Publish(t.Context()))
	trust, err := signed.Open(p.keys.Pin(), p.current())
	p.must(err)
	if _, known := trust.Policy["one"]; !known || trust.Cluster != cluster {
		t.Errorf("got %+v of %q, want the role one of %s", trust.Policy, trust.Cluster, cluster)
	}
	chain, err := p.Authorities(t.Context())
	p.must(err)
	if _, _, err := signed.OpenAuthorities(p.keys.Pin(), chain); err != nil {
		t.Errorf("the chain alone: got %v", err)
	}
}

func TestAChangedRoleAdvancesTheSet(t *testing.T) {
	t.Parallel()
	p := newFixture(t)
	p.must(p.Publish(t.Context()))
	trust, err := signed.Open(p.keys.Pin(), p.current())
	p.must(err)
	p.addRole("two")
	p.must(p.Publish(t.Context()))
	newer, err := trust.Advance(p.current())
	p.must(err)
	if _, known := newer.Policy["two"]; !known {
		t.Errorf("got %+v, want the role two", newer.Policy)
	}
	if _, err := newer.Advance(trust.Set()); err == nil {
		t.Error("the set before was accepted again")
	}
}

func TestEveryReplicaSignsTheSameDocuments(t *testing.T) {
	t.Parallel()
	p := newFixture(t)
	p.addRole("two")
	p.must(p.Publish(t.Context()))
	here := p.current()
	there := rules.New(p.cfg)
	p.must(there.Publish(t.Context()))
	other, _, err := there.Current()
	p.must(err)
	if string(here.Roles.Payload) != string(other.Roles.Payload) ||
		string(here.Roles.Sig) != string(other.Roles.Sig) {
		t.Errorf("got roles\n%s\nand\n%s, want the same bytes", here.Roles.Payload, other.Roles.Payload)
	}
}

func TestWatchersGetAChangeAtOnce(t *testing.T) {
	t.Parallel()
	p := newFixture(t)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	ran := make(chan error, 1)
	runCtx, stop := context.WithCancel(t.Context())
	go func() { ran <- p.Publisher.Run(runCtx) }()
	sets := make(chan signed.Set)
	watched := make(chan error, 1)
	go func() {
		watched <- p.Watch(ctx, func(s signed.Set) error {
			select {
			case sets <- s:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	}()
	began := time.Now()
	trust, err := signed.Open(p.keys.Pin(), <-sets)
	p.must(err)
	p.addRole("two")
	for known := false; !known; _, known = trust.Policy["two"] {
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
	p := newFixture(t)
	before, err := p.st.RoleSet(t.Context())
	p.must(err)
	for range 3 {
		p.must(p.Publish(t.Context()))
	}
	p.addRole("two")
	after, err := p.st.RoleSet(t.Context())
	p.must(err)
	if after.Revision != before.Revision+1 {
		t.Errorf("got revision %d after three heads and a role, want %d", after.Revision, before.Revision+1)
	}
}

// Machines reject a set that is signed by a key which is not the cluster's.
func TestASetOfAnotherKeyIsRejected(t *testing.T) {
	t.Parallel()
	p := newFixture(t)
	_, key, err := ed25519.GenerateKey(nil)
	p.must(err)
	p.cfg.Signer = key
	forger := rules.New(p.cfg)
	p.must(forger.Publish(t.Context()))
	set, _, err := forger.Current()
	p.must(err)
	if _, err := signed.Open(p.keys.Pin(), set); err == nil {
		t.Error("a set of another key was accepted")
	}
}
