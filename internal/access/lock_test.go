package access_test

import (
	"encoding/json"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/identity"
)

// locked is a request of alice for a shell, with every fact that a lock can match.
func lockedRequest() access.Request {
	r := request(user("r", "other"), prod, "alice", access.Shell)
	r.Who.LoginID, r.Serial, r.Target.Node.ID = "login-1", 7, "0123456789abcdef0123456789abcdef"
	r.Who.Proxy, r.Who.IssuedAt = "abcdef0123456789abcdef0123456789", now
	r.Proxy = "9876543210fedcba9876543210fedcba"
	return r
}

func lockedPolicy(locks ...access.Lock) access.Policy {
	p := policy(allow(shellAs("alice")))
	p.Locks = access.NewLocks(locks)
	return p
}

// Each fact alone hits the one who has it, and nobody else.
func TestALockHitsWhoHasItsFact(t *testing.T) {
	t.Parallel()
	r := lockedRequest()
	type facts = access.Facts
	for _, tt := range []struct {
		name        string
		hits, spare facts
	}{
		{"user", facts{User: access.UserFact{Connector: "corp", Subject: "1"}},
			facts{User: access.UserFact{Connector: "corp", Subject: "2"}}},
		{"user of another connector", facts{User: access.UserFact{Connector: "corp", Subject: "1"}},
			facts{User: access.UserFact{Connector: "other", Subject: "1"}}},
		{"connector", facts{Connector: "corp"}, facts{Connector: "other"}},
		{"login id", facts{LoginID: "login-1"}, facts{LoginID: "login-2"}},
		{"serial", facts{Serial: 7}, facts{Serial: 8}},
		{"role", facts{Role: "other"}, facts{Role: "none"}},
		{"account", facts{Account: "alice"}, facts{Account: "root"}},
		{"machine", facts{Machine: r.Target.Node.ID}, facts{Machine: "ffffffffffffffffffffffffffffffff"}},
		{"proxy of the login", facts{LoginProxy: r.Who.Proxy}, facts{LoginProxy: r.Proxy}},
		{"proxy of the connection", facts{ViaProxy: r.Proxy}, facts{ViaProxy: r.Who.Proxy}},
		{"issued before", facts{IssuedBefore: now.Add(time.Second)}, facts{IssuedBefore: now}},
		{"issued in the second of the lock", facts{IssuedBefore: now.Add(time.Millisecond)},
			facts{IssuedBefore: now}},
		{"issued since", facts{Since: now}, facts{Since: now.Add(time.Second)}},
		{"issued in the second since", facts{Since: now.Add(999 * time.Millisecond)},
			facts{Since: now.Add(time.Second)}},
		{"issued between", facts{Since: now.Add(-time.Hour), IssuedBefore: now.Add(time.Hour)},
			facts{Since: now.Add(-time.Hour), IssuedBefore: now.Add(-time.Minute)}},
	} {
		if d := lockedPolicy(access.Lock{ID: "1", Match: tt.hits}).Decide(r); d.Allow {
			t.Errorf("%s: got %+v, want it denied by the lock", tt.name, d)
		}
		if d := lockedPolicy(access.Lock{ID: "1", Match: tt.spare}).Decide(r); !d.Allow {
			t.Errorf("%s: got %+v, want it allowed, as the lock is for somebody else", tt.name, d)
		}
	}
}

