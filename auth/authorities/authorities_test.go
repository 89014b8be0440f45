package authorities_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/threshold-access/threshold/auth/authorities"
	"github.com/threshold-access/threshold/auth/rules"
	"github.com/threshold-access/threshold/auth/state"
	"github.com/threshold-access/threshold/ca/keyring"
	"github.com/threshold-access/threshold/ca/keyring/keyringtest"
	"github.com/threshold-access/threshold/internal/fault"
	signed "github.com/threshold-access/threshold/internal/rules"
	"github.com/threshold-access/threshold/raftstore/raftstoretest"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction(raftstoretest.UnansweredFuture))
}

const cluster = "access.example.com"

// fixture is a cluster with a real store and keyring, and its root key.
type fixture struct {
	*testing.T
	*authorities.Service
	st   *state.State
	seal keyring.Seal
	root *keyring.RootKey
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{T: t, st: state.New(raftstoretest.Open(t)), seal: keyringtest.Seal(t)}
	memory := new(keyringtest.Store)
	keys, root, err := keyring.Generate(t.Context(), keyring.NewCluster{
		Cluster: cluster,
		Store:   memory,
		Seal:    f.seal,
		Now:     time.Now(),
	})
	f.must(err)
	f.root = root
	body, err := authorities.Of(keys)
	f.must(err)
	first, err := rules.FirstAuthorities(root.Signer(), cluster, body, time.Now())
	f.must(err)
	document, err := memory.Load(t.Context())
	f.must(err)
	f.must(state.NewVault(f.st, keys.Secrets()).CreateCluster(t.Context(), state.InitialRecords{
		Cluster:     state.Cluster{Name: cluster, Created: time.Now()},
		Keyring:     document,
		Authorities: first,
	}))
	f.open()
	return f
}

func (f *fixture) must(err error) {
	f.Helper()
	if err != nil {
		f.Fatal(err)
	}
}

// open opens the keyring in the store, as a replica does when it starts.
func (f *fixture) open() {
	f.Helper()
	keys, err := keyring.Open(f.Context(), f.st.Keyring, f.seal)
	f.must(err)
	f.Service = &authorities.Service{
		Store:   f.st.RootChanges,
		Keyring: f.st.Keyring,
		Keys:    keys,
		Now:     time.Now,
	}
}

// publish signs the rules with the keys that this replica has opened, and returns them.
func (f *fixture) publish() (signed.Set, error) {
	f.Helper()
	p := rules.New(rules.Config{
		Source:  f.st.Rules,
		Cluster: cluster,
		Signer:  f.Keys.RulesSigner(),
		Now:     time.Now,
		Log:     slog.New(slog.DiscardHandler),
	})
	if err := p.Publish(f.Context()); err != nil {
		return signed.Set{}, err
	}
	set, _, err := p.Current()
	return set, err
}

func (f *fixture) prepare(dropOld bool, names ...string) authorities.Request {
	f.Helper()
	r, err := f.Prepare(f.Context(), names, dropOld)
	f.must(err)
	return r
}

func (f *fixture) sign(r authorities.Request) authorities.Answer {
	f.Helper()
	a, err := authorities.Sign(f.root, r, time.Now())
	f.must(err)
	return a
}

// wantFault fails unless err is of the kind, has a remedy, and contains says in its message.
func (f *fixture) wantFault(what string, err error, kind fault.Kind, says string) {
	f.Helper()
	if !fault.Is(err, kind) || fault.Remedy(err) == "" || !strings.Contains(fault.Message(err), says) {
		f.Errorf("%s: got %v, want a fault of kind %s that says %q, with a remedy", what, err, kind, says)
	}
}

var all = []string{"user-ssh", "host-ssh", "user-x509", "service-x509", "rules"}

