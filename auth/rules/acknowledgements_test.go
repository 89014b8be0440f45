package rules_test

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/threshold-access/threshold/auth/join"
	"github.com/threshold-access/threshold/auth/rules"
	"github.com/threshold-access/threshold/auth/state"
	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	signed "github.com/threshold-access/threshold/internal/rules"
)

// machine is a machine on record with its service key.
type machine struct {
	state.Machine
	key *ecdsa.PrivateKey
}

// ackFixture is a cluster with one proxy, and what its machines have acknowledged.
type ackFixture struct {
	*fixture
	*rules.Acknowledgements
	join  *join.Service
	proxy machine
	log   *bytes.Buffer
	now   time.Time // the clock of auth
}

func newAckFixture(t *testing.T) *ackFixture {
	t.Helper()
	f := &ackFixture{fixture: newFixture(t), log: &bytes.Buffer{}, now: time.Now()}
	f.join = join.New(join.Config{
		Reader:   f.st.Reader,
		Machines: f.st.Machines,
		Tokens:   f.st.Tokens,
		Cluster:  cluster,
		Now:      time.Now,
	})
	f.restart()
	f.proxy = f.addMachine(identity.Proxy, "edge")
	f.attach(f.proxy)
	return f
}

// restart forgets what was acknowledged, as a restart of auth does.
func (f *ackFixture) restart() {
	f.Acknowledgements = rules.NewAcknowledgements(rules.AcknowledgementsConfig{
		Machines: f.st.Reader,
		Now:      func() time.Time { return f.now },
		Log:      slog.New(slog.NewTextHandler(f.log, nil)),
	})
}

// addMachine puts a machine on record.
func (f *ackFixture) addMachine(kind identity.Kind, name string) machine {
	f.Helper()
	_, token, err := f.join.Create(f.Context(), join.TokenRequest{Kind: kind})
	f.must(err)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	f.must(err)
	m := state.Machine{ID: identity.MachineID(state.NewID()), Kind: kind, Name: name, Created: f.now.UTC()}
	m.X509Key, err = x509.MarshalPKIXPublicKey(key.Public())
	f.must(err)
	f.must(f.st.Machines.AddMachine(f.Context(), m, token))
	return machine{m, key}
}

// attach makes the proxy report that the nodes are attached.
func (f *ackFixture) attach(proxy machine, nodes ...machine) {
	f.Helper()
	_, err := f.st.Attachments.KeepProxyLease(f.Context(), proxy.ID, time.Minute)
	f.must(err)
	var list []state.Attachment
	for _, n := range nodes {
		list = append(list, state.Attachment{Node: n.ID, ProxyID: proxy.ID, Proxy: proxy.Name, Since: f.now})
	}
	f.must(f.st.Attachments.ChangeAttachments(f.Context(), proxy.ID, list, nil, f.now))
}

// detach makes the proxy report that the node has left at that time.
func (f *ackFixture) detach(n machine, at time.Time) {
	f.Helper()
	left := []state.Attachment{{Node: n.ID, ProxyID: f.proxy.ID}}
	f.must(f.st.Attachments.ChangeAttachments(f.Context(), f.proxy.ID, nil, left, at))
}

// lock writes a lock, and returns its id.
func (f *ackFixture) lock(match access.Facts) string {
	f.Helper()
	lock := access.NewLock(match, access.Effect{Kind: access.Deny})
	f.must(f.st.Locks.PutLock(f.Context(), state.Stored[access.Lock]{}, lock, f.now))
	return lock.ID
}

// published is the rules as they are now, as a machine decides by them.
func (f *ackFixture) published() *signed.Trust {
	f.Helper()
	f.must(f.Publish(f.Context()))
	trust, err := signed.Open(f.keys.Pin(), f.current())
	f.must(err)
	return trust
}