// A lock hits only who has all of its facts, whatever these are: a fact that is added makes it hit fewer.
func TestALockHitsOnlyWhoHasAllOfItsFacts(t *testing.T) {
	t.Parallel()
	r := lockedRequest()
	all := access.Facts{
		User:       access.UserFact{Connector: "corp", Subject: "1"},
		Connector:  "corp",
		LoginID:    "login-1",
		Serial:     7,
		Role:       "other",
		Account:    "alice",
		Machine:    r.Target.Node.ID,
		LoginProxy: r.Who.Proxy,
		ViaProxy:   r.Proxy,

		IssuedBefore: now.Add(time.Hour),
		Since:        now,
	}
	if d := lockedPolicy(access.Lock{ID: "1", Match: all}).Decide(r); d.Allow {
		t.Errorf("got %+v, want it denied: the lock has only facts that hold", d)
	}
	others := []func(*access.Request){
		func(r *access.Request) { r.Who.Subject = "2" },
		func(r *access.Request) { r.Who.LoginID = "login-2" },
		func(r *access.Request) { r.Serial = 8 },
		func(r *access.Request) { r.Who.Roles = []string{"r"} },
		func(r *access.Request) { r.Target.Node.ID = "" },
		func(r *access.Request) { r.Who.Proxy = "" },
		func(r *access.Request) { r.Proxy = "" },
		func(r *access.Request) { r.Who.IssuedAt = now.Add(time.Hour) },
		func(r *access.Request) { r.Who.IssuedAt = now.Add(-time.Second) },
	}
	unknown := lockedRequest()
	unknown.Who.IssuedAt = time.Time{}
	if d := lockedPolicy(access.Lock{ID: "1", Match: all}).Decide(unknown); d.Allow {
		t.Errorf("got %+v, want it denied: the certificate does not say when it was issued", d)
	}
	for i, change := range others {
		other := lockedRequest()
		change(&other)
		if d := lockedPolicy(access.Lock{ID: "1", Match: all}).Decide(other); !d.Allow {
			t.Errorf("change %d: got %+v, want it allowed: one fact does not hold", i, d)
		}
	}
	for i := range reflect.TypeFor[access.Facts]().NumField() {
		if reflect.ValueOf(all).Field(i).IsZero() {
			t.Errorf("the test has no %s", reflect.TypeFor[access.Facts]().Field(i).Name)
		}
	}
}

// A lock without facts, or of an effect that this program does not know, denies: it is never dropped.
func TestALockIsNeverDropped(t *testing.T) {
	t.Parallel()
	var later access.Lock
	const text = `{"id":"1","match":{"planet":"mars"},"effect":{"kind":"freeze","depth":3}}`
	if err := json.Unmarshal([]byte(text), &later); err != nil {
		t.Fatal(err)
	}
	for _, l := range []access.Lock{{}, {ID: "1"}, later} {
		if d := lockedPolicy(l).Decide(lockedRequest()); d.Allow {
			t.Errorf("%+v: got %+v, want it denied", l, d)
		}
	}
}

// With a fact that this program does not know, a lock matches by the others.
func TestALockWithAnUnknownFactMatchesByTheOthers(t *testing.T) {
	t.Parallel()
	for text, denied := range map[string]bool{
		`{"id":"1","match":{"connector":"corp","planet":"mars"}}`:  true,
		`{"id":"1","match":{"connector":"other","planet":"mars"}}`: false,
	} {
		var l access.Lock
		if err := json.Unmarshal([]byte(text), &l); err != nil {
			t.Fatal(err)
		}
		if d := lockedPolicy(l).Decide(lockedRequest()); d.Allow == denied {
			t.Errorf("%s: got %+v, want denied %v", text, d, denied)
		}
	}
}

func TestALockEnds(t *testing.T) {
	t.Parallel()
	r := lockedRequest()
	l := access.Lock{ID: "1", Match: access.Facts{Connector: "corp"}, End: now.Add(time.Second)}
	if d := lockedPolicy(l).Decide(r); d.Allow {
		t.Errorf("got %+v, want it denied until the end", d)
	}
	r.Now = l.End
	if d := lockedPolicy(l).Decide(r); !d.Allow {
		t.Errorf("got %+v, want it allowed from the end on", d)
	}
}

// Whom a lock refuses reads why, until when, and whom to ask. It precedes every entry of a role.
func TestARefusalByALockSaysWhomToAsk(t *testing.T) {
	t.Parallel()
	l := access.Lock{
		ID:      "k3",
		Match:   access.Facts{Connector: "corp"},
		Effect:  access.Effect{Kind: access.Deny},
		Message: "the laptop was lost",
		Author:  "bob@example.com",
		End:     now.Add(time.Hour),
	}
	p := lockedPolicy(l)
	p.Roles["other"] = access.Role{Name: "other", Deny: []access.Grant{shellAs("alice")}}
	d := p.Decide(lockedRequest())
	const reason = "lock k3 denies shell as alice on web-1 until 2026-03-01T13:00:00Z: the laptop was lost"
	namesAuthor := strings.Contains(d.Remedy, "bob@example.com")
	if d.Allow || d.Rule != "lock k3" || d.Reason != reason || !namesAuthor {
		t.Errorf("got %+v, want %q", d, reason)
	}
	l.Author = ""
	if d := lockedPolicy(l).Decide(lockedRequest()); d.Remedy == "" {
		t.Error("got no remedy for a lock without an author")
	}
}