// The root replaces all keys. Until its answer is applied nothing changes. After that, machines that knew the
// old rules follow the new keys, and trust the old ones only if they were kept.
func TestTheRootReplacesKeys(t *testing.T) {
	t.Parallel()
	for _, dropOld := range []bool{false, true} {
		f := newFixture(t)
		before, err := f.publish()
		f.must(err)
		machine, err := signed.Open(f.Keys.Pin(), before)
		f.must(err)
		old := f.Keys.Public()

		request := f.prepare(dropOld, all...)
		f.open()
		if now := f.Keys.Public(); !slices.EqualFunc(now.Rules, old.Rules, equalKeys) {
			t.Error("got other keys before the root has answered")
		}
		_, err = f.publish()
		f.must(err)

		revision, err := f.Apply(t.Context(), f.sign(request))
		if err != nil || revision.Epoch != 2 {
			t.Fatalf("got %s, %v, want the next epoch", revision, err)
		}
		_, err = f.publish()
		if stolen := dropOld; (err != nil) != stolen {
			t.Errorf("dropped %v: the old rules key: got %v, want refused %v", dropOld, err, stolen)
		}
		f.open()
		after, err := f.publish()
		f.must(err)
		followed, err := machine.Advance(after)
		f.must(err)
		if followed.Head.Epoch != 2 || len(after.Chain) != 1 {
			t.Errorf("got epoch %d and a chain of %d, want the new epoch alone",
				followed.Head.Epoch, len(after.Chain))
		}
		now, count := f.Keys.Public(), 2
		if dropOld {
			count = 1
		}
		if len(now.UserSSH) != count || len(now.HostSSH) != count || len(now.UserX509) != count ||
			len(now.ServiceX509) != count || len(now.Rules) != count {
			t.Errorf("dropped %v: got %+v, want %d keys of each", dropOld, now, count)
		}
		if now.Rules[0].Equal(old.Rules[0]) || now.ServiceX509[0].Equal(old.ServiceX509[0]) ||
			bytes.Equal(now.UserSSH[0].Marshal(), old.UserSSH[0].Marshal()) {
			t.Error("got an old key as the one that signs, want the new ones")
		}
		if got := len(followed.Authorities.Service); got != count || followed.Authorities.Root == nil {
			t.Errorf("dropped %v: got %d service authorities at a machine, want %d", dropOld, got, count)
		}
		if _, waits, err := f.Pending(t.Context()); waits || err != nil {
			t.Errorf("got a request that still waits, %v", err)
		}
	}
}

func equalKeys(a, b ed25519.PublicKey) bool { return a.Equal(b) }

// A second replacement follows the first: generations and epochs go on.
func TestKeysAreReplacedAgain(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for want := uint64(2); want <= 3; want++ {
		revision, err := f.Apply(t.Context(), f.sign(f.prepare(true, "rules", "service-x509")))
		if err != nil || revision.Epoch != want {
			t.Fatalf("got %s, %v, want epoch %d", revision, err, want)
		}
		f.open()
		got := f.Keys.Public().ServiceX509[0].Subject.CommonName
		if got != fmt.Sprintf("Threshold service-x509 %d", want) {
			t.Errorf("got %q, want generation %d in its name", got, want)
		}
		_, err = f.publish()
		f.must(err)
	}
}

// An answer makes only those keys trusted that this cluster asked for, and only if the root has signed it.
func TestOtherAnswersAreRefused(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	_, err := f.Apply(t.Context(), authorities.Answer{V: 1})
	f.wantFault("without a request", err, fault.Conflict, "nothing waits")
	first := f.prepare(true, "rules")
	request := f.prepare(true, "rules", "service-x509") // in the place of the first
	_, foreign := keyringtest.NewWithRoot(t, cluster, time.Now())

	changed := func(change func(r *authorities.Request)) authorities.Answer {
		t.Helper()
		copied := request
		copied.Body.Keys = slices.Clone(request.Body.Keys)
		change(&copied)
		return f.sign(copied)
	}
	attacker, _, err := ed25519.GenerateKey(rand.Reader)
	f.must(err)
	stolen := func() authorities.Answer { // the old rules key signs what the root signed
		doc, _, err := signed.ReadAuthorities(f.sign(request).Link)
		f.must(err)
		link, err := signed.SignDocument(f.Keys.RulesSigner(), doc)
		f.must(err)
		return authorities.Answer{V: 1, Link: link}
	}
	for name, answer := range map[string]authorities.Answer{
		"of a request before":     f.sign(first),
		"signed by the rules key": stolen(),
		"an empty one":            {V: 1},
		"of another epoch":        changed(func(r *authorities.Request) { r.Epoch = 7 }),
		"of the present epoch":    changed(func(r *authorities.Request) { r.Epoch = 1 }),
		"with one key more": changed(func(r *authorities.Request) {
			more := signed.SigningKey(9, signed.Next, attacker)
			r.Body.Keys = append(r.Body.Keys, more)
		}),
		"with another key": changed(func(r *authorities.Request) {
			for i, k := range r.Body.Keys {
				if k.Authority == signed.RulesKey {
					r.Body.Keys[i] = signed.SigningKey(k.Generation, signed.Active, attacker)
				}
			}
		}),
		"with another service key": changed(func(r *authorities.Request) {
			stored, err := f.st.Keyring.Load(t.Context())
			f.must(err)
			other, err := f.Keys.NewKeys(stored, []keyring.Authority{"service-x509"}, time.Now())
			f.must(err)
			trusted, err := other.Trusted()
			f.must(err)
			service := *r.Service
			service.Public = publicBytes(t, trusted[0].Public)
			r.Service = &service
		}),
	} {
		_, err := f.Apply(t.Context(), answer)
		f.wantFault(name, err, fault.Invalid, "no answer of the root key")
	}
	asForeign := request
	asForeign.Pin = foreign.Pin()
	answer, err := authorities.Sign(foreign, asForeign, time.Now())
	f.must(err)
	_, err = f.Apply(t.Context(), answer)
	f.wantFault("of another root", err, fault.Invalid, "no answer of the root key")

	good := f.sign(request)
	_, err = f.Apply(t.Context(), good)
	f.must(err)
	_, err = f.Apply(t.Context(), good)
	f.wantFault("a second time", err, fault.Conflict, "nothing waits")
}