// acknowledge is what a machine signs that decides by these rules.
func (f *ackFixture) acknowledge(m machine, trust *signed.Trust) authrpc.MachineAcknowledgement {
	f.Helper()
	s, err := trust.Acknowledge(m.key, m.ID, f.now)
	f.must(err)
	return authrpc.MachineAcknowledgement{Machine: m.ID, Signed: s}
}

// everything is an acknowledgement that would confirm every lock.
func everything() signed.Acknowledgement {
	has := signed.Acknowledged{Revision: signed.Revision{Epoch: 1, Index: 1 << 40}, Reader: 1}
	return signed.Acknowledgement{
		Epoch:    1,
		Sequence: signed.Sequence{Term: 1 << 40},
		Docs: map[signed.Kind]signed.Acknowledged{
			signed.MachineLocksKind: has, signed.UserLocksKind: has,
		},
	}
}

// say signs any acknowledgement, as a machine of another release may. It is of m unless it says another one.
func (f *ackFixture) say(m machine, a signed.Acknowledgement) authrpc.MachineAcknowledgement {
	f.Helper()
	a.V, a.Machine = 1, cmp.Or(a.Machine, m.ID)
	payload, err := json.Marshal(a)
	f.must(err)
	digest := sha256.Sum256(payload)
	sum := sha256.Sum256(append([]byte("threshold rules v1 acknowledgement\x00"), digest[:]...))
	sig, err := ecdsa.SignASN1(rand.Reader, m.key, sum[:])
	f.must(err)
	return authrpc.MachineAcknowledgement{Machine: m.ID, Signed: signed.Signed{Payload: payload, Sig: sig}}
}

// report makes the proxy report the acknowledgements.
func (f *ackFixture) report(list ...authrpc.MachineAcknowledgement) {
	f.Helper()
	_, err := f.Report(f.Context(), f.proxy.Identity(cluster),
		authrpc.ReportAcknowledgementsRequest{Acknowledgements: list})
	f.must(err)
}

func (f *ackFixture) confirmations(lock string) authrpc.LockConfirmationsResponse {
	f.Helper()
	res, err := f.Confirmations(f.Context(), authrpc.LockConfirmationsRequest{Lock: lock})
	f.must(err)
	return res
}

func names(list []authrpc.UnconfirmedMachine) (names []string) {
	for _, m := range list {
		names = append(names, m.Name)
	}
	return names
}

// want checks how many machines have confirmed a lock, and which have not.
func (f *ackFixture) want(what string, lock string, confirmed int, silent, offline []string) {
	f.Helper()
	got := f.confirmations(lock)
	if got.Confirmed != confirmed || got.Attached != confirmed+len(silent) ||
		!slices.Equal(names(got.Silent), silent) ||
		got.OfflineCount != len(offline) || !slices.Equal(names(got.Offline), offline) {
		f.Errorf("%s: got %+v, want %d confirmed, silent %q, offline %q",
			what, got, confirmed, silent, offline)
	}
}

