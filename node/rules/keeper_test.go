package rules_test

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/clustertest"
	signed "github.com/threshold-access/threshold/internal/rules"
	"github.com/threshold-access/threshold/node/rules"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func openKeeper(t *testing.T, c *clustertest.Cluster, dir string, first signed.Set) *rules.Keeper {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	k, err := rules.Open(rules.Config{Dir: dir, Pin: c.Pin(), First: first, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func encode(t *testing.T, s signed.Set) []byte {
	t.Helper()
	b, err := s.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func encodeHead(t *testing.T, s signed.Set) []byte {
	t.Helper()
	b, err := s.EncodeHead()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// flipBit returns a copy of a head with one bit of its payload changed.
func flipBit(head signed.Signed) signed.Signed {
	head.Payload = append([]byte{}, head.Payload...)
	head.Payload[10] ^= 1
	return head
}

func hasRole(k *rules.Keeper, name string) bool {
	_, ok := k.Current().Policy.Roles[name]
	return ok
}

// A pushed set is in force at once and after a restart, and an older one is not accepted after that.
func TestNewerRulesAreAppliedAndSaved(t *testing.T) {
	t.Parallel()
	c, dir := clustertest.NewInMemory(t), t.TempDir()
	first, older := c.SignRules(), c.SignRulesAt(c.Now().Add(time.Millisecond))
	k := openKeeper(t, c, dir, first)
	c.SetRoles(access.Role{Name: "ops"})
	if err := k.Offer(encode(t, c.SignRules())); err != nil {
		t.Fatal(err)
	}
	if !hasRole(k, "ops") {
		t.Error("got no role ops, want it in force")
	}
	k = openKeeper(t, c, dir, first)
	if !hasRole(k, "ops") {
		t.Error("got no role ops after a restart, want it saved")
	}
	if err := k.Offer(encode(t, older)); err == nil {
		t.Error("got rules applied after a restart that are older than those saved, want an error")
	}
}

// Each of these pushes is refused and leaves the rules in force as they are.
func TestRulesThatAreRefused(t *testing.T) {
	t.Parallel()
	c, other := clustertest.NewInMemory(t), clustertest.NewInMemory(t)
	k := openKeeper(t, c, t.TempDir(), c.SignRules())
	older := c.SignRulesAt(c.Now().Add(-time.Hour))
	c.SetRoles(access.Role{Name: "ops"})
	good := c.SignRules()
	if err := k.Offer(encode(t, good)); err != nil {
		t.Fatal(err)
	}
	mixed := good
	mixed.Roles = older.Roles
	altered := c.SignRules()
	altered.Head = flipBit(altered.Head)
	want := k.Current()
	for name, b := range map[string][]byte{
		"older":              encode(t, older),
		"of another cluster": encode(t, other.SignRules()),
		"mixed":              encode(t, mixed),
		"altered":            encode(t, altered),
		"garbage":            []byte("{"),
		"empty":              nil,
		"huge":               make([]byte, signed.MaxSetBytes+1),
	} {
		if err := k.Offer(b); err == nil || k.Current() != want {
			t.Errorf("%s: got %v, want it refused and nothing changed", name, err)
		}
	}
	if err := k.Offer(encode(t, good)); err != nil {
		t.Errorf("the same again: got %v, want no error", err)
	}
}

func TestAHeadAloneRenewsTheRules(t *testing.T) {
	t.Parallel()
	c := clustertest.NewInMemory(t)
	k := openKeeper(t, c, t.TempDir(), c.SignRules())
	c.SetRoles(access.Role{Name: "ops"})
	if err := k.Offer(encode(t, c.SignRules())); err != nil {
		t.Fatal(err)
	}
	for i := 1; i <= 3; i++ {
		want := c.Now().Add(time.Duration(i) * 10 * time.Second)
		err := k.OfferHead(encodeHead(t, c.SignRulesAt(want)))
		if got := k.Current().Head.Time; err != nil || !got.Equal(want) {
			t.Fatalf("got %v and a head of %s, want one of %s", err, got, want)
		}
	}
	if !hasRole(k, "ops") {
		t.Error("got the role ops lost, want the documents to stay")
	}
}

// Each of these heads is refused and leaves the rules in force as they are.
func TestHeadsThatAreRefused(t *testing.T) {
	t.Parallel()
	c, other := clustertest.NewInMemory(t), clustertest.NewInMemory(t)
	k := openKeeper(t, c, t.TempDir(), c.SignRules())
	replaced := c.SignRulesAt(c.Now().Add(time.Second))
	c.SetRoles(access.Role{Name: "ops"})
	if err := k.Offer(encode(t, c.SignRulesAt(c.Now().Add(time.Minute)))); err != nil {
		t.Fatal(err)
	}
	inAnHour := c.Now().Add(time.Hour)
	older := c.SignRulesAt(c.Now().Add(time.Second)) // of the same documents
	later := c.SignRulesAt(inAnHour)
	altered := signed.Set{Head: flipBit(c.SignRulesAt(inAnHour).Head)}
	asRoles := signed.Set{Head: later.Roles}
	c.SetRoles(access.Role{Name: "dev"})
	unknown := c.SignRulesAt(inAnHour)
	want := k.Current()
	for name, b := range map[string][]byte{
		"of documents that were replaced":     encodeHead(t, replaced),
		"older":                               encodeHead(t, older),
		"of another cluster":                  encodeHead(t, other.SignRulesAt(inAnHour)),
		"of documents that were never pushed": encodeHead(t, unknown),
		"altered":                             encodeHead(t, altered),
		"roles in its place":                  encodeHead(t, asRoles),
		"garbage":                             []byte("{"),
		"empty":                               nil,
		"huge":                                make([]byte, signed.MaxSetBytes+1),
	} {
		if err := k.OfferHead(b); err == nil || k.Current() != want {
			t.Errorf("%s: got %v, want it refused and nothing changed", name, err)
		}
	}
	if err := k.OfferHead(encodeHead(t, later)); err != nil {
		t.Errorf("a good one after them: got %v, want it applied", err)
	}
}

// Heads come every ten seconds; most of them change only the time and need not be written.
func TestHeadsAreSavedRarely(t *testing.T) {
	t.Parallel()
	c, dir := clustertest.NewInMemory(t), t.TempDir()
	k := openKeeper(t, c, dir, c.SignRules())
	writes := 0
	var last time.Time
	for i := range 180 { // half an hour of heads
		set := c.SignRulesAt(c.Now().Add(time.Duration(i) * 10 * time.Second))
		if err := k.Offer(encode(t, set)); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(filepath.Join(dir, "rules.json"))
		if err != nil {
			t.Fatal(err)
		}
		onDisk, err := signed.Decode(b)
		if err != nil {
			t.Fatal(err)
		}
		saved, err := signed.Open(c.Pin(), onDisk)
		if err != nil {
			t.Fatal(err)
		}
		if !saved.Head.Time.Equal(last) {
			last, writes = saved.Head.Time, writes+1
		}
	}
	if writes != 3 {
		t.Errorf("got %d writes in half an hour, want 3", writes)
	}
}

func TestDamagedRulesOnDiskAreNotUsed(t *testing.T) {
	t.Parallel()
	c, other, dir := clustertest.NewInMemory(t), clustertest.NewInMemory(t), t.TempDir()
	first := c.SignRules()
	for name, text := range map[string][]byte{
		"torn":               []byte(`{"chain":`),
		"of another cluster": encode(t, other.SignRulesAt(time.Now().Add(time.Hour))),
	} {
		if err := os.WriteFile(filepath.Join(dir, "rules.json"), text, 0o600); err != nil {
			t.Fatal(err)
		}
		got := openKeeper(t, c, dir, first).Current().Set().Head
		if string(got.Payload) != string(first.Head.Payload) {
			t.Errorf("%s: got other rules, want those of the membership", name)
		}
	}
}

func TestRulesAreUsedEvenIfTheyCannotBeSaved(t *testing.T) {
	t.Parallel()
	c := clustertest.NewInMemory(t)
	missing := filepath.Join(t.TempDir(), "missing") // stands for a full disk
	k := openKeeper(t, c, missing, c.SignRules())
	c.SetRoles(access.Role{Name: "ops"})
	if err := k.Offer(encode(t, c.SignRules())); err != nil {
		t.Errorf("got %v, want the rules applied all the same", err)
	}
	if !hasRole(k, "ops") {
		t.Error("got no role ops, want it in force")
	}
}

func TestAMembershipWithAnotherPinIsRefused(t *testing.T) {
	t.Parallel()
	c, other := clustertest.NewInMemory(t), clustertest.NewInMemory(t)
	cfg := rules.Config{
		Dir:   t.TempDir(),
		Pin:   other.Pin(),
		First: c.SignRules(),
		Log:   slog.New(slog.DiscardHandler),
	}
	if _, err := rules.Open(cfg); err == nil {
		t.Error("got rules under the pin of another cluster, want an error")
	}
}
