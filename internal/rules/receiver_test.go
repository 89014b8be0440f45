package rules_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/rules"
)

// publisher publishes rules of a cluster through a feed, with many roles.
type publisher struct {
	*cluster
	feed  *rules.Feed
	chain []rules.Signed
	names []string
	index uint64
}

func newPublisher(t testing.TB, roles int) *publisher {
	t.Helper()
	c := newCluster(t, clusterName)
	chain := []rules.Signed{c.link(c.rootKey, rev(1), 0)}
	p := &publisher{cluster: c, feed: &rules.Feed{}, chain: chain, index: 1}
	for i := range roles {
		p.names = append(p.names, fmt.Sprintf("role-%04d", i))
	}
	p.publish()
	return p
}

// publish signs the roles as they are now and makes the next version of the feed.
func (p *publisher) publish() rules.Set {
	p.t.Helper()
	p.index++
	key := p.signers[0]
	set := p.set(key, noon, p.chain, rev(1), p.roles(key, rev(p.index), p.names...), rev(p.index))
	settings := p.document(key, rules.SettingsKind, rev(7), access.Settings{})
	set = p.with(set, key, rules.SettingsKind, settings, nil)
	var err error
	if p.feed, err = p.feed.Follow(set); err != nil {
		p.t.Fatal(err)
	}
	return set
}

// headAlone signs a new head over the same documents.
func (p *publisher) headAlone(set rules.Set) rules.Set {
	p.t.Helper()
	set = p.with(set, p.signers[0], rules.SettingsKind, set.Docs[rules.SettingsKind], nil)
	var err error
	if p.feed, err = p.feed.Follow(set); err != nil {
		p.t.Fatal(err)
	}
	return set
}

// next is what the feed sends to a receiver that was sent carried, which it changes to what that is then.
func (p *publisher) next(carried map[string]rules.Digest) [][]byte {
	pieces, head := p.feed.Next(carried)
	maps.Copy(carried, p.feed.Digests())
	return append(pieces, head)
}

func sizeOf(pieces [][]byte) (size int) {
	for _, piece := range pieces {
		size += len(piece)
	}
	return size
}

func hasRole(r *rules.Receiver, name string) bool {
	_, has := r.Current().Policy.Roles[name]
	return has
}

// newReceiver is a receiver that has what the publisher has published, and what it was sent.
func newReceiver(t testing.TB, p *publisher) (*rules.Receiver, map[string]rules.Digest) {
	t.Helper()
	carried := map[string]rules.Digest{}
	set := p.publish()
	p.next(carried)
	return rules.NewReceiver(mustOpen(t, p.cluster, set), noon), carried
}

// A small change of many roles goes as a delta, a new head goes alone, and a receiver that was away for some
// versions gets the deltas of each.
func TestOnlyChangesAreSent(t *testing.T) {
	t.Parallel()
	p := newPublisher(t, 500)
	r, carried := newReceiver(t, p)
	whole := sizeOf(p.next(map[string]rules.Digest{}))
	offer := func(pieces [][]byte) {
		t.Helper()
		if got, err := r.Offer(noon, pieces...); err != nil || got.InForce == nil || len(got.Lacking) > 0 {
			t.Fatalf("got %+v, %v, want the pieces in force", got, err)
		}
	}
	for i, name := range []string{"zulu", "mike", "alpha"} {
		p.names = append(p.names, name)
		slices.Sort(p.names)
		last := p.publish()
		if i == 0 { // the receiver is away at the second change
			p.headAlone(last)
		} else if i == 1 {
			continue
		}
		pieces := p.next(carried)
		if size := sizeOf(pieces); size > whole/10 {
			t.Errorf("got %d bytes sent for the role %s, want few of %d", size, name, whole)
		}
		offer(pieces)
		if !hasRole(r, name) {
			t.Errorf("got no role %s, want it in force", name)
		}
	}
	if !hasRole(r, "mike") {
		t.Error("got the role of a version in between lost")
	}
	changed := r.Changed()
	p.headAlone(r.Current().Set())
	pieces := p.next(carried)
	if len(pieces) != 1 {
		t.Errorf("got %d pieces for a new head, want the head alone", len(pieces))
	}
	offer(pieces)
	select {
	case <-changed:
		t.Error("a new head counts as a change of documents")
	default:
	}
	offer(p.next(map[string]rules.Digest{})) // a receiver that was sent nothing gets everything
}