// A machine has confirmed a lock when it has signed that it decides by it or by later ones. Machines that are
// not attached are named apart, and those that have left a moment ago are not.
func TestALockIsConfirmedByWhatMachinesSign(t *testing.T) {
	t.Parallel()
	f := newAckFixture(t)
	web, db := f.addMachine(identity.Node, "web"), f.addMachine(identity.Node, "db")
	f.addMachine(identity.Node, "stored")
	f.attach(f.proxy, web, db)
	before := f.published()
	first := f.lock(access.Facts{LoginID: "login-1"})
	f.want("nobody has said anything", first, 0, []string{"db", "edge", "web"}, []string{"stored"})
	f.report(f.acknowledge(web, before), f.acknowledge(db, before))
	f.want("the rules before the lock", first, 0, []string{"db", "edge", "web"}, []string{"stored"})
	withFirst := f.published()
	f.report(f.acknowledge(web, withFirst), f.acknowledge(f.proxy, withFirst))
	f.want("two have the lock", first, 2, []string{"db"}, []string{"stored"})
	db1 := f.confirmations(first).Silent[0]
	if db1.Kind != identity.Node || db1.ID != db.ID || !db1.Time.Equal(f.now) ||
		!db1.Locks[signed.UserLocksKind].Before(withFirst.Head.Docs[signed.UserLocksKind].Revision) {
		t.Errorf("got %+v, want what db has confirmed last", db1)
	}
	second := f.lock(access.Facts{Role: "dba"})
	f.want("the next lock", second, 0, []string{"db", "edge", "web"}, []string{"stored"})
	f.want("the first lock still", first, 2, []string{"db"}, []string{"stored"})
	f.report(f.acknowledge(db, f.published()))
	f.want("who has the second has the first", first, 3, nil, []string{"stored"})
	f.want("the second", second, 1, []string{"edge", "web"}, []string{"stored"})
	f.want("all there are", "", 1, []string{"edge", "web"}, []string{"stored"})
	if got := f.confirmations("").Revision; got == 0 || got != f.confirmations(second).Revision {
		t.Errorf("got the revision %d of all locks, want that of the newest", got)
	}
	f.detach(web, f.now)
	f.now = f.now.Add(time.Minute)
	f.want("one has just left", second, 1, []string{"edge", "web"}, []string{"stored"})
	f.now = f.now.Add(time.Hour)
	f.want("it has not come back", second, 1, []string{"edge"}, []string{"stored", "web"})
}

// A lock of a machine is in another document than a lock of users. Neither waits for a change of the other.
func TestBothDocumentsOfLocksAreConfirmed(t *testing.T) {
	t.Parallel()
	f := newAckFixture(t)
	bad := f.addMachine(identity.Node, "bad")
	f.attach(f.proxy, bad)
	ofMachine := f.lock(access.Facts{Machine: bad.ID})
	f.want("the locked machine does not count", ofMachine, 0, []string{"edge"}, nil)
	withFirst := f.published()
	f.report(f.acknowledge(f.proxy, withFirst))
	f.want("the lock of the machine", ofMachine, 1, nil, nil)
	ofUser := f.lock(access.Facts{LoginID: "login-1"})
	f.want("the lock of the user", ofUser, 0, []string{"edge"}, nil)
	f.want("the lock of the machine still", ofMachine, 1, nil, nil)
	f.report(f.acknowledge(f.proxy, f.published()))
	f.want("both", ofUser, 1, nil, nil)
}

// What a proxy passes on counts only if the machine has signed it, and never makes a machine seem to have
// what it does not have.
func TestAcknowledgementsThatAreNotBelieved(t *testing.T) {
	t.Parallel()
	f := newAckFixture(t)
	web, db := f.addMachine(identity.Node, "web"), f.addMachine(identity.Node, "db")
	locked, removed := f.addMachine(identity.Node, "locked"), f.addMachine(identity.Node, "removed")
	f.attach(f.proxy, web, db)
	before := f.published()
	f.lock(access.Facts{Machine: locked.ID})
	f.must(f.st.Machines.RemoveMachine(t.Context(), f.stored(removed), state.By{Time: f.now}))
	lock := f.lock(access.Facts{LoginID: "login-1"})
	trust := f.published()
	good := f.acknowledge(web, trust)
	forged, old := good, f.acknowledge(web, before)
	forged.Signed.Payload = slices.Clone(good.Signed.Payload)
	forged.Signed.Payload[len(forged.Signed.Payload)-5] ^= 1
	byDB := good
	byDB.Signed = f.acknowledge(machine{web.Machine, db.key}, trust).Signed
	asDB := good
	asDB.Machine = db.ID
	forWeb, newer := everything(), everything()
	forWeb.Machine = web.ID
	newer.Critical = []string{"later"}
	stranger := machine{state.Machine{ID: identity.MachineID(state.NewID())}, web.key}
	for what, bad := range map[string]authrpc.MachineAcknowledgement{
		"changed by the proxy":                forged,
		"signed by another machine":           byDB,
		"passed off as another machine's":     asDB,
		"of one machine, signed by another":   f.say(db, forWeb),
		"of a machine that is not on record":  f.acknowledge(stranger, trust),
		"of a machine that is locked":         f.acknowledge(locked, trust),
		"of a machine that was removed":       f.acknowledge(removed, trust),
		"of no machine":                       {},
		"from before the lock, sent again":    old,
		"of a machine that a proxy made up":   {Machine: "x", Signed: good.Signed},
		"with a critical field that is newer": f.say(web, newer),
	} {
		f.report(bad)
		f.want(what, lock, 0, []string{"db", "edge", "web"}, nil)
	}
	if !bytes.Contains(f.log.Bytes(), []byte("an acknowledgement of the rules was refused")) {
		t.Errorf("got the log %q, want the refusals in it", f.log)
	}
	f.report(f.say(db, everything())) // the same is believed of the machine itself
	f.want("what db says of itself", lock, 1, []string{"edge", "web"}, nil)
	f.report(forged, good, old, byDB) // good ones count beside bad ones
	f.want("the good one", lock, 2, []string{"edge"}, nil)
	if got := f.Acknowledgements.Len(); got != 2 {
		t.Errorf("got %d machines in memory, want web and db", got)
	}
}

