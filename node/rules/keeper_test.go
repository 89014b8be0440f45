package rules_test

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
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
	k, err := rules.Open(rules.Config{Dir: dir, Pin: c.Pin(), First: first, Now: time.Now, Log: log})
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

// pieces are all pieces of a set in the order in which a proxy pushes them: the head is the last.
func pieces(t *testing.T, s signed.Set) [][]byte {
	t.Helper()
	feed, err := signed.NewFeed(s)
	if err != nil {
		t.Fatal(err)
	}
	list, head := feed.Next(map[string]signed.Digest{})
	return append(list, head)
}

// head is the head of a set as a proxy pushes it.
func head(t *testing.T, s signed.Set) []byte {
	t.Helper()
	list := pieces(t, s)
	return list[len(list)-1]
}

// mustOffer offers pieces that the keeper must take.
func mustOffer(t *testing.T, k *rules.Keeper, list ...[]byte) {
	t.Helper()
	if lacking, err := k.Offer(list...); err != nil || len(lacking) > 0 {
		t.Fatalf("got %v, lacking %q, want the rules in force", err, lacking)
	}
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

// Pushed rules are in force at once and after a restart, and older ones are not accepted after that.
func TestNewerRulesAreAppliedAndSaved(t *testing.T) {
	t.Parallel()
	c, dir := clustertest.NewInMemory(t), t.TempDir()
	first, older := c.SignRules(), c.SignRules()
	k := openKeeper(t, c, dir, first)
	changed := k.Changed()
	c.SetRoles(access.Role{Name: "ops"})
	mustOffer(t, k, pieces(t, c.SignRules())...)
	if !hasRole(k, "ops") {
		t.Error("got no role ops, want it in force")
	}
	select {
	case <-changed:
	default:
		t.Error("the roles changed, and Changed does not tell")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := k.Run(ctx); err != nil { // saves what is in force at the end
		t.Fatal(err)
	}
	k = openKeeper(t, c, dir, first)
	if !hasRole(k, "ops") {
		t.Error("got no role ops after a restart, want it saved")
	}
	if _, err := k.Offer(pieces(t, older)...); err == nil {
		t.Error("got rules applied after a restart that are older than those saved, want an error")
	}
}

// Each of these pushes is refused and leaves the rules in force as they are.
func TestRulesThatAreRefused(t *testing.T) {
	t.Parallel()
	c, other := clustertest.NewInMemory(t), clustertest.NewInMemory(t)
	k := openKeeper(t, c, t.TempDir(), c.SignRules())
	older := c.SignRules()
	c.SetRoles(access.Role{Name: "ops"})
	good := c.SignRules()
	mustOffer(t, k, pieces(t, good)...)
	altered := c.SignRules()
	altered.Head = flipBit(altered.Head)
	want := k.Current()
	for name, list := range map[string][][]byte{
		"older":              pieces(t, older),
		"of another cluster": pieces(t, other.SignRules()),
		"altered":            pieces(t, altered),
		"garbage":            {[]byte("{")},
		"empty":              {nil},
		"a whole set":        {encode(t, good)},
		"huge":               {make([]byte, signed.MaxPieceBytes+1)},
	} {
		if _, err := k.Offer(list...); err == nil || k.Current() != want {
			t.Errorf("%s: got %v, want it refused and nothing changed", name, err)
		}
	}
	mustOffer(t, k, pieces(t, good)...) // the same again
}

// A head is not used with the documents of another one, although all are signed. The node asks for the right
// ones, and refuses sessions when they do not come.
func TestMixedRulesAreNotUsed(t *testing.T) {
	t.Parallel()
	c := clustertest.NewInMemory(t)
	older := c.SignRules()
	k := openKeeper(t, c, t.TempDir(), older)
	c.SetRoles(access.Role{Name: "ops"})
	newer := c.SignRules()
	mixed := newer
	mixed.Docs = older.Docs
	lacking, err := k.Offer(pieces(t, mixed)...)
	if err != nil || !slices.Contains(lacking, "roles") || hasRole(k, "ops") {
		t.Errorf("got %v, lacking %q, want the old rules in force and roles asked for", err, lacking)
	}
	if err := k.Current().Usable(time.Now().Add(signed.MaxWait / 2)); err != nil {
		t.Errorf("after %s: got %v, want the old rules used", signed.MaxWait/2, err)
	}
	err = k.Current().Usable(time.Now().Add(signed.MaxWait + time.Second))
	if err == nil || !strings.Contains(err.Error(), "newer rules, which have not come") {
		t.Errorf("after %s: got %v, want no decision by the old rules", signed.MaxWait, err)
	}
	mustOffer(t, k, pieces(t, newer)...)
	err = k.Current().Usable(time.Now().Add(signed.MaxWait + time.Second))
	if err != nil || !hasRole(k, "ops") {
		t.Errorf("got %v after the documents came, want the new rules used", err)
	}
}

func TestAHeadAloneRenewsTheRules(t *testing.T) {
	t.Parallel()
	c := clustertest.NewInMemory(t)
	k := openKeeper(t, c, t.TempDir(), c.SignRules())
	c.SetRoles(access.Role{Name: "ops"})
	mustOffer(t, k, pieces(t, c.SignRules())...)
	changed := k.Changed()
	for i := 1; i <= 3; i++ {
		want := c.Now().Add(time.Duration(i) * 10 * time.Second)
		mustOffer(t, k, head(t, c.SignRulesAt(want)))
		if got := k.Current().Head.Time; !got.Equal(want) {
			t.Fatalf("got a head of %s, want one of %s", got, want)
		}
	}
	if !hasRole(k, "ops") {
		t.Error("got the role ops lost, want the documents to stay")
	}
	select {
	case <-changed:
		t.Error("no document changed, but Changed tells of a change")
	default:
	}
}

// Each of these heads is refused and leaves the rules in force as they are.
func TestHeadsThatAreRefused(t *testing.T) {
	t.Parallel()
	c, other := clustertest.NewInMemory(t), clustertest.NewInMemory(t)
	k := openKeeper(t, c, t.TempDir(), c.SignRules())
	replaced := c.SignRules()
	c.SetRoles(access.Role{Name: "ops"})
	// Its time is later than that of the head after it: only the numbers count.
	older := c.SignRulesAt(c.Now().Add(time.Hour))
	mustOffer(t, k, pieces(t, c.SignRules())...)
	later := c.SignRules()
	altered := signed.Set{Head: flipBit(c.SignRules().Head)}
	asRoles := signed.Set{Head: later.Docs[signed.RolesKind]}
	want := k.Current()
	for name, b := range map[string][]byte{
		"of documents that were replaced": head(t, replaced),
		"older":                           head(t, older),
		"of another cluster":              head(t, other.SignRules()),
		"altered":                         head(t, altered),
		"roles in its place":              head(t, asRoles),
		"garbage":                         []byte("{"),
		"empty":                           nil,
		"huge":                            make([]byte, signed.MaxPieceBytes+1),
	} {
		if _, err := k.Offer(b); err == nil || k.Current() != want {
			t.Errorf("%s: got %v, want it refused and nothing changed", name, err)
		}
	}
	mustOffer(t, k, head(t, later))
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
	mustOffer(t, k, pieces(t, c.SignRules())...)
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
		Now:   time.Now,
		Log:   slog.New(slog.DiscardHandler),
	}
	if _, err := rules.Open(cfg); err == nil {
		t.Error("got rules under the pin of another cluster, want an error")
	}
}
