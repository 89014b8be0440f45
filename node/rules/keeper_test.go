package rules_test

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/member/membertest"
	signed "github.com/threshold-access/threshold/internal/rules"
	"github.com/threshold-access/threshold/node/rules"
)

func openKeeper(t *testing.T, c *membertest.Cluster, dir string, first signed.Set) *rules.Keeper {
	t.Helper()
	k, err := rules.Open(
		rules.Config{Dir: dir, Pin: c.Pin(), First: first, Log: slog.New(slog.DiscardHandler)},
	)
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

func TestNewerRulesAreAppliedAndSaved(t *testing.T) {
	c, dir := membertest.New(t), t.TempDir()
	first, older := c.SignRules(), c.SignRulesAt(c.Now().Add(time.Millisecond))
	k := openKeeper(t, c, dir, first)
	c.SetRoles(access.Role{Name: "ops"})
	if err := k.Offer(encode(t, c.SignRules())); err != nil {
		t.Fatal(err)
	}
	if _, ok := k.Current().Policy["ops"]; !ok {
		t.Error("got no role ops, want it in force")
	}
	k = openKeeper(t, c, dir, first)
	if _, ok := k.Current().Policy["ops"]; !ok {
		t.Error("got no role ops after a restart, want it kept")
	}
	if err := k.Offer(encode(t, older)); err == nil {
		t.Error("got rules taken after a restart that are older than those kept, want an error")
	}
}

func TestRulesThatAreRefused(t *testing.T) {
	c, other := membertest.New(t), membertest.New(t)
	k := openKeeper(t, c, t.TempDir(), c.SignRules())
	old := c.SignRulesAt(c.Now().Add(-time.Hour))
	c.SetRoles(access.Role{Name: "ops"})
	good := c.SignRules()
	if err := k.Offer(encode(t, good)); err != nil {
		t.Fatal(err)
	}
	mixed := good
	mixed.Roles = old.Roles
	altered := c.SignRules()
	altered.Head.Payload = append([]byte{}, altered.Head.Payload...)
	altered.Head.Payload[10] ^= 1
	want := k.Current()
	for name, b := range map[string][]byte{"older": encode(t, old), "of another cluster": encode(t, other.SignRules()), "mixed": encode(t, mixed), "altered": encode(t, altered),
		"nonsense": []byte("{"), "empty": nil, "huge": make([]byte, signed.MaxSetBytes+1)} {
		if err := k.Offer(b); err == nil || k.Current() != want {
			t.Errorf("%s: got %v, want it refused and nothing changed", name, err)
		}
	}
	if err := k.Offer(encode(t, good)); err != nil {
		t.Errorf("the same again: got %v, want it taken", err)
	}
}

func encodeHead(t *testing.T, s signed.Set) []byte {
	t.Helper()
	b, err := s.EncodeHead()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestAHeadAloneRenewsTheRules(t *testing.T) {
	c := membertest.New(t)
	k := openKeeper(t, c, t.TempDir(), c.SignRules())
	c.SetRoles(access.Role{Name: "ops"})
	if err := k.Offer(encode(t, c.SignRules())); err != nil {
		t.Fatal(err)
	}
	for i := 1; i <= 3; i++ {
		want := c.Now().Add(time.Duration(i) * 10 * time.Second)
		if err := k.Renew(encodeHead(t, c.SignRulesAt(want))); err != nil ||
			!k.Current().Head.Time.Equal(want) {
			t.Fatalf("got %v and a head of %s, want one of %s", err, k.Current().Head.Time, want)
		}
	}
	if _, ok := k.Current().Policy["ops"]; !ok {
		t.Error("got the role ops lost, want the documents kept")
	}
}

func TestHeadsThatAreRefused(t *testing.T) {
	c, other := membertest.New(t), membertest.New(t)
	k := openKeeper(t, c, t.TempDir(), c.SignRules())
	past := c.SignRulesAt(c.Now().Add(time.Second)) // of the documents before
	c.SetRoles(access.Role{Name: "ops"})
	if err := k.Offer(encode(t, c.SignRulesAt(c.Now().Add(time.Minute)))); err != nil {
		t.Fatal(err)
	}
	older := c.SignRulesAt(c.Now().Add(time.Second)) // of the same documents
	altered := c.SignRulesAt(c.Now().Add(time.Hour))
	altered.Head.Payload = append([]byte{}, altered.Head.Payload...)
	altered.Head.Payload[10] ^= 1
	later := c.SignRulesAt(c.Now().Add(time.Hour))
	asRoles := signed.Set{Head: later.Roles}
	c.SetRoles(access.Role{Name: "dev"})
	unseen := c.SignRulesAt(c.Now().Add(time.Hour))
	want := k.Current()
	for name, b := range map[string][]byte{"of documents that were replaced": encodeHead(t, past), "older": encodeHead(t, older), "of another cluster": encodeHead(t, other.SignRulesAt(c.Now().Add(time.Hour))),
		"of documents not held": encodeHead(t, unseen), "altered": encodeHead(t, altered), "roles in its place": encodeHead(t, asRoles), "nonsense": []byte("{"), "empty": nil, "huge": make([]byte, signed.MaxSetBytes+1)} {
		if err := k.Renew(b); err == nil || k.Current() != want {
			t.Errorf("%s: got %v, want it refused and nothing changed", name, err)
		}
	}
	if err := k.Renew(encodeHead(t, later)); err != nil {
		t.Errorf("a good one after them: got %v, want it taken", err)
	}
}

func TestHeadsAreSavedRarely(t *testing.T) {
	c, dir := membertest.New(t), t.TempDir()
	k := openKeeper(t, c, dir, c.SignRules())
	writes := 0
	var last time.Time
	for i := range 180 { // half an hour of heads
		if err := k.Offer(encode(t, c.SignRulesAt(c.Now().Add(time.Duration(i)*10*time.Second)))); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(filepath.Join(dir, "rules.json"))
		if err != nil {
			t.Fatal(err)
		}
		set, err := signed.Decode(b)
		if err != nil {
			t.Fatal(err)
		}
		kept, err := signed.Open(c.Pin(), set)
		if err != nil {
			t.Fatal(err)
		}
		if !kept.Head.Time.Equal(last) {
			last, writes = kept.Head.Time, writes+1
		}
	}
	if writes != 3 {
		t.Errorf("got %d writes in half an hour, want 3", writes)
	}
}

func TestDamagedRulesOnDiskAreNotUsed(t *testing.T) {
	c, other, dir := membertest.New(t), membertest.New(t), t.TempDir()
	first := c.SignRules()
	for name, text := range map[string][]byte{"torn": []byte(`{"chain":`), "of another cluster": encode(t, other.SignRulesAt(time.Now().Add(time.Hour)))} {
		if err := os.WriteFile(filepath.Join(dir, "rules.json"), text, 0o600); err != nil {
			t.Fatal(err)
		}
		if got := openKeeper(t, c, dir, first).Current().Set().Head; string(
			got.Payload,
		) != string(
			first.Head.Payload,
		) {
			t.Errorf("%s: got other rules, want those of the membership", name)
		}
	}
}

func TestRulesAreUsedEvenIfTheyCannotBeSaved(t *testing.T) {
	c := membertest.New(t)
	k := openKeeper(
		t,
		c,
		filepath.Join(t.TempDir(), "gone"),
		c.SignRules(),
	) // a directory that cannot be written stands for it
	c.SetRoles(access.Role{Name: "ops"})
	if err := k.Offer(encode(t, c.SignRules())); err != nil {
		t.Errorf("got %v, want the rules taken all the same", err)
	}
	if _, ok := k.Current().Policy["ops"]; !ok {
		t.Error("got no role ops, want it in force")
	}
}

func TestAMembershipWithAnotherPinIsRefused(t *testing.T) {
	c, other := membertest.New(t), membertest.New(t)
	if _, err := rules.Open(rules.Config{Dir: t.TempDir(), Pin: other.Pin(), First: c.SignRules(), Log: slog.New(slog.DiscardHandler)}); err == nil {
		t.Error("got rules under a foreign pin, want an error")
	}
}
