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

const waitLimit = 10 * time.Second

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

func (c *fixture) run() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			c.t.Error(err)
		}
	}
}

// next is the next set that a follower hears of, verified.
func next(t *testing.T, c *fixture, news <-chan tunnel.RulesPush) *signed.Trust {
	t.Helper()
	select {
	case n := <-news:
		return verified(t, c, n)
	case <-time.After(waitLimit):
		t.Fatal("heard of no rules")
	}
	return nil
}

func verified(t *testing.T, c *fixture, n tunnel.RulesPush) *signed.Trust {
	t.Helper()
	s, err := signed.Decode(n.Set)
	if err != nil {
		t.Fatal(err)
	}
	trust, err := signed.Open(c.Pin(), s)
	if err != nil {
		t.Fatal(err)
	}
	return trust
}

// A tunnel carries a head alone while the documents are the same; so they must be told apart.
func TestARulesPushTellsWhetherDocumentsChanged(t *testing.T) {
	c := newFixture(t)
	news, stopFollowing := c.Subscribe()
	defer stopFollowing()
	first := <-news
	stop := c.run()
	defer stop()
	c.Publish(c.SignRulesAt(time.Now().Add(time.Second)))
	later := <-news
	held := verified(t, c, first)
	head, err := signed.DecodeHead(later.Head)
	if err != nil {
		t.Fatal(err)
	}
	if next, err := held.AdvanceHead(head); err != nil || !next.Head.Time.After(held.Head.Time) ||
		later.DocsDigest != first.DocsDigest {
		t.Errorf(
			"got %v, and documents %x after %x, want a newer head over the same",
			err,
			later.DocsDigest,
			first.DocsDigest,
		)
	}
	c.SetRoles(role("ops"))
	c.Publish(c.SignRulesAt(time.Now().Add(2 * time.Second)))
	for {
		n := <-news
		if _, ok := verified(t, c, n).Policy["ops"]; !ok {
			continue
		}
		if n.DocsDigest == first.DocsDigest {
			t.Error("got changed documents that count as the same")
		}
		return
	}
}

func role(name string) access.Role { return access.Role{Name: name} }

func TestNewRulesReachSubscribersDiskAndCurrent(t *testing.T) {
	c := newFixture(t)
	sets, stopFollowing := c.Subscribe()
	defer stopFollowing()
	first := next(t, c, sets) // at once
	stop := c.run()
	c.SetRoles(role("ops"))
	c.Publish(c.SignRulesAt(time.Now().Add(time.Second)))
	for {
		if _, ok := next(t, c, sets).Policy["ops"]; ok {
			break
		}
	}
	if _, ok := c.Current().Policy["ops"]; !ok || c.Current().Head.Time.Before(first.Head.Time) {
		t.Error("got the old rules, want the new ones")
	}
	stop() // waits for the write, too
	if info, err := os.Stat(c.cfg.Path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("got %v, %v, want a file of mode 0600", info, err)
	}
}

func TestOldAndForeignRulesChangeNothing(t *testing.T) {
	c, foreign := newFixture(t), proxytest.New(t)
	stop := c.run()
	c.SetRoles(role("ops"))
	older := c.SignRulesAt(time.Now().Add(-time.Hour))
	c.Publish(foreign.SignRules())
	c.Publish(older)
	good := c.SignRulesAt(time.Now().Add(time.Second))
	sets, stopFollowing := c.Subscribe()
	defer stopFollowing()
	c.Publish(good)
	for {
		got := next(t, c, sets)
		if !got.Head.Time.After(time.Now().Add(-time.Minute)) || got.Cluster != c.Current().Cluster {
			t.Errorf("got a head of %s, want no old one", got.Head.Time)
		}
		if _, ok := got.Policy["ops"]; ok {
			break
		}
	}
	stop()
}

func TestTheLastGoodRulesSurviveARestartWithoutAuth(t *testing.T) {
	c := newFixture(t)
	sets, stopFollowing := c.Subscribe()
	defer stopFollowing()
	stop := c.run()
	c.SetRoles(role("ops"))
	c.Publish(c.SignRulesAt(time.Now().Add(time.Second)))
	for {
		if _, ok := next(t, c, sets).Policy["ops"]; ok {
			break
		}
	}
	stop() // waits for the write, too
	c.Down(true)
	for name, first := range map[string]signed.Set{"with an older set from the membership": c.cfg.First, "with none": {}} {
		cfg := c.cfg
		cfg.First = first
		again, err := rules.New(cfg)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if _, ok := again.Current().Policy["ops"]; !ok {
			t.Errorf("%s: got the older rules, want those on disk", name)
		}
	}
}

func TestNewRefusesWhatTheClusterDidNotSign(t *testing.T) {
	c, foreign := newFixture(t), proxytest.New(t)
	cfg := c.cfg
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
	if _, err := rules.New(c.cfg); err != nil {
		t.Errorf("got %v, want the first set in place of a bad file", err)
	}
}

func TestRunReconnectsToAuth(t *testing.T) {
	c := newFixture(t)
	c.Down(true)
	stop := c.run()
	defer stop()
	c.SetRoles(role("ops"))
	sets, stopFollowing := c.Subscribe()
	defer stopFollowing()
	c.Down(false)
	for {
		if _, ok := next(t, c, sets).Policy["ops"]; ok { // the stream's first message, once it is back
			return
		}
	}
}
