package rules_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/rules"
)

var update = flag.Bool("update", false, "write the golden files anew")

// golden names a file of testdata; see the README there.
func golden(name string) string { return filepath.Join("testdata", name) }

func mustRead(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(golden(name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// goldenMachine and goldenUser are locked in the golden files.
const goldenMachine = identity.MachineID("0123456789abcdef0123456789abcdef")

var goldenUser = access.UserFact{Connector: "corp", Subject: "1"}

// writeGolden makes the golden files with new keys: a set with a kind that this program does not know, and
// the pieces by which a machine that has it gets one role more.
func writeGolden(t *testing.T) {
	t.Helper()
	c := newCluster(t, clusterName)
	key, chain := c.signers[0], []rules.Signed{c.link(c.rootKey, rev(1), 0)}
	roles := func(index uint64, names ...string) rules.Signed {
		var list []access.Role
		for _, name := range names {
			list = append(list, access.Role{Name: name, Allow: []access.Grant{{
				Nodes:   map[string]access.Strings{"env": {"dev"}},
				Logins:  access.Strings{"ubuntu"},
				Actions: access.Strings{"shell"},
			}}})
		}
		return c.document(key, rules.RolesKind, rev(index), rules.Roles{Roles: list})
	}
	settings := access.Settings{RulesAge: access.Duration(time.Hour)}
	first := c.set(key, noon, chain, rev(1), roles(2, "dba", "dev"), rev(2))
	first = c.with(first, key, rules.SettingsKind, c.document(key, rules.SettingsKind, rev(3), settings), nil)
	first = c.with(first, key, "later", c.document(key, "later", rev(4), json.RawMessage(`{}`)), nil)
	locks := func(match access.Facts) rules.Locks {
		lock := access.NewLock(match, access.Effect{Kind: access.Deny})
		lock.Message, lock.Author, lock.Created = "the laptop was lost", "root@example.com", noon
		return rules.Locks{Locks: []access.Lock{lock}}
	}
	for kind, body := range map[rules.Kind]rules.Locks{
		rules.MachineLocksKind: locks(access.Facts{Machine: goldenMachine}),
		rules.UserLocksKind:    locks(access.Facts{User: goldenUser}),
	} {
		first = c.with(first, key, kind, c.document(key, kind, rev(4), body), nil)
	}
	second := c.with(first, key, rules.RolesKind, roles(5, "dba", "dev", "ops"), nil)
	feed, err := rules.NewFeed(first)
	if err != nil {
		t.Fatal(err)
	}
	carried := feed.Digests()
	if feed, err = feed.Follow(second); err != nil {
		t.Fatal(err)
	}
	pieces, head := feed.Next(carried)
	set, err := first.Encode()
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{
		"pin.txt":       []byte(c.pin().String()),
		"set.json":      set,
		"pieces.ndjson": bytes.Join(append(pieces, head), []byte("\n")),
	} {
		if err := os.WriteFile(golden(name), append(b, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// What the first release writes is read by every later one: a whole set, with a kind that it does not know,
// and pieces with a delta.
func TestGoldenRulesAreRead(t *testing.T) {
	t.Parallel()
	if *update {
		writeGolden(t)
	}
	pin, err := identity.ParsePin(string(bytes.TrimSpace(mustRead(t, "pin.txt"))))
	if err != nil {
		t.Fatal(err)
	}
	set, err := rules.Decode(mustRead(t, "set.json"))
	if err != nil {
		t.Fatal(err)
	}
	trust, err := rules.Open(pin, set)
	if err != nil {
		t.Fatal(err)
	}
	if got := trust.Policy.Roles["dev"]; len(got.Allow) != 1 || trust.MaxAge() != time.Hour ||
		trust.Head.Sequence.Term != 1 || len(trust.Set().Docs) != 5 {
		t.Errorf("got %+v under head %s, want what the golden file says", trust.Policy, trust.Head.Sequence)
	}
	_, machineLocked := trust.Policy.Locks.MachineDenied(goldenMachine, noon)
	user := identity.Identity{Kind: identity.User}
	user.Connector, user.Subject = goldenUser.Connector, goldenUser.Subject
	lock, userLocked := trust.Policy.Locks.Denying(access.Request{Who: user, Now: noon})
	if !machineLocked || !userLocked || lock.Message != "the laptop was lost" {
		t.Errorf("got %v, %v by %+v, want both locked", machineLocked, userLocked, lock)
	}
	r := rules.NewReceiver(trust, noon)
	pieces := bytes.Split(bytes.TrimSpace(mustRead(t, "pieces.ndjson")), []byte("\n"))
	if !bytes.Contains(pieces[0], []byte(`"delta"`)) {
		t.Errorf("got %.80s, want a delta among the golden pieces", pieces[0])
	}
	if _, err := r.Offer(noon, pieces...); err != nil || !hasRole(r, "ops") {
		t.Errorf("got %v, want the golden pieces in force", err)
	}
}
