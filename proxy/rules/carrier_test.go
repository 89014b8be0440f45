package rules_test

import (
	"context"
	"fmt"
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

// node takes pushes as a node does, over one tunnel.
type node struct {
	t        *testing.T
	receiver *signed.Receiver
	carried  map[string]signed.Digest
	bytes    int // of all pushes
}

// newNode is a node with the rules that its membership came with.
func (f *fixture) newNode() *node {
	f.t.Helper()
	trust, err := signed.Open(f.Pin(), f.cfg.First)
	if err != nil {
		f.t.Fatal(err)
	}
	return &node{f.t, signed.NewReceiver(trust, time.Now()), map[string]signed.Digest{}, 0}
}

// next takes the next push of a subscription, and returns the rules that are in force then.
func (n *node) next(pushes <-chan tunnel.RulesPush) *signed.Trust {
	n.t.Helper()
	select {
	case push := <-pushes:
		pieces, head := push.Next(n.carried)
		n.carried = push.Digests()
		for _, piece := range append(pieces, head) {
			n.bytes += len(piece)
		}
		received, err := n.receiver.Offer(time.Now(), append(pieces, head)...)
		if err != nil || len(received.Lacking) > 0 {
			n.t.Fatalf("got %+v, %v, want rules that a node can use", received, err)
		}
	case <-time.After(waitLimit):
		n.t.Fatal("got no rules")
	}
	return n.receiver.Current()
}

// until takes pushes until the role is in force.
func (n *node) until(pushes <-chan tunnel.RulesPush, role string) {
	n.t.Helper()
	for {
		if _, ok := n.next(pushes).Policy.Roles[role]; ok {
			return
		}
	}
}

// A tunnel carries what a node lacks: at first everything, then a head, or a head and what has changed.
func TestAPushHasWhatChanged(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	var roles []access.Role
	for i := range 500 {
		roles = append(roles, role(fmt.Sprintf("role-%d", i)))
	}
	f.SetRoles(roles...)
	pushes, unsubscribe := f.Subscribe()
	defer unsubscribe()
	stop := f.run()
	defer stop()
	n := f.newNode()
	n.until(pushes, "role-499")
	whole := n.bytes
	n.bytes = 0
	later := time.Now().Add(time.Minute)
	f.Publish(f.SignRulesAt(later))
	if trust := n.next(pushes); !trust.Head.Time.Equal(later) || n.bytes > 2000 {
		t.Errorf("got %d bytes and a head of %s, want a new head alone", n.bytes, trust.Head.Time)
	}
	n.bytes = 0
	f.SetRoles(append(roles, role("ops"))...)
	f.Publish(f.SignRules())
	n.until(pushes, "ops")
	if n.bytes > whole/8 {
		t.Errorf("got %d bytes for one role more, want few of %d", n.bytes, whole)
	}
}

func role(name string) access.Role { return access.Role{Name: name} }

// New rules from the auth service reach the subscribers, Current and the file, which only the owner may read.
func TestNewRulesReachSubscribersDiskAndCurrent(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	pushes, unsubscribe := f.Subscribe()
	defer unsubscribe()
	n := f.newNode()
	first := n.next(pushes) // the present rules
	changed := f.Changed()
	stop := f.run()
	f.SetRoles(role("ops"))
	f.Publish(f.SignRules())
	n.until(pushes, "ops")
	<-changed
	current := f.Current()
	if _, ok := current.Policy.Roles["ops"]; !ok || current.Head.Sequence.Before(first.Head.Sequence) {
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
	older, newer := f.SignRules(), f.SignRules()
	f.Publish(newer)
	f.Publish(foreign.SignRules())
	f.Publish(older)
	f.Publish(f.SignRules())
	pushes, unsubscribe := f.Subscribe()
	defer unsubscribe()
	f.newNode().until(pushes, "ops") // fails if anything older comes
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
	f.Publish(f.SignRules())
	f.newNode().until(pushes, "ops")
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
	f.newNode().until(pushes, "ops") // from the first pieces of the new stream
}
