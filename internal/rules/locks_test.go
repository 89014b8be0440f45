package rules_test

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/rules"
)

// lockOf is a lock of one user, of ordinary length.
func lockOf(user int) access.Lock {
	lock := access.NewLock(
		access.Facts{
			User:         access.UserFact{Connector: "corp", Subject: fmt.Sprintf("subject-%08d", user)},
			IssuedBefore: noon,
		},
		access.Effect{Kind: access.Deny},
	)
	lock.Message, lock.Author = "the user was removed", "root@example.com"
	lock.Created, lock.End = noon, noon.Add(24*time.Hour)
	return lock
}

// publishLocks signs both documents of locks over the roles as they are, and makes the next version of the
// feed.
func (p *publisher) publishLocks(users, machines []access.Lock) rules.Set {
	p.t.Helper()
	p.index++
	key := p.signers[0]
	set := p.set(key, noon, p.chain, rev(1), p.roles(key, rev(1), p.names...), rev(1))
	for kind, list := range map[rules.Kind][]access.Lock{
		rules.UserLocksKind: users, rules.MachineLocksKind: machines,
	} {
		list = append([]access.Lock{}, list...)
		slices.SortFunc(list, func(a, b access.Lock) int { return cmp.Compare(a.ID, b.ID) })
		set = p.with(set, key, kind, p.document(key, kind, rev(p.index), rules.Locks{Locks: list}), nil)
	}
	var err error
	if p.feed, err = p.feed.Follow(set); err != nil {
		p.t.Fatal(err)
	}
	return set
}

func (p *publisher) isLocked(r *rules.Receiver, user int) bool {
	p.t.Helper()
	_, locked := p.lockOn(r, user)
	return locked
}

// lockOn returns the lock that denies the user of that number.
func (p *publisher) lockOn(r *rules.Receiver, user int) (lock access.Lock, locked bool) {
	p.t.Helper()
	return r.Current().Policy.Locks.Denying(access.Request{
		Who: identity.Identity{
			Kind: identity.User, Connector: "corp", Subject: fmt.Sprintf("subject-%08d", user),
			IssuedAt: noon.Add(-time.Hour),
		},
		Now: noon,
	})
}

// Locks come and go at random, several at once, and some change. After each version the receiver, which
// decodes only what is new to it, has the same locks as one that reads the whole document.
func TestLocksAreReadFromWhatChanged(t *testing.T) {
	t.Parallel()
	p := newPublisher(t, 3)
	random := rand.New(rand.NewPCG(1, 2))
	const users = 60
	standing := map[int]access.Lock{}
	list := func() []access.Lock {
		var out []access.Lock
		for _, lock := range standing {
			out = append(out, lock)
		}
		return out
	}
	ofMachine := access.Facts{Machine: goldenMachine}
	machine := []access.Lock{access.NewLock(ofMachine, access.Effect{Kind: access.Deny})}
	r := rules.NewReceiver(mustOpen(t, p.cluster, p.publishLocks(nil, machine)), noon)
	carried := map[string]rules.Digest{}
	p.next(carried)
	for range 200 {
		for range 1 + random.IntN(4) {
			i := random.IntN(users)
			lock, has := standing[i]
			switch {
			case !has:
				standing[i] = lockOf(i)
			case random.IntN(3) == 0:
				lock.Message += "!"
				standing[i] = lock
			default:
				delete(standing, i)
			}
		}
		set := p.publishLocks(list(), machine)
		if got, err := r.Offer(noon, p.next(carried)...); err != nil || got.InForce == nil {
			t.Fatalf("got %+v, %v, want the locks in force", got, err)
		}
		whole := rules.NewReceiver(mustOpen(t, p.cluster, set), noon)
		for i := range users {
			got, locked := p.lockOn(r, i)
			want, wantLocked := p.lockOn(whole, i)
			if _, has := standing[i]; got != want || locked != wantLocked || locked != has {
				t.Fatalf("user %d: got %+v, %v, want %+v, %v", i, got, locked, want, wantLocked)
			}
		}
		if _, denied := r.Current().Policy.Locks.MachineDenied(goldenMachine, noon); !denied {
			t.Fatal("the lock of a machine is gone, which nobody removed")
		}
	}
}