// stored is the record of the machine, to remove it.
func (f *ackFixture) stored(m machine) state.Stored[state.Machine] {
	f.Helper()
	got, err := f.st.Machine(f.Context(), m.ID)
	f.must(err)
	return got
}

// Two proxies report the same node, one of them late or again and again. The newest counts in any order. A
// clock that is wrong, or was set back, does not make a machine look silent.
func TestTheNewestAcknowledgementCounts(t *testing.T) {
	t.Parallel()
	f := newAckFixture(t)
	web, other := f.addMachine(identity.Node, "web"), f.addMachine(identity.Proxy, "far")
	f.attach(f.proxy, web)
	f.attach(other)
	old := f.acknowledge(web, f.published())
	lock := f.lock(access.Facts{LoginID: "login-1"})
	now := f.now
	f.now = now.Add(time.Hour) // the clock of web
	fresh := f.acknowledge(web, f.published())
	f.now = now
	for range 3 {
		f.report(fresh, old)
		f.report(old, fresh, old)
		_, err := f.Report(t.Context(), other.Identity(cluster),
			authrpc.ReportAcknowledgementsRequest{Acknowledgements: []authrpc.MachineAcknowledgement{old}})
		f.must(err)
		f.want("the newest", lock, 1, []string{"edge", "far"}, nil)
	}
	next := f.lock(access.Facts{Role: "dba"})
	if got := f.confirmations(next).Silent; len(got) != 3 || got[2].Name != "web" || got[2].Time.After(now) {
		t.Errorf("got %+v, want web with a time that is not in the future", got)
	}
	f.now = now.Add(-time.Hour)
	f.report(f.acknowledge(web, f.published()))
	f.want("by a clock that was set back", next, 1, []string{"edge", "far"}, nil)
	if f.Acknowledgements.Len() != 1 {
		t.Errorf("got %d machines in memory, want 1", f.Acknowledgements.Len())
	}
}

// After a restart auth knows nothing, and a proxy that repeats what is old proves nothing by it.
func TestARestartForgetsConfirmations(t *testing.T) {
	t.Parallel()
	f := newAckFixture(t)
	old := f.acknowledge(f.proxy, f.published())
	lock := f.lock(access.Facts{LoginID: "login-1"})
	fresh := f.acknowledge(f.proxy, f.published())
	f.report(fresh)
	f.want("before", lock, 1, nil, nil)
	f.restart()
	f.want("after", lock, 0, []string{"edge"}, nil)
	if got := f.confirmations(lock).Silent[0]; got.Locks != nil || !got.Time.IsZero() {
		t.Errorf("got %+v, want a machine of which nothing is known", got)
	}
	f.report(old)
	f.want("by an old one", lock, 0, []string{"edge"}, nil)
	f.report(fresh)
	f.want("sent again", lock, 1, nil, nil)
}