// A lock also holds where only reaching or listing a node, or a document, is asked for.
func TestALockHoldsForEveryQuestion(t *testing.T) {
	t.Parallel()
	p := lockedPolicy(access.Lock{ID: "1", Match: access.Facts{Connector: "corp"}})
	p.Roles["other"] = allow(access.Grant{Resources: access.Strings{"*"}, Actions: access.Strings{"get"}})
	for _, change := range []func(*access.Request){
		func(r *access.Request) { r.Login, r.Action = "", "" },
		func(r *access.Request) { r.Login, r.Action = "", access.List },
		func(r *access.Request) {
			r.Login, r.Action, r.Target, r.Resource = "", access.Get, access.Target{}, access.Users
		},
	} {
		r := lockedRequest()
		change(&r)
		if d := p.Decide(r); d.Allow {
			t.Errorf("%s: got it allowed, want it denied", r)
		}
		free := p
		free.Locks = access.Locks{}
		if d := free.Decide(r); !d.Allow {
			t.Errorf("%s: got %+v, want it allowed without the lock", r, d)
		}
	}
}

// Without a role, the other roles go on. What the role denies, and its options, hold all the same.
func TestALockOnARoleLeavesTheOthers(t *testing.T) {
	t.Parallel()
	without := access.Lock{ID: "1", Match: access.Facts{Connector: "corp"},
		Effect: access.Effect{Kind: access.WithoutRole, Role: "r"}}
	p := lockedPolicy(without)
	without.Message, without.Author = "the role was taken", "bob@example.com"
	p.Locks = access.NewLocks([]access.Lock{without})
	d := p.Decide(lockedRequest())
	const reason = "lock 1 denies what role r allows: the role was taken"
	if d.Allow || d.Rule != "lock 1" || d.Reason != reason || !strings.Contains(d.Remedy, "bob@example.com") {
		t.Errorf("got %+v, want it denied without the role: %s", d, reason)
	}
	elsewhere := lockedRequest()
	elsewhere.Login = "root"
	if d := p.Decide(elsewhere); d.Allow || d.Rule != "" {
		t.Errorf("got %+v, want no lock named for what the role does not allow in any case", d)
	}
	p.Roles["other"] = access.Role{Name: "other", Allow: []access.Grant{shellAs("alice")}}
	if d := p.Decide(lockedRequest()); !d.Allow || d.Rule != "role other, allow 1" {
		t.Errorf("got %+v, want it allowed by the other role", d)
	}
	limited := p.Roles["r"]
	limited.Deny = []access.Grant{{Nodes: nodes("*", "*"), Logins: access.Strings{"alice"}}}
	p.Roles["r"] = limited
	if d := p.Decide(lockedRequest()); d.Allow {
		t.Errorf("got %+v, want what the role denies to stay denied", d)
	}
}