func TestRequestsNameAuthoritiesOnce(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for _, names := range [][]string{nil, {"root"}, {"rules", "rules"}, {"Rules"}, {""}} {
		_, err := f.Prepare(t.Context(), names, false)
		f.wantFault(strings.Join(names, " "), err, fault.Invalid, "")
	}
}

// The root signs only for its own cluster, and nothing that verifiers would refuse.
func TestTheRootRefusesForeignRequests(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	request := f.prepare(false, "service-x509")
	_, foreign := keyringtest.NewWithRoot(t, cluster, time.Now())
	_, err := authorities.Sign(foreign, request, time.Now())
	f.wantFault("another root", err, fault.Denied, foreign.Pin().String())
	renamed := request
	renamed.Cluster = "other.example.com"
	_, err = authorities.Sign(f.root, renamed, time.Now())
	f.wantFault("another cluster", err, fault.Denied, "other.example.com")
	for name, change := range map[string]func(r *authorities.Request){
		"no service key":          func(r *authorities.Request) { r.Service = nil },
		"a malformed service key": func(r *authorities.Request) { r.Service.Public = []byte{1} },
		"no rules key": func(r *authorities.Request) {
			isRules := func(k signed.AuthorityKey) bool { return k.Authority == signed.RulesKey }
			r.Body.Keys = slices.DeleteFunc(r.Body.Keys, isRules)
		},
	} {
		bad := f.prepare(false, "service-x509")
		change(&bad)
		_, err := authorities.Sign(f.root, bad, time.Now())
		f.wantFault(name, err, fault.Invalid, "no request")
	}
}

// Two administrators apply the same answer at once: one commit wins.
func TestOneOfTwoAnswersIsCommitted(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	answer := f.sign(f.prepare(true, "rules"))
	results := make(chan error, 2)
	for range 2 {
		go func() {
			_, err := f.Apply(context.WithoutCancel(t.Context()), answer)
			results <- err
		}()
	}
	first, second := <-results, <-results
	if (first == nil) == (second == nil) {
		t.Errorf("got %v and %v, want one success", first, second)
	}
}

var update = flag.Bool("update", false, "write the golden files")

// Requests and answers of an earlier release are read by this one; newer ones are, unless they say otherwise.
func TestGoldenRequestsAndAnswersAreRead(t *testing.T) {
	t.Parallel()
	if *update {
		f := newFixture(t)
		request := f.prepare(true, all...)
		for name, v := range map[string]any{"request": request, "answer": f.sign(request)} {
			b, err := json.MarshalIndent(v, "", "  ")
			f.must(err)
			f.must(os.WriteFile("testdata/"+name+".json", append(b, '\n'), 0o644))
		}
	}
	request, err := os.ReadFile("testdata/request.json")
	if err != nil {
		t.Fatal(err)
	}
	answer, err := os.ReadFile("testdata/answer.json")
	if err != nil {
		t.Fatal(err)
	}
	r, err := authorities.ReadRequest(request)
	if err != nil || r.Cluster != cluster || r.Epoch != 2 || r.Service == nil || len(r.Body.Keys) != 5 ||
		!r.DropOld {
		t.Errorf("got %+v, %v, want the request", r, err)
	}
	a, err := authorities.ReadAnswer(answer)
	if err != nil {
		t.Fatal(err)
	}
	if name, _, err := signed.OpenAuthorities(r.Pin, []signed.Signed{a.Link}); err != nil || name != cluster {
		t.Errorf("got %q, %v, want a link that the root signed", name, err)
	}
	for _, tt := range []struct {
		fields string
		read   bool
	}{
		{`"v": 1, "future": {"a": 1}`, true},
		{`"v": 1, "future": 1, "critical": ["future"]`, false},
		{`"v": 2`, false},
		{`"v": 0`, false},
	} {
		change := func(b []byte) []byte { return bytes.Replace(b, []byte(`"v": 1`), []byte(tt.fields), 1) }
		if _, err := authorities.ReadRequest(change(request)); (err == nil) != tt.read {
			t.Errorf("a request with %s: got %v, want read %v", tt.fields, err, tt.read)
		}
		if _, err := authorities.ReadAnswer(change(answer)); (err == nil) != tt.read {
			t.Errorf("an answer with %s: got %v, want read %v", tt.fields, err, tt.read)
		}
	}
}

// publicBytes returns the SubjectPublicKeyInfo of a key.
func publicBytes(t *testing.T, key crypto.PublicKey) []byte {
	t.Helper()
	b, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// A replica that has not started again since a change makes the next request all the same: it knows the keys
// of the first by the store.
func TestASecondChangeBeforeTheReplicaStartsAgain(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for range 2 {
		_, err := f.Apply(t.Context(), f.sign(f.prepare(false, "rules", "service-x509")))
		f.must(err)
	}
	f.open()
	_, err := f.publish()
	f.must(err)
}