// The pieces of a change come in every order, with junk between them, some of them twice. They get in force
// together, and only once all are there.
func TestPiecesMayComeInAnyOrder(t *testing.T) {
	t.Parallel()
	p := newPublisher(t, 50)
	for seed := range uint64(50) {
		r, carried := newReceiver(t, p)
		p.names = append(p.names, fmt.Sprintf("new-%d", seed))
		settings := p.document(p.signers[0], rules.SettingsKind, rev(8),
			access.Settings{RulesAge: access.Duration(time.Hour)})
		set := p.with(p.publish(), p.signers[0], rules.SettingsKind, settings, nil)
		var err error
		if p.feed, err = p.feed.Follow(set); err != nil {
			t.Fatal(err)
		}
		pieces := p.next(carried)
		random := rand.New(rand.NewPCG(seed, 1))
		random.Shuffle(len(pieces), func(i, j int) { pieces[i], pieces[j] = pieces[j], pieces[i] })
		for i, piece := range pieces {
			_, _ = r.Offer(noon, []byte("junk"), piece, piece)
			trust := r.Current()
			both := hasRole(r, p.names[len(p.names)-1]) && trust.MaxAge() == time.Hour
			none := !hasRole(r, p.names[len(p.names)-1]) && trust.MaxAge() == 24*time.Hour
			if complete := i == len(pieces)-1; complete != both || !complete && !none {
				t.Fatalf("seed %d: after %d of %d pieces: got both %v, none %v",
					seed, i+1, len(pieces), both, none)
			}
		}
	}
}

// A head names documents that do not come: after 30 s the rules are stale, until they come.
func TestRulesAreStaleWhenDocumentsAreWithheld(t *testing.T) {
	t.Parallel()
	p := newPublisher(t, 50)
	r, carried := newReceiver(t, p)
	p.names = append(p.names, "new")
	set := p.publish()
	withheld := p.next(carried)
	head := withheld[len(withheld)-1]
	for i := range 4 { // heads go on to come, every 10 s
		now := noon.Add(time.Duration(i) * 10 * time.Second)
		got, err := r.Offer(now, head)
		if err != nil || !slices.Equal(got.Lacking, []rules.Kind{rules.RolesKind}) {
			t.Fatalf("got %+v, %v, want roles lacking", got, err)
		}
		if err := r.Current().Usable(now); err != nil {
			t.Errorf("after %s: got %v, want the rules used", now.Sub(noon), err)
		}
		p.headAlone(set)
		head = p.next(carried)[0]
	}
	late := noon.Add(rules.MaxWait + time.Second)
	wantRefusal(t, "after 31 s", r.Current().Usable(late), "newer rules, which have not come for 31s")
	// A document with a spoiled signature has not come either.
	var piece rules.Piece
	if err := json.Unmarshal(p.next(map[string]rules.Digest{})[1], &piece); err != nil {
		t.Fatal(err)
	}
	piece.Document.Sig[0] ^= 1
	spoiled, err := json.Marshal(piece)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = r.Offer(late, spoiled)
	wantRefusal(t, "with a spoiled signature", r.Current().Usable(late), "newer rules")
	if got, err := r.Offer(late, withheld[:len(withheld)-1]...); err != nil || got.InForce == nil {
		// The delta is dropped because its result seems to be there: only the whole document helps.
		got, err = r.Offer(late, p.next(map[string]rules.Digest{})...)
		if err != nil || got.InForce == nil {
			t.Fatalf("got %+v, %v, want the whole documents in force", got, err)
		}
	}
	if err := r.Current().Usable(late); err != nil || !hasRole(r, "new") {
		t.Errorf("got %v, want the new rules used", err)
	}
}