// A lock as the first release writes it is read by every later one.
func TestTheGoldenLockIsRead(t *testing.T) {
	t.Parallel()
	path := filepath.Join("testdata", "lock.json")
	want := access.Lock{
		ID: "k3",
		Match: access.Facts{
			User:       access.UserFact{Connector: "corp", Subject: "1"},
			Connector:  "corp",
			LoginID:    "login-1",
			Serial:     7,
			Role:       "ops",
			Account:    "root",
			Machine:    "0123456789abcdef0123456789abcdef",
			LoginProxy: "abcdef0123456789abcdef0123456789",
			ViaProxy:   "9876543210fedcba9876543210fedcba",

			IssuedBefore: now,
			Since:        now.Add(-time.Hour),
		},
		Effect:  access.Effect{Kind: access.WithoutRole, Role: "ops"},
		Message: "the laptop was lost",
		Author:  "bob@example.com",
		Created: now.Add(-time.Minute),
		End:     now,
	}
	if *update {
		b, err := json.MarshalIndent(want, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, append(b, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var got access.Lock
	if err := json.Unmarshal(b, &got); err != nil || got != want {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
}

// Among a thousand locks of others, each one that is for a request is found, whichever facts it has.
func TestLocksAreFoundAmongMany(t *testing.T) {
	t.Parallel()
	r := lockedRequest()
	own := access.Facts{
		User:       access.UserFact{Connector: "corp", Subject: "1"},
		Connector:  "corp",
		LoginID:    "login-1",
		Serial:     7,
		Role:       "other",
		Account:    "alice",
		Machine:    r.Target.Node.ID,
		LoginProxy: r.Who.Proxy,
		ViaProxy:   r.Proxy,
	}
	var others []access.Lock
	for i := range 200 {
		n := strconv.Itoa(i)
		for _, m := range []access.Facts{
			{User: access.UserFact{Connector: "corp", Subject: "other-" + n}},
			{LoginID: identity.LoginID("other-" + n)},
			{Serial: identity.Serial(100 + i)},
			{Machine: identity.MachineID("other-" + n)},
			{Role: "other-" + n},
		} {
			others = append(others, access.Lock{ID: n, Match: m})
		}
	}
	if d := lockedPolicy(others...).Decide(r); !d.Allow {
		t.Fatalf("got %+v, want it allowed by the locks of others", d)
	}
	random := rand.New(rand.NewPCG(1, 2))
	for range 100 { // each with another subset of the facts
		var m access.Facts
		from, to := reflect.ValueOf(own), reflect.ValueOf(&m).Elem()
		for i := range from.NumField() {
			if random.IntN(2) == 0 {
				to.Field(i).Set(from.Field(i))
			}
		}
		all := append(slices.Clone(others), access.Lock{ID: "own", Match: m})
		if d := lockedPolicy(all...).Decide(r); d.Allow || d.Rule != "lock own" {
			t.Errorf("%+v: got %+v, want it denied by the own lock", m, d)
		}
	}
}

// A lock of a machine alone also hits everybody who is connected through that machine, and the machine
// itself.
func TestALockOfAMachineHitsItAsTargetAndOnTheWay(t *testing.T) {
	t.Parallel()
	const locked, other = "0123456789abcdef0123456789abcdef", "9876543210fedcba9876543210fedcba"
	lock := access.Lock{ID: "1", Match: access.Facts{Machine: locked}, End: now.Add(time.Hour)}
	p := lockedPolicy(lock)
	for _, tt := range []struct {
		target, via identity.MachineID
		allowed     bool
	}{
		{locked, other, false},
		{other, locked, false},
		{locked, locked, false},
		{other, other, true},
		{other, "", true},
	} {
		r := lockedRequest()
		r.Target.Node.ID, r.Proxy = tt.target, tt.via
		if d := p.Decide(r); d.Allow != tt.allowed {
			t.Errorf("to %.4s via %.4s: got %+v, want allowed %v", tt.target, tt.via, d, tt.allowed)
		}
	}
	if got, ok := p.Locks.MachineDenied(locked, now); !ok || got != lock {
		t.Errorf("got %+v, %v, want the lock of the machine", got, ok)
	}
	if _, ok := p.Locks.MachineDenied(other, now); ok {
		t.Error("got another machine denied, want only the one that the lock names")
	}
	if _, ok := p.Locks.MachineDenied(locked, lock.End); ok {
		t.Error("got the machine denied after the end of the lock")
	}
	// With one fact more the lock is about somebody on that machine, and not about the machine.
	person := access.Lock{ID: "2", Match: access.Facts{Machine: locked, Account: "root"}}
	if _, ok := access.NewLocks([]access.Lock{person}).MachineDenied(locked, now); ok || person.OfMachine() {
		t.Error("got a machine denied by a lock of one of its accounts")
	}
}

func TestLocksThatDoTheSameHaveTheSameID(t *testing.T) {
	t.Parallel()
	facts := access.Facts{Connector: "corp", IssuedBefore: now}
	deny := access.Effect{Kind: access.Deny}
	first := access.NewLock(facts, deny)
	elsewhere := facts
	elsewhere.IssuedBefore = now.In(time.FixedZone("east", 7200))
	if again := access.NewLock(elsewhere, deny); again.ID != first.ID || first.ID == "" {
		t.Errorf("got the ids %q and %q, want the same", first.ID, again.ID)
	}
	others := []access.Lock{
		access.NewLock(access.Facts{Connector: "corp"}, deny),
		access.NewLock(facts, access.Effect{Kind: access.WithoutRole, Role: "ops"}),
	}
	for _, other := range others {
		if other.ID == first.ID {
			t.Errorf("got the same id for %+v, want another", other)
		}
	}
}

// A lock that could not do what its author means is refused before it is written.
func TestLocksAreCheckedBeforeTheyAreWritten(t *testing.T) {
	t.Parallel()
	deny := access.Effect{Kind: access.Deny}
	const machine = "0123456789abcdef0123456789abcdef"
	for _, tt := range []struct {
		path string // of the fault; empty: there is none
		lock access.Lock
	}{
		{"", access.Lock{Match: access.Facts{Connector: "corp"}, Effect: deny, Message: "gone"}},
		{"", access.Lock{Match: access.Facts{IssuedBefore: now}, Effect: deny}},
		{"", access.Lock{Match: access.Facts{Connector: "corp"},
			Effect: access.Effect{Kind: access.WithoutRole, Role: "ops"}}},
		{"match", access.Lock{Effect: deny}},
		{"match.user", access.Lock{Match: access.Facts{User: access.UserFact{Connector: "corp"}}, Effect: deny}},
		{"match.user.connector", access.Lock{
			Match: access.Facts{User: access.UserFact{Connector: "a b", Subject: "1"}}, Effect: deny}},
		{"match.user.subject", access.Lock{
			Match: access.Facts{User: access.UserFact{Connector: "corp", Subject: "a\x00"}}, Effect: deny}},
		{"match.connector", access.Lock{Match: access.Facts{Connector: "a b"}, Effect: deny}},
		{"match.role", access.Lock{Match: access.Facts{Role: "a b"}, Effect: deny}},
		{"match.login_id", access.Lock{Match: access.Facts{LoginID: "a b"}, Effect: deny}},
		{"match.account", access.Lock{Match: access.Facts{Account: "a b"}, Effect: deny}},
		{"match.machine", access.Lock{Match: access.Facts{Machine: "web-1"}, Effect: deny}},
		{"match.login_proxy", access.Lock{Match: access.Facts{LoginProxy: "web-1"}, Effect: deny}},
		{"match.via_proxy", access.Lock{Match: access.Facts{ViaProxy: "web-1"}, Effect: deny}},
		{"match.since", access.Lock{Match: access.Facts{Since: now, IssuedBefore: now}, Effect: deny}},
		{"effect.kind", access.Lock{Match: access.Facts{Connector: "corp"}}},
		{"effect.kind", access.Lock{Match: access.Facts{Machine: machine},
			Effect: access.Effect{Kind: access.WithoutRole, Role: "ops"}}},
		{"effect.role", access.Lock{Match: access.Facts{Connector: "corp"},
			Effect: access.Effect{Kind: access.WithoutRole}}},
		{"effect.role", access.Lock{Match: access.Facts{Connector: "corp"},
			Effect: access.Effect{Kind: access.Deny, Role: "ops"}}},
		{"message", access.Lock{Match: access.Facts{Connector: "corp"}, Effect: deny, Message: "a\x1b[2J"}},
		{"", access.Lock{Match: access.Facts{Connector: "corp"}, Effect: deny, Message: strings.Repeat("x", 300)}},
		{"(whole)", access.Lock{Match: access.Facts{Connector: "corp"}, Effect: deny,
			Message: strings.Repeat("x", 500)}},
	} {
		var paths []string
		tt.lock.Check(func(path, format string, args ...any) {
			if path == "" {
				path = "(whole)"
			}
			paths = append(paths, path)
		})
		if tt.path == "" && len(paths) > 0 || tt.path != "" && !slices.Contains(paths, tt.path) {
			t.Errorf("%+v: got faults at %q, want %q", tt.lock, paths, tt.path)
		}
	}
}
