package rules_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/fault"
	signed "github.com/threshold-access/threshold/internal/rules"
	"github.com/threshold-access/threshold/internal/tunnel"
	"github.com/threshold-access/threshold/proxy/proxytest"
	"github.com/threshold-access/threshold/proxy/rules"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// waitLimit bounds every wait in these tests.
const waitLimit = 10 * time.Second

// fixture is a Carrier with the auth service of a test.
type fixture struct {
	*rules.Carrier
	*proxytest.Auth
	t   *testing.T
	cfg rules.Config
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	a := proxytest.New(t)
	client := a.Client()
	t.Cleanup(client.Close)
	cfg := rules.Config{
		Pin:   a.Pin(),
		First: a.SignRules(),
		Path:  filepath.Join(t.TempDir(), "rules.json"),
		Auth:  client,
		Log:   proxytest.Log(),
	}
	c, err := rules.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return &fixture{c, a, t, cfg}
}

// run starts Run. stop ends it and waits for it, and so for its last write to disk.
func (f *fixture) run() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			f.t.Error(err)
		}
	}
}

// next verifies the next push to a subscriber.
func next(t *testing.T, f *fixture, pushes <-chan tunnel.RulesPush) *signed.Trust {
	t.Helper()
	select {
	case n := <-pushes:
		return verified(t, f, n)
	case <-time.After(waitLimit):
		t.Fatal("got no rules")
	}
	return nil
}

func verified(t *testing.T, f *fixture, n tunnel.RulesPush) *signed.Trust {
	t.Helper()
	s, err := signed.Decode(n.Set)
	if err != nil {
		t.Fatal(err)
	}
	trust, err := signed.Open(f.Pin(), s)
	if err != nil {
		t.Fatal(err)
	}
	return trust
}

// A tunnel sends only the head while the documents are the same. The digest of the documents tells whether
// they are.
func TestARulesPushTellsWhetherDocumentsChanged(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	pushes, unsubscribe := f.Subscribe()
	defer unsubscribe()
	first := <-pushes
	stop := f.run()
	defer stop()
	f.Publish(f.SignRulesAt(time.Now().Add(time.Second)))
	later := <-pushes
	held := verified(t, f, first)
	head, err := signed.DecodeHead(later.Head)
	if err != nil {
		t.Fatal(err)
	}
	advanced, err := held.AdvanceHead(head)
	if err != nil || !advanced.Head.Time.After(held.Head.Time) {
		t.Errorf("got %v, want a newer head", err)
	}
	if later.DocsDigest != first.DocsDigest {
		t.Errorf("got digest %x after %x for the same documents", later.DocsDigest, first.DocsDigest)
	}
	f.SetRoles(role("ops"))
	f.Publish(f.SignRulesAt(time.Now().Add(2 * time.Second)))
	for {
		n := <-pushes
		if _, ok := verified(t, f, n).Policy.Roles["ops"]; !ok {
			continue
		}
		if n.DocsDigest == first.DocsDigest {
			t.Error("got the same digest for changed documents")
		}
		return
	}
}

func role(name string) access.Role { return access.Role{Name: name} }

// New rules from the auth service reach the subscribers, Current and the file, which only the owner may read.
func TestNewRulesReachSubscribersDiskAndCurrent(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	pushes, unsubscribe := f.Subscribe()
	defer unsubscribe()
	first := next(t, f, pushes) // the present rules
	stop := f.run()
	f.SetRoles(role("ops"))
	f.Publish(f.SignRulesAt(time.Now().Add(time.Second)))
	for {
		if _, ok := next(t, f, pushes).Policy.Roles["ops"]; ok {
			break
		}
	}
	if _, ok := f.Current().Policy.Roles["ops"]; !ok || f.Current().Head.Time.Before(first.Head.Time) {
		t.Error("got the old rules, want the new ones")
	}
	stop()
	if info, err := os.Stat(f.cfg.Path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("got %v, %v, want a file of mode 0600", info, err)
	}
}

// Rules that are older or of another cluster never reach a subscriber, so a compromised auth service cannot
// bring back old rules.
func TestOldAndForeignRulesChangeNothing(t *testing.T) {
	t.Parallel()
	f, foreign := newFixture(t), proxytest.New(t)
	stop := f.run()
	f.SetRoles(role("ops"))
	older := f.SignRulesAt(time.Now().Add(-time.Hour))
	f.Publish(foreign.SignRules())
	f.Publish(older)
	good := f.SignRulesAt(time.Now().Add(time.Second))
	pushes, unsubscribe := f.Subscribe()
	defer unsubscribe()
	f.Publish(good)
	for {
		got := next(t, f, pushes)
		if !got.Head.Time.After(time.Now().Add(-time.Minute)) || got.Cluster != f.Current().Cluster {
			t.Errorf("got a head of %s, want no older one", got.Head.Time)
		}
		if _, ok := got.Policy.Roles["ops"]; ok {
			break
		}
	}
	stop()
}

// After a restart without the auth service, the rules on disk are used and not the older ones from the
// membership.
func TestTheLastGoodRulesSurviveARestartWithoutAuth(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	pushes, unsubscribe := f.Subscribe()
	defer unsubscribe()
	stop := f.run()
	f.SetRoles(role("ops"))
	f.Publish(f.SignRulesAt(time.Now().Add(time.Second)))
	for {
		if _, ok := next(t, f, pushes).Policy.Roles["ops"]; ok {
			break
		}
	}
	stop()
	f.SetDown(true)
	for name, first := range map[string]signed.Set{
		"with an older set from the membership": f.cfg.First,
		"without a set from the membership":     {},
	} {
		cfg := f.cfg
		cfg.First = first
		again, err := rules.New(cfg)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if _, ok := again.Current().Policy.Roles["ops"]; !ok {
			t.Errorf("%s: got the older rules, want those on disk", name)
		}
	}
}

// Rules of another cluster are refused, from the membership and from disk. A bad file does no harm if the
// membership has valid rules.
func TestNewRefusesWhatTheClusterDidNotSign(t *testing.T) {
	t.Parallel()
	f, foreign := newFixture(t), proxytest.New(t)
	cfg := f.cfg
	cfg.First = foreign.SignRules()
	if _, err := rules.New(cfg); !fault.Is(err, fault.Unavailable) || fault.Remedy(err) == "" {
		t.Errorf("got %v, want unavailable with a remedy", err)
	}
	b, err := foreign.SignRules().Encode()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(cfg.Path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := rules.New(cfg); err == nil {
		t.Error("got another cluster's rules from disk")
	}
	if _, err := rules.New(f.cfg); err != nil {
		t.Errorf("got %v, want the first set instead of a bad file", err)
	}
}

func TestRunReconnectsToAuth(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.SetDown(true)
	stop := f.run()
	defer stop()
	f.SetRoles(role("ops"))
	pushes, unsubscribe := f.Subscribe()
	defer unsubscribe()
	f.SetDown(false)
	for {
		if _, ok := next(t, f, pushes).Policy.Roles["ops"]; ok { // the first message of the new stream
			return
		}
	}
}