// What was confirmed before the root key raised the epoch counts for nothing: the indexes of the log may have
// begun again.
func TestConfirmationsOfAnEarlierEpochDoNotCount(t *testing.T) {
	t.Parallel()
	f := newAckFixture(t)
	f.lock(access.Facts{LoginID: "login-1"})
	trust := f.published()
	far := map[signed.Kind]signed.Acknowledged{}
	for kind := range trust.Head.Docs {
		far[kind] = signed.Acknowledged{Revision: signed.Revision{Epoch: 0, Index: 1 << 40}, Reader: 1}
	}
	f.report(f.say(f.proxy, signed.Acknowledgement{Epoch: 0, Docs: far}))
	f.want("of the epoch before", "", 0, []string{"edge"}, nil)
	f.report(f.acknowledge(f.proxy, trust))
	f.want("of this epoch", "", 1, nil, nil)
}

// The answer comes as soon as the last machine has confirmed. Until then it waits, but not for machines that
// are not attached, and not longer than asked for.
func TestConfirmationsAreWaitedFor(t *testing.T) {
	t.Parallel()
	f := newAckFixture(t)
	web := f.addMachine(identity.Node, "web")
	f.addMachine(identity.Node, "stored")
	f.attach(f.proxy, web)
	lock := f.lock(access.Facts{LoginID: "login-1"})
	trust := f.published()
	type answer struct {
		res authrpc.LockConfirmationsResponse
		err error
	}
	ask := func(ctx context.Context, wait time.Duration) <-chan answer {
		ch := make(chan answer, 1)
		go func() {
			res, err := f.Confirmations(ctx,
				authrpc.LockConfirmationsRequest{Lock: lock, Wait: wait})
			ch <- answer{res, err}
		}()
		return ch
	}
	if got := <-ask(t.Context(), 10*time.Millisecond); got.err != nil || len(got.res.Silent) != 2 {
		t.Errorf("got %+v, want both silent after the wait", got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	gone := ask(ctx, time.Hour)
	cancel()
	if got := <-gone; !errors.Is(got.err, context.Canceled) ||
		!fault.Is(got.err, fault.Unavailable) || fault.Remedy(got.err) == "" {
		t.Errorf("got %+v for a caller who has hung up, want the end of the wait", got)
	}
	waiting := ask(t.Context(), time.Hour)
	f.report(f.acknowledge(web, trust))
	f.report(f.acknowledge(f.proxy, trust))
	if got := <-waiting; got.err != nil || got.res.Confirmed != 2 || got.res.OfflineCount != 1 {
		t.Errorf("got %+v, want both confirmed", got)
	}
}

// unreadableLocks is a store with a lock that only a newer release can read.
type unreadableLocks struct{ *state.Reader }

func (s unreadableLocks) LockSet(ctx context.Context) (*state.LockSet, error) {
	set, err := s.Reader.LockSet(ctx)
	last := *set
	last.Unreadable = []string{"0123456789ab"}
	return &last, err
}

// Nobody waits for a lock that does not exist, or that is not published.
func TestALockThatDoesNotExistIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	f := newAckFixture(t)
	lock := f.lock(access.Facts{LoginID: "login-1"})
	req := authrpc.LockConfirmationsRequest{Lock: "0123456789ab", Wait: time.Hour}
	if _, err := f.Confirmations(t.Context(), req); !fault.Is(err, fault.NotFound) ||
		fault.Remedy(err) == "" {
		t.Errorf("got %v, want not found with a remedy", err)
	}
	f.want("one that does", lock, 0, []string{"edge"}, nil)
	f.report(f.acknowledge(f.proxy, f.published()))
	f.want("one that is in force", lock, 1, nil, nil)
	unreadable := rules.NewAcknowledgements(rules.AcknowledgementsConfig{
		Machines: unreadableLocks{f.st.Reader},
		Now:      time.Now,
		Log:      slog.New(slog.DiscardHandler),
	})
	for _, id := range []string{"", lock} {
		_, err := unreadable.Confirmations(t.Context(), authrpc.LockConfirmationsRequest{Lock: id})
		if !fault.Is(err, fault.Unavailable) || fault.Remedy(err) == "" {
			t.Errorf("%q: got %v while locks cannot be published, want unavailable with a remedy", id, err)
		}
	}
}

// The lowest reader is that of the machines that are attached. One that has said nothing may read nothing.
func TestLowestReader(t *testing.T) {
	t.Parallel()
	f := newAckFixture(t)
	web := f.addMachine(identity.Node, "web")
	stored := f.addMachine(identity.Node, "stored")
	f.attach(f.proxy, web)
	want := func(what string, want int) {
		t.Helper()
		if got, err := f.LowestReader(t.Context(), signed.UserLocksKind); err != nil || got != want {
			t.Errorf("%s: got %d, %v, want %d", what, got, err, want)
		}
	}
	reads := func(m machine, counter uint64, version int) authrpc.MachineAcknowledgement {
		return f.say(m, signed.Acknowledgement{
			Sequence: signed.Sequence{Counter: counter},
			Docs:     map[signed.Kind]signed.Acknowledged{signed.UserLocksKind: {Reader: version}},
			Time:     f.now,
		})
	}
	want("nobody has said anything", 0)
	f.report(reads(f.proxy, 1, 3))
	want("one has said nothing", 0)
	f.report(reads(web, 1, 2), reads(stored, 1, 1))
	want("all that are attached have said it", 2)
	f.now = f.now.Add(time.Second)
	f.report(reads(web, 1, 3))
	want("after an update, under the same head", 3)
	f.now = f.now.Add(time.Second)
	f.report(reads(web, 1, 1))
	want("after a step back to an older release", 1)
	f.report(reads(web, 2, -7))
	want("one that says nonsense", 0)
	f.lock(access.Facts{Machine: web.ID})
	want("the one with nonsense is locked", 3)
	if got, err := f.LowestReader(t.Context(), "later"); err != nil || got != 0 {
		t.Errorf("got %d, %v for a kind that nobody reads, want 0", got, err)
	}
}

// One call is bounded, and what is known is bounded by the machines on record.
func TestAcknowledgementsAreBounded(t *testing.T) {
	t.Parallel()
	f := newAckFixture(t)
	trust := f.published()
	good := f.acknowledge(f.proxy, trust)
	many := slices.Repeat([]authrpc.MachineAcknowledgement{good}, authrpc.MaxAcknowledgements+1)
	_, err := f.Report(t.Context(), f.proxy.Identity(cluster),
		authrpc.ReportAcknowledgementsRequest{Acknowledgements: many})
	if !fault.Is(err, fault.Invalid) || fault.Remedy(err) == "" || f.Acknowledgements.Len() != 0 {
		t.Errorf("got %v and %d in memory, want it refused", err, f.Acknowledgements.Len())
	}
	f.report(many[1:]...)
	f.want("as many as there may be", "", 1, nil, nil)

	for i := range 30 { // each is removed again
		m := f.addMachine(identity.Node, fmt.Sprintf("node-%d", i))
		f.report(f.acknowledge(m, trust))
		f.must(f.st.Machines.RemoveMachine(t.Context(), f.stored(m), state.By{Time: f.now}))
	}
	if got := f.Acknowledgements.Len(); got > 25 {
		t.Errorf("got %d machines in memory, want those that were removed forgotten", got)
	}
	f.want("the one that is left", "", 0, []string{"edge"}, nil)
	if got := f.Acknowledgements.Len(); got != 1 {
		t.Errorf("got %d machines in memory, want 1", got)
	}
}