// A list that is not in the order of the ids, or has white space, is read as well.
func TestLocksAreReadInAnyOrder(t *testing.T) {
	t.Parallel()
	p := newPublisher(t, 3)
	set := p.publishLocks([]access.Lock{lockOf(0), lockOf(1), lockOf(2), lockOf(3)}, nil)
	r := rules.NewReceiver(mustOpen(t, p.cluster, set), noon)
	backwards := []access.Lock{lockOf(3), lockOf(0), lockOf(2)}
	body, err := json.MarshalIndent(rules.Locks{Locks: backwards}, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	key := p.signers[0]
	doc := p.document(key, rules.UserLocksKind, rev(90), json.RawMessage(`{}`))
	doc = p.rewritten(rules.UserLocksKind, doc, "{}}", string(body)+" }")
	p.feed, err = p.feed.Follow(p.with(set, key, rules.UserLocksKind, doc, nil))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Offer(noon, p.next(map[string]rules.Digest{})...); err != nil {
		t.Fatal(err)
	}
	for i, want := range []bool{true, false, true, true} {
		if p.isLocked(r, i) != want {
			t.Errorf("user %d: got locked %v, want %v", i, !want, want)
		}
	}
}

// A document of locks that cannot be read whole is refused, and the last locks stay in force.
func TestMalformedLocksAreRefused(t *testing.T) {
	t.Parallel()
	p := newPublisher(t, 3)
	set := p.publishLocks([]access.Lock{lockOf(0), lockOf(1)}, nil)
	good := set.Docs[rules.UserLocksKind]
	end := string(good.Payload[len(good.Payload)-3:]) // of the list, the body and the document
	const control = `,{"id":"x","match":{"connector":"other"},"effect":{"kind":"deny"}}]}}`
	for name, tail := range map[string]string{
		"nothing":              control,
		"no end of the list":   `}}`,
		"no end":               `]`,
		"a comma at the end":   `,]}}`,
		"something else":       `,7]}}`,
		"no comma":             `{"id":"x"}]}}`,
		"bytes behind it":      `]}}x`,
		"a second list":        `],"locks":[{"id":"x"}]}}`,
		"a second body":        `]},"body":{"locks":[{"id":"x"}]}}`,
		"nothing but a comma":  `,`,
		"the middle of a text": `,{"id":"`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			q := *p
			payload := strings.TrimSuffix(string(good.Payload), end) + tail
			payload = strings.Replace(payload, fmt.Sprintf(`"index":%d`, p.index), `"index":99`, 1)
			bad := q.signedAs(rules.UserLocksKind, []byte(payload))
			r := rules.NewReceiver(mustOpen(t, p.cluster, set), noon)
			head := q.headNaming(set, rules.UserLocksKind, bad, 99)
			pieces := [][]byte{
				encodePiece(t, rules.Piece{V: 1, Kind: rules.UserLocksKind, Document: &bad}),
				encodePiece(t, rules.Piece{V: 1, Kind: "head", Document: &head}),
			}
			got, err := r.Offer(noon, pieces...)
			if refused := err != nil && got.InForce == nil; refused != (tail != control) {
				t.Errorf("got %+v, %v, want it refused unless nothing is wrong: %s", got, err, payload)
			}
			if !q.isLocked(r, 0) || !q.isLocked(r, 1) || q.isLocked(r, 2) {
				t.Error("the locks in force have changed")
			}
		})
	}
}

// headNaming signs a head over the documents of a set, with another document in the place of one.
func (p *publisher) headNaming(set rules.Set, kind rules.Kind, doc rules.Signed, index uint64) rules.Signed {
	p.t.Helper()
	var head rules.Head
	if err := json.Unmarshal(set.Head.Payload, &head); err != nil {
		p.t.Fatal(err)
	}
	docs := map[rules.Kind]rules.Ref{}
	for k, ref := range head.Docs {
		docs[k] = ref
	}
	docs[kind] = rules.RefTo(doc, rev(index))
	head.Docs = docs
	head.Sequence.Counter += 1000
	return p.headOf(p.signers[0], head)
}

func encodePiece(t *testing.T, piece rules.Piece) []byte {
	t.Helper()
	b, err := json.Marshal(piece)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// What this program does not know of a lock makes it hit more, and the lock is never left out.
func TestLocksOfALaterReleaseAreKept(t *testing.T) {
	t.Parallel()
	p := newPublisher(t, 3)
	set := p.publishLocks([]access.Lock{lockOf(0)}, nil)
	key := p.signers[0]
	body := `{"locks":[{"id":"1","match":{"user":{"connector":"corp","subject":"subject-00000001"},` +
		`"planet":"mars"},"effect":{"kind":"freeze"}}],"note":1}`
	doc := p.document(key, rules.UserLocksKind, rev(90), json.RawMessage(body))
	r := rules.NewReceiver(mustOpen(t, p.cluster, p.with(set, key, rules.UserLocksKind, doc, nil)), noon)
	if !p.isLocked(r, 1) || p.isLocked(r, 0) {
		t.Error("the lock of a later release does not hit whom it names")
	}
}

// BenchmarkOneLockMore is what a node does for one lock more.
func BenchmarkOneLockMore(b *testing.B) {
	for _, standing := range []int{1000, 10_000 - 1} {
		b.Run(fmt.Sprintf("%d locks", standing), func(b *testing.B) {
			p := newPublisher(b, 10)
			var locks []access.Lock
			for i := range standing {
				locks = append(locks, lockOf(i))
			}
			set := p.publishLocks(locks, nil)
			carried := map[string]rules.Digest{}
			p.next(carried)
			base := mustOpen(b, p.cluster, set)
			locks = append(locks, lockOf(standing))
			p.publishLocks(locks, nil)
			pieces := p.next(carried)
			b.ReportMetric(float64(sizeOf(pieces)), "B-sent/op")
			b.ReportAllocs()
			for b.Loop() {
				b.StopTimer()
				r := rules.NewReceiver(base, noon)
				b.StartTimer()
				if _, err := r.Offer(noon, pieces...); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				if !p.isLocked(r, standing) || !p.isLocked(r, 0) || p.isLocked(r, standing+1) {
					b.Fatal("the locks in force are not those that were published")
				}
				b.StartTimer()
			}
		})
	}
}