// A stolen proxy sends a delta to something else, or one that grows without bound. Nothing changes, and the
// receiver asks for the document.
func TestDeltasThatAreNotUsed(t *testing.T) {
	t.Parallel()
	p := newPublisher(t, 50)
	r, carried := newReceiver(t, p)
	p.names = append(p.names, "new")
	p.publish()
	pieces := p.next(carried)
	var good rules.Piece
	if err := json.Unmarshal(pieces[0], &good); err != nil || good.Delta == nil {
		t.Fatalf("got %v and %.80s, want a delta", err, pieces[0])
	}
	change := func(f func(*rules.Delta)) []byte {
		piece, delta := good, *good.Delta
		f(&delta)
		piece.Delta = &delta
		b, err := json.Marshal(piece)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	other := bytes.Repeat([]byte{1}, 32)
	// Each splice copies the first 512 bytes: 0, 512, and no text.
	bomb := bytes.Repeat([]byte{0, 0x80, 0x04, 0}, 1<<20)
	for _, tt := range []struct {
		name  string
		piece []byte
		want  string // in the error; empty: the piece is dropped
	}{
		{"to another base", change(func(d *rules.Delta) { d.From = other }), ""},
		{"with another result", change(func(d *rules.Delta) { d.To = other }), ""},
		{"to something else than it says", change(func(d *rules.Delta) {
			d.Splices = bytes.Clone(d.Splices)
			d.Splices[len(d.Splices)-1] ^= 1
		}), "rules: the head names documents that have not come"},
		{"that expands", change(func(d *rules.Delta) { d.Splices = bomb }), "larger than"},
		{"outside of its base", change(func(d *rules.Delta) { d.Splices = []byte{0xff, 0xff, 0xff, 1, 1, 0} }),
			"malformed"},
		{"that is cut off", change(func(d *rules.Delta) { d.Splices = d.Splices[:len(d.Splices)-1] }), "malformed"},
		{"with a number that has no end",
			change(func(d *rules.Delta) { d.Splices = bytes.Repeat([]byte{0x80}, 20) }), "malformed"},
		{"of a newer piece", bytes.Replace(pieces[0], []byte(`"v":1`), []byte(`"v":2`), 1), "version 2"},
		{"with a critical field", bytes.Replace(pieces[0], []byte(`"v":1`), []byte(`"v":1,"critical":["x"]`), 1),
			`"x"`},
		{"of the authorities", bytes.Replace(pieces[0], []byte(`"roles"`), []byte(`"authorities"`), 1), "piece of"},
		{"of no document", []byte(`{"v":1,"kind":"roles"}`), "piece of kind roles"},
		{"of a kind that cannot be", bytes.Replace(pieces[0], []byte(`"roles"`), []byte(`"Roles!"`), 1), "kind"},
	} {
		before := r.Current()
		got, err := r.Offer(noon, tt.piece, pieces[len(pieces)-1])
		if tt.want == "" && err != nil {
			t.Errorf("a delta %s: got %v, want it dropped", tt.name, err)
		} else if tt.want != "" {
			wantRefusal(t, "a delta "+tt.name, err, tt.want)
		}
		if got.InForce != nil || !slices.Contains(got.Lacking, rules.RolesKind) ||
			string(before.Set().Head.Payload) != string(r.Current().Set().Head.Payload) {
			t.Errorf("a delta %s: got %+v, want nothing in force and roles lacking", tt.name, got)
		}
	}
	if got, err := r.Offer(noon, pieces...); err != nil || got.InForce == nil {
		t.Errorf("the right delta: got %+v, %v, want it in force", got, err)
	}
}

// A piece with one more field is read.
func TestAPieceMayHaveMoreFields(t *testing.T) {
	t.Parallel()
	p := newPublisher(t, 50)
	r, carried := newReceiver(t, p)
	p.names = append(p.names, "new")
	p.publish()
	for _, piece := range p.next(carried) {
		piece = bytes.Replace(piece, []byte(`"v":1`), []byte(`"v":1,"x":[1]`), 1)
		if _, err := r.Offer(noon, piece); err != nil {
			t.Errorf("got %v for %.60s", err, piece)
		}
	}
	if !hasRole(r, "new") {
		t.Error("got the pieces not in force")
	}
}

// Two senders are at different versions: the receiver takes the newest of both, and loses nothing.
func TestTwoSendersAtDifferentVersions(t *testing.T) {
	t.Parallel()
	p := newPublisher(t, 50)
	r, first := newReceiver(t, p)
	second := map[string]rules.Digest{}
	p.next(second)
	p.names = append(p.names, "one")
	p.publish()
	one := p.next(first)
	p.names = append(p.names, "two")
	p.publish()
	two := p.next(second) // two deltas
	if _, err := r.Offer(noon, two...); err != nil || !hasRole(r, "two") {
		t.Fatalf("got %v, want the newest version in force", err)
	}
	_, err := r.Offer(noon, one...)
	wantRefusal(t, "the sender that is behind", err, "older")
	p.names = append(p.names, "three")
	p.publish()
	if got, err := r.Offer(noon, p.next(first)...); err != nil || got.InForce == nil || !hasRole(r, "three") {
		t.Errorf("got %+v, %v, want the newest version from the other sender", got, err)
	}
}

// The root replaces the rules key while a receiver runs: the link comes first, and from then on the old key
// signs nothing.
func TestAReceiverFollowsTheRoot(t *testing.T) {
	t.Parallel()
	p := newPublisher(t, 5)
	r, _ := newReceiver(t, p)
	stolen := p.headAlone(r.Current().Set())
	oldHead := p.next(map[string]rules.Digest{})
	_ = stolen
	p.epoch = 2
	revision := rules.Revision{Epoch: 2, Index: 1}
	link, fresh := p.link(p.rootKey, revision, 1), p.signers[1]
	set := p.set(fresh, noon, []rules.Signed{link}, revision, p.roles(fresh, revision, "ops"), revision)
	settings := p.document(fresh, rules.SettingsKind, rules.Revision{Epoch: 2, Index: 7}, access.Settings{})
	set = p.with(set, fresh, rules.SettingsKind, settings, nil)
	feed, err := rules.NewFeed(set)
	if err != nil {
		t.Fatal(err)
	}
	pieces, head := feed.Next(map[string]rules.Digest{})
	if _, err := r.Offer(noon, pieces[0]); err != nil { // the link
		t.Fatal(err)
	}
	_, err = r.Offer(noon, oldHead[len(oldHead)-1])
	wantRefusal(t, "a head by the old key", err, "not signed")
	wantRefusal(t, "without the rest", r.Current().Usable(noon.Add(time.Minute)), "newer rules")
	if got, err := r.Offer(noon, append(pieces[1:], head)...); err != nil || got.InForce == nil {
		t.Fatalf("got %+v, %v, want the new epoch in force", got, err)
	}
	if !hasRole(r, "ops") || r.Current().Head.Epoch != 2 || r.Current().Usable(noon.Add(time.Minute)) != nil {
		t.Error("got the old rules, want the new ones alone")
	}
}

// What waits for a head is bounded, and does not wait for ever.
func TestDocumentsThatNoHeadNamesAreBounded(t *testing.T) {
	t.Parallel()
	p := newPublisher(t, 5)
	r, _ := newReceiver(t, p)
	piece := func(kind string, size int) []byte {
		b, err := json.Marshal(rules.Piece{V: 1, Kind: rules.Kind(kind),
			Document: &rules.Signed{Payload: bytes.Repeat([]byte("x"), size)}})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	refused := func(now time.Time) (n int) {
		for i := range 40 {
			if _, err := r.Offer(now, piece(fmt.Sprintf("kind-%d", i), 1<<20)); err != nil {
				n++
			}
		}
		return n
	}
	if n := refused(noon); n < 10 {
		t.Errorf("got %d of 40 documents of 1 MiB refused, want those above the limit", n)
	}
	_, err := r.Offer(noon, piece("large", rules.MaxDocumentBytes+1))
	if err == nil {
		t.Error("got a document kept that is too large")
	}
	if n := refused(noon.Add(time.Hour)); n == 40 {
		t.Error("got documents kept for ever that no head names")
	}
}

// A receiver that was away for more versions than deltas are kept of gets the whole document, and one that
// got as many deltas as are kept applies them all.
func TestManyDeltas(t *testing.T) {
	t.Parallel()
	p := newPublisher(t, 1000)
	for _, versions := range []int{32, 33} {
		r, carried := newReceiver(t, p)
		for i := range versions {
			p.names = append(p.names, fmt.Sprintf("new-%d-%d", versions, i))
			p.publish()
		}
		whole := sizeOf(p.next(map[string]rules.Digest{}))
		pieces := p.next(carried)
		if size, all := sizeOf(pieces), versions > 32; all != (size > whole*3/4) {
			t.Errorf("got %d bytes for %d versions, of %d", size, versions, whole)
		}
		got, err := r.Offer(noon, pieces...)
		if err != nil || got.InForce == nil || !hasRole(r, p.names[len(p.names)-1]) {
			t.Errorf("got %+v, %v after %d versions, want the last in force", got, err, versions)
		}
	}
}

// No piece makes a receiver panic, or accept rules that the cluster has not signed.
func FuzzReceiver(f *testing.F) {
	p := newPublisher(f, 5)
	r, carried := newReceiver(f, p)
	p.names = append(p.names, "new")
	p.publish()
	for _, piece := range slices.Concat(p.next(carried), p.next(map[string]rules.Digest{})) {
		f.Add(piece)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := r.Offer(noon, b); err == nil && r.Current().Cluster != clusterName {
			t.Errorf("got rules of %q", r.Current().Cluster)
		}
	})
}

// The benchmark of a change: one role more among 2,000 is encoded for all receivers, and one receiver applies
// it.
func BenchmarkOneRoleMore(b *testing.B) {
	p := newPublisher(b, 2000)
	r, carried := newReceiver(b, p)
	sent := 0
	for i := range b.N {
		b.StopTimer()
		p.names = append(p.names, fmt.Sprintf("new-%d", i))
		b.StartTimer()
		p.publish()
		pieces := p.next(carried)
		sent += sizeOf(pieces)
		if _, err := r.Offer(noon, pieces...); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(sent)/float64(b.N), "B-sent/op")
}
