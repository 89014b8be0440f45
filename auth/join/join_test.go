package join_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/auth/join"
	"github.com/threshold-access/threshold/auth/state"
	"github.com/threshold-access/threshold/auth/state/statetest"
	"github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/raftstore/raftstoretest"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction(raftstoretest.UnansweredFuture))
}

// fixture is the join service of a new cluster.
type fixture struct {
	*testing.T
	*join.Service
	st  *state.State
	now time.Time // the service's clock: it stands still until the test moves it
}

// newFixture creates a cluster without roles, and the join service over it.
func newFixture(t *testing.T) *fixture {
	t.Helper()
	st, _ := statetest.NewCluster(t)
	f := &fixture{T: t, st: st, now: time.Now()}
	f.Service = join.New(join.Config{
		Reader:   st.Reader,
		Machines: st.Machines,
		Tokens:   st.Tokens,
		Cluster:  statetest.Cluster,
		Now:      func() time.Time { return f.now },
	})
	return f
}

func (f *fixture) must(err error) {
	f.Helper()
	if err != nil {
		f.Fatal(err)
	}
}

// token creates a token, for a node unless the request says otherwise, and returns its text.
func (f *fixture) token(r join.TokenRequest) string {
	f.Helper()
	if r.Kind == "" {
		r.Kind = identity.Node
	}
	t, _, err := f.Create(f.Context(), r)
	f.must(err)
	return t.String()
}

// request is a valid join request of a new machine, and the machine's service key.
func (f *fixture) request(token, name string) (authrpc.JoinRequest, *ecdsa.PrivateKey) {
	f.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	f.must(err)
	host, _, err := ed25519.GenerateKey(rand.Reader)
	f.must(err)
	hostKey, err := ssh.NewPublicKey(host)
	f.must(err)
	r := authrpc.JoinRequest{
		Token:  token,
		Kind:   identity.Node,
		Name:   name,
		SSHKey: hostKey.Marshal(),
		Time:   f.now,
	}
	r.X509Key, err = x509.MarshalPKIXPublicKey(key.Public())
	f.must(err)
	f.prove(&r, key)
	return r, key
}

// prove signs the request anew.
func (f *fixture) prove(r *authrpc.JoinRequest, key *ecdsa.PrivateKey) {
	f.Helper()
	sum := authrpc.JoinProof(r.Token, r.SSHKey, r.X509Key)
	var err error
	r.Proof, err = key.Sign(rand.Reader, sum[:], crypto.SHA256)
	f.must(err)
}

// joined creates a token and joins a machine with it, which must succeed. names are the public names of a
// proxy.
func (f *fixture) joined(token join.TokenRequest, name string, names ...string) state.Machine {
	f.Helper()
	token.PublicNames = names
	r, _ := f.request(f.token(token), name)
	r.PublicNames = names
	if token.Kind != "" {
		r.Kind = token.Kind
	}
	a, err := f.Admit(f.Context(), r)
	f.must(err)
	return a.Machine()
}

// refusals counts the audit events of refused joins.
func (f *fixture) refusals() (n int) {
	f.Helper()
	for _, e := range statetest.Events(f, f.st) {
		if e.Code == audit.JoinRefused {
			n++
		}
	}
	return n
}

// A token admits one machine, with the labels of the token beside those that the machine gives itself. A
// second machine is refused and told how to get a token, and the refusal is in the audit log.
func TestATokenAdmitsOnce(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	token := f.token(join.TokenRequest{Labels: identity.Labels{"env": "prod"}})
	r, _ := f.request(token, "web-1")
	r.Labels = identity.Labels{"self.env": "dev", "self.rack": "7"}
	a, err := f.Admit(t.Context(), r)
	f.must(err)
	m := a.Machine()
	want := identity.Labels{"env": "prod", "self.env": "dev", "self.rack": "7"}
	if m.Name != "web-1" || !maps.Equal(m.Labels, want) || a.Renewal() {
		t.Errorf("got %+v, want web-1 with the labels %v", m, want)
	}
	again, _ := f.request(token, "web-2")
	_, err = f.Admit(t.Context(), again)
	if !fault.Is(err, fault.Denied) || !strings.Contains(fault.Message(err), "used already") ||
		!strings.Contains(fault.Remedy(err), "tsh token create") {
		t.Errorf("second use: got %v, want denied, used already, and how to get another", err)
	}
	if f.refusals() != 1 {
		t.Errorf("got %d refusals in the audit log, want 1", f.refusals())
	}
}

// Each case changes one thing of a valid request. It must be refused with the fault, the text and a remedy,
// and recorded in the audit log if the token is one that auth created.
func TestWhatJoinRefuses(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	var key *ecdsa.PrivateKey // of the machine of the current case
	for _, tt := range []struct {
		name     string
		change   func(*authrpc.JoinRequest)
		kind     fault.Kind
		message  string
		recorded bool // as an audit event
	}{
		{"an expired token", func(*authrpc.JoinRequest) {
			f.now = f.now.Add(time.Hour)
		}, fault.Expired, "expired at", true},
		{"another kind of machine", func(r *authrpc.JoinRequest) {
			r.Kind = identity.Proxy
		}, fault.Denied, "is for a node", true},
		{"an auth replica", func(r *authrpc.JoinRequest) {
			r.Kind = identity.Auth
		}, fault.Denied, "is for a node", true},
		{"a clock 10 minutes behind", func(r *authrpc.JoinRequest) {
			r.Time = f.now.Add(-10 * time.Minute)
		}, fault.Invalid, "10m behind", true},
		{"a clock 10 minutes ahead", func(r *authrpc.JoinRequest) {
			r.Time = f.now.Add(10 * time.Minute)
		}, fault.Invalid, "10m ahead", true},
		{"no clock", func(r *authrpc.JoinRequest) {
			r.Time = time.Time{}
		}, fault.Invalid, "auth's", true},
		{"no proof", func(r *authrpc.JoinRequest) {
			r.Proof = nil
		}, fault.Denied, "does not prove", true},
		{"another host key than the proof is for", func(r *authrpc.JoinRequest) {
			other, _ := f.request(r.Token, "x")
			r.SSHKey = other.SSHKey
		}, fault.Denied, "does not prove", true},
		{"another machine's service key", func(r *authrpc.JoinRequest) {
			other, _ := f.request(r.Token, "x")
			r.X509Key = other.X509Key
		}, fault.Denied, "does not prove", true},
		{"no keys", func(r *authrpc.JoinRequest) {
			r.SSHKey = nil
		}, fault.Invalid, "keys are not acceptable", true},
		{"public names for a node", func(r *authrpc.JoinRequest) {
			r.PublicNames = []string{"access.example.com"}
		}, fault.Denied, "no public names", true},
		{"labels that forge lines", func(r *authrpc.JoinRequest) {
			r.Labels = identity.Labels{"self.env": "a\nb"}
		}, fault.Invalid, "label", true},
		{"a label that only an administrator gives", func(r *authrpc.JoinRequest) {
			r.Labels = identity.Labels{"self.rack": "7", "env": "prod"}
		}, fault.Denied, `may not give itself the label "env"`, true},
		{"a label with the prefix in another case", func(r *authrpc.JoinRequest) {
			r.Labels = identity.Labels{"Self.env": "prod"}
		}, fault.Denied, `may not give itself the label "Self.env"`, true},
		{"the prefix alone as a label", func(r *authrpc.JoinRequest) {
			r.Labels = identity.Labels{"self.": "prod"}
		}, fault.Invalid, "label", true},
		{"labels beyond what certificates hold", func(r *authrpc.JoinRequest) {
			r.Labels = identity.Labels{"self.a": strings.Repeat("<", 500), "self.b": strings.Repeat("<", 500)}
		}, fault.Invalid, "labels", true},
		{"a token that was never created", func(r *authrpc.JoinRequest) {
			forged, err := authrpc.ParseToken(r.Token)
			f.must(err)
			forged.Secret[3] ^= 1
			r.Token = forged.String()
			f.prove(r, key)
		}, fault.Denied, "not known", false},
		{"no token", func(r *authrpc.JoinRequest) {
			r.Token = ""
		}, fault.Denied, "no join token", false},
	} {
		before, clock := f.refusals(), f.now
		var r authrpc.JoinRequest
		r, key = f.request(f.token(join.TokenRequest{}), "web")
		tt.change(&r)
		_, err := f.Admit(t.Context(), r)
		if !fault.Is(err, tt.kind) || !strings.Contains(fault.Message(err), tt.message) ||
			fault.Remedy(err) == "" {
			t.Errorf("%s: got %v, want %s that says %q, with a remedy", tt.name, err, tt.kind, tt.message)
		}
		if recorded := f.refusals() > before; recorded != tt.recorded {
			t.Errorf("%s: got recorded %v, want %v", tt.name, recorded, tt.recorded)
		}
		f.now = clock
	}
	f.joined(join.TokenRequest{}, "web") // the same request without a change is admitted
}

func TestAWrongClockIsReportedWithBothTimes(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	r, _ := f.request(f.token(join.TokenRequest{}), "web")
	r.Time = f.now.Add(-10 * time.Minute)
	_, err := f.Admit(t.Context(), r)
	for _, clock := range []time.Time{f.now, r.Time} {
		if !strings.Contains(fault.Message(err), clock.UTC().Format(time.RFC3339)) {
			t.Errorf("got %q, want it to name %s", fault.Message(err), clock.UTC().Format(time.RFC3339))
		}
	}
	r.Time = f.now // the token is still unused
	if _, err := f.Admit(t.Context(), r); err != nil {
		t.Errorf("with the clock set: got %v", err)
	}
}

// The joins of one list run one after the other in the same cluster, so a name that was given is taken in the
// later ones.
func TestNamesAreChosenByAuth(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	const id = "0123456789abcdef0123456789abcdef"
	for _, tt := range []struct{ wanted, want string }{
		{"web", "web"},
		{"web", "web-2"},
		{"WEB", "web-3"},
		{"web.example.com", "web-4"},             // the cluster's own suffix is dropped
		{"web.example.com.example.com", "web-5"}, // web's own host certificate is valid for web.example.com
		{"web.example-.com", "web-6"},
		{"web.example..com", "web-7"},
		{"web._example.com.Example.COM", "web-8"},
		{"db.internal", "db.internal"},
		{"db.internal", "db-2.internal"},
		{"My Laptop_1", "my-laptop-1"},
		{"", "node"},
		{"***", "node-2"},
		{id, id + "-2"}, // a name never looks like a machine's id
		{"example.com", "example-2.com"},
		{"10.0.0.1", "10-2.0.0.1"},
		{strings.Repeat("a", 300), strings.Repeat("a", 58)},
	} {
		if got := f.joined(join.TokenRequest{}, tt.wanted).Name; got != tt.want {
			t.Errorf("wanted %.40q: got %q, want %q", tt.wanted, got, tt.want)
		}
	}
}

// A name without wildcards in a token is the name that the machine gets, whatever it asks for. One with
// wildcards must match what the machine asks for, and also the name that it gets because that one is taken.
func TestATokenBoundsTheName(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for _, tt := range []struct{ pattern, wanted, want, refusal string }{
		{"build-7", "anything", "build-7", ""},
		{"build-7", "build-7", "", "are taken"}, // and not build-7-2
		{"web-*", "web-1", "web-1", ""},
		{"web-*", "web-1.example.com", "web-1-2", ""},
		{"web-*", "prod-db", "", "names like web-*"},
		{"web-*", "", "", "names like web-*"},
		{"db-?", "db-1", "db-1", ""},
		{"db-?", "db-12", "", "names like db-?"},
		{"db-?", "db-1", "", "are taken"}, // db-1-2 does not match
	} {
		r, _ := f.request(f.token(join.TokenRequest{NamePattern: tt.pattern}), tt.wanted)
		a, err := f.Admit(t.Context(), r)
		if tt.refusal != "" {
			if !strings.Contains(fault.Message(err), tt.refusal) || fault.Remedy(err) == "" {
				t.Errorf("%s asks for %q: got %v, want %s", tt.pattern, tt.wanted, err, tt.refusal)
			}
		} else if err != nil || a.Machine().Name != tt.want {
			t.Errorf("%s asks for %q: got %q and %v, want %q", tt.pattern, tt.wanted, a.Machine().Name, err,
				tt.want)
		}
	}
}

// A proxy may have the public names in its token and no others. Without any it is the cluster's name.
func TestATokenBoundsThePublicNames(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	listed := []string{"access.example.org", "10.0.0.1"}
	for _, tt := range []struct {
		token, asked []string
		admitted     bool
	}{
		{listed, listed, true},
		{listed, listed[:1], true},
		{listed, nil, true},
		{listed, []string{"access.example.org", "evil.example.org"}, false},
		{listed, []string{"ACCESS.example.org"}, false},
		{listed, []string{statetest.Cluster}, false},
		{nil, []string{statetest.Cluster}, true},
		{nil, []string{"access.example.org"}, false},
	} {
		token := f.token(join.TokenRequest{Kind: identity.Proxy, PublicNames: tt.token})
		r, _ := f.request(token, "edge")
		r.Kind, r.PublicNames = identity.Proxy, tt.asked
		a, err := f.Admit(t.Context(), r)
		switch {
		case tt.admitted && (err != nil || !slices.Equal(a.Machine().Names, tt.asked)):
			t.Errorf("a token for %q, asked %q: got %q and %v, want them", tt.token, tt.asked,
				a.Machine().Names, err)
		case !tt.admitted && (!fault.Is(err, fault.Denied) || fault.Remedy(err) == ""):
			t.Errorf("a token for %q, asked %q: got %v, want denied with a remedy", tt.token, tt.asked, err)
		}
	}
}

// A node gets neither a proxy's name nor its public names. A proxy may share a public name with another
// proxy, but not take the name of a node; and a public name must be one host name or address in its usual
// form.
func TestNobodyTakesAProxysName(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	proxy := join.TokenRequest{Kind: identity.Proxy}
	f.joined(proxy, "edge", "access.example.com", "gate.example.org", "127.0.0.1")
	for wanted, want := range map[string]string{
		"edge":             "edge-2",
		"access":           "access-2",
		"gate.example.org": "gate-2.example.org",
	} {
		if got := f.joined(join.TokenRequest{}, wanted).Name; got != want {
			t.Errorf("a node that wants the name %s: got %q, want %q", wanted, got, want)
		}
	}
	// A second proxy may have the same public names. A node's name it may not have.
	f.joined(proxy, "edge-b", "access.example.com")
	f.joined(join.TokenRequest{}, "shop")
	proxy.PublicNames = []string{"shop.example.com"}
	r, _ := f.request(f.token(proxy), "edge-c")
	r.Kind, r.PublicNames = identity.Proxy, proxy.PublicNames
	if _, err := f.Admit(t.Context(), r); !fault.Is(err, fault.Denied) || fault.Remedy(err) == "" {
		t.Errorf("a proxy with a node's name: got %v, want denied with a remedy", err)
	}
	const idName = "0123456789abcdef0123456789abcdef"
	for _, bad := range []string{
		"*", "a,b", "EDGE.example.com", "0.0.0.0", "::ffff:1.2.3.4", idName,
	} {
		token := join.TokenRequest{Kind: identity.Proxy, PublicNames: []string{bad}}
		if _, _, err := f.Create(t.Context(), token); bad != idName && !fault.Is(err, fault.Invalid) {
			t.Errorf("a token for the public name %q: got %v, want invalid", bad, err)
		}
		r, _ := f.request(f.token(proxy), "edge-d")
		r.Kind, r.PublicNames = identity.Proxy, []string{bad}
		if _, err := f.Admit(t.Context(), r); !fault.Is(err, fault.Denied) {
			t.Errorf("public name %q: got %v, want denied", bad, err)
		}
	}
}

func TestARemovedNameStaysReservedForADay(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	m := f.joined(join.TokenRequest{}, "web")
	kept, err := f.st.Machine(t.Context(), m.ID)
	f.must(err)
	f.must(f.st.Machines.RemoveMachine(t.Context(), kept, state.By{Time: f.now}))
	f.now = f.now.Add(23 * time.Hour)
	if got := f.joined(join.TokenRequest{}, "web").Name; got != "web-2" {
		t.Errorf("within a day: got %q, want web-2", got)
	}
	f.now = f.now.Add(2 * time.Hour)
	if got := f.joined(join.TokenRequest{}, "web").Name; got != "web" {
		t.Errorf("after a day: got %q, want web", got)
	}
}

// Twenty machines use one token at the same moment: one is admitted, and the others are told that the token
// is used.
func TestATokenAdmitsOneOfManyMachines(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	token := f.token(join.TokenRequest{})
	const many = 20
	errs := make([]error, many)
	var calls sync.WaitGroup
	for i := range many {
		r, _ := f.request(token, "web")
		calls.Go(func() { _, errs[i] = f.Admit(context.Background(), r) })
	}
	calls.Wait()
	admitted := 0
	for _, err := range errs {
		if err == nil {
			admitted++
		} else if !fault.Is(err, fault.Denied) {
			t.Errorf("got %v, want denied", err)
		}
	}
	if admitted != 1 {
		t.Errorf("got %d machines with one token, want 1", admitted)
	}
}

// Twenty machines use a token for three at the same moment: three are admitted, and the others are told that
// the token is used. Each that was admitted may repeat its request.
func TestATokenForThreeAdmitsThreeOfManyMachines(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	const many, uses = 20, 3
	token, stored, err := f.Create(t.Context(), join.TokenRequest{Kind: identity.Node, Uses: uses})
	f.must(err)
	requests, errs := make([]authrpc.JoinRequest, many), make([]error, many)
	var calls sync.WaitGroup
	for i := range many {
		requests[i], _ = f.request(token.String(), "web")
		calls.Go(func() { _, errs[i] = f.Admit(context.Background(), requests[i]) })
	}
	calls.Wait()
	admitted := 0
	for i, err := range errs {
		again, againErr := f.Admit(t.Context(), requests[i])
		switch {
		case err == nil:
			admitted++
			if againErr != nil || !again.Renewal() {
				t.Errorf("the same machine again: got %v, want it admitted as before", againErr)
			}
		case !fault.Is(err, fault.Denied) || !strings.Contains(fault.Message(err), "by 3 of 3 machines"):
			t.Errorf("got %v, want denied, used by 3 of 3", err)
		case againErr == nil:
			t.Error("a machine that was refused is admitted when it asks again")
		}
	}
	kept, err := f.st.Token(t.Context(), stored.Key)
	f.must(err)
	if recorded := len(kept.Value.Joined); admitted != uses || recorded != uses {
		t.Errorf("got %d machines admitted and %d in the record, want %d", admitted, recorded, uses)
	}
}

// The response to a join may be lost. The same machine, and no other, may ask again until the token expires.
func TestALostJoinResponseIsRepeated(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	token := f.token(join.TokenRequest{})
	r, key := f.request(token, "web")
	first, err := f.Admit(t.Context(), r)
	f.must(err)
	r.Name, r.Labels = "db", identity.Labels{"self.env": "prod"} // must change nothing on record
	again, err := f.Admit(t.Context(), r)
	f.must(err)
	if m := again.Machine(); m.ID != first.Machine().ID || m.Name != "web" || len(m.Labels) != 0 ||
		!again.Renewal() {
		t.Errorf("got %+v, want the machine as it joined", m)
	}
	for name, change := range map[string]func(*authrpc.JoinRequest){
		"without the key": func(r *authrpc.JoinRequest) { r.Proof = nil },
		"another host key": func(r *authrpc.JoinRequest) {
			other, _ := f.request(token, "x")
			r.SSHKey = other.SSHKey
			f.prove(r, key)
		},
		"another service key":  func(r *authrpc.JoinRequest) { *r, _ = f.request(token, "web") },
		"as another kind":      func(r *authrpc.JoinRequest) { r.Kind = identity.Proxy },
		"with a clock far off": func(r *authrpc.JoinRequest) { r.Time = f.now.Add(time.Hour) },
	} {
		bad := r
		change(&bad)
		if _, err := f.Admit(t.Context(), bad); !fault.Is(err, fault.Denied) {
			t.Errorf("%s: got %v, want denied", name, err)
		}
	}
	kept, err := f.st.Machine(t.Context(), first.Machine().ID)
	f.must(err)
	f.now = f.now.Add(join.DefaultTokenTTL)
	r.Time = f.now
	if _, err := f.Admit(t.Context(), r); err == nil {
		t.Error("after the token expired: got admitted, want a refusal")
	}
	f.now = f.now.Add(-join.DefaultTokenTTL)
	r.Time = f.now
	f.must(f.st.Machines.RemoveMachine(t.Context(), kept, state.By{Time: f.now}))
	if _, err := f.Admit(t.Context(), r); !fault.Is(err, fault.Denied) {
		t.Errorf("after the machine was removed: got %v, want denied", err)
	}
}

// A machine that repeats its request before the first is answered becomes one machine.
func TestTwentyCallsOfOneMachineMakeOneMachine(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	r, _ := f.request(f.token(join.TokenRequest{}), "web")
	errs, ids := make([]error, 20), make([]identity.MachineID, 20)
	var calls sync.WaitGroup
	for i := range errs {
		calls.Go(func() {
			a, err := f.Admit(context.Background(), r)
			errs[i], ids[i] = err, a.Machine().ID
		})
	}
	calls.Wait()
	for i, err := range errs {
		if err != nil || ids[i] != ids[0] {
			t.Errorf("call %d: got machine %s, %v, want %s", i, ids[i], err, ids[0])
		}
	}
}

func TestAUsedTokenCannotFillTheLog(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	token := f.token(join.TokenRequest{})
	r, _ := f.request(token, "web")
	_, err := f.Admit(t.Context(), r)
	f.must(err)
	other, _ := f.request(token, "web")
	for range 20 {
		if _, err := f.Admit(t.Context(), other); !fault.Is(err, fault.Denied) {
			t.Fatalf("got %v, want denied", err)
		}
	}
	if n := f.refusals(); n != 5 {
		t.Errorf("got %d events, want 5", n)
	}
}

// A caller is a member only while its machine is on record, with the kind and the key on record.
func TestAMemberIsVerifiedByTheKeyOnRecord(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	r, key := f.request(f.token(join.TokenRequest{}), "web")
	a, err := f.Admit(t.Context(), r)
	f.must(err)
	id := a.Machine().Identity(statetest.Cluster)
	caller := authrpc.Caller{Identity: id, Key: key.Public()}
	got, err := f.Renew(t.Context(), caller, authrpc.RenewRequest{Time: f.now})
	f.must(err)
	if !got.Renewal() || got.Machine().Name != "web" {
		t.Errorf("got %+v, want the machine, as a renewal", got.Machine())
	}
	_, other := f.request("t", "x")
	unknown := identity.Identity{Kind: identity.Node, ID: "00000000000000000000000000000000"}
	asProxy := caller
	asProxy.Kind = identity.Proxy
	for name, c := range map[string]authrpc.Caller{
		"another key":   {Identity: id, Key: other.Public()},
		"no key":        {Identity: id},
		"another kind":  asProxy,
		"an unknown id": {Identity: unknown, Key: key.Public()},
	} {
		if _, err := f.VerifyMember(t.Context(), c); !fault.Is(err, fault.Denied) || fault.Remedy(err) == "" {
			t.Errorf("%s: got %v, want denied with a remedy", name, err)
		}
	}
	late := authrpc.RenewRequest{Time: f.now.Add(-10 * time.Minute)}
	if _, err := f.Renew(t.Context(), caller, late); !fault.Is(err, fault.Invalid) {
		t.Errorf("a wrong clock: got %v, want invalid", err)
	}
}

// A request for a token that is out of bounds is refused with a remedy.
func TestTokensAreBounded(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for name, w := range map[string]join.TokenRequest{
		"an hour":    {Kind: identity.Node, TTL: time.Hour},
		"a user":     {Kind: identity.User},
		"a replica":  {Kind: identity.Auth},
		"no kind":    {},
		"bad labels": {Kind: identity.Node, Labels: identity.Labels{"a b": "c"}},
		"a bad name": {Kind: identity.Node, NamePattern: "UPPER"},

		"a bad pattern":                 {Kind: identity.Node, NamePattern: "web-[0-9]"},
		"one name for two machines":     {Kind: identity.Node, NamePattern: "web", Uses: 2},
		"fewer than no use":             {Kind: identity.Node, Uses: -1},
		"too many uses":                 {Kind: identity.Node, Uses: join.MaxTokenUses + 1},
		"public names of a node":        {Kind: identity.Node, PublicNames: []string{"a.example.com"}},
		"a label of the machine itself": {Kind: identity.Node, Labels: identity.Labels{"self.env": "prod"}},
	} {
		if _, _, err := f.Create(t.Context(), w); !fault.Is(err, fault.Invalid) || fault.Remedy(err) == "" {
			t.Errorf("%s: got %v, want invalid with a remedy", name, err)
		}
	}
	largest := join.TokenRequest{
		Kind: identity.Node, TTL: join.MaxTokenTTL, Uses: join.MaxTokenUses, NamePattern: "web-*",
	}
	if _, _, err := f.Create(t.Context(), largest); err != nil {
		t.Errorf("half an hour, for 100 machines: got %v", err)
	}
}

// A proxy may name only its own public names as the origin of a login page.
func TestOriginsAreTheProxysOwn(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	m := f.joined(join.TokenRequest{Kind: identity.Proxy}, "edge", "access.example.com", "127.0.0.1", "::1")
	id := m.Identity(statetest.Cluster)
	for _, good := range []string{
		"https://access.example.com", "https://access.example.com:8443",
		"https://127.0.0.1:8443", "https://[::1]:8443",
	} {
		if err := f.AllowedOrigin(id, good); err != nil {
			t.Errorf("%s: got %v", good, err)
		}
	}
	for _, bad := range []string{
		"https://evil.example.org", "https://access.example.com.evil.org", "https://", "::",
	} {
		var e *fault.Error
		if err := f.AllowedOrigin(id, bad); !errors.As(err, &e) || e.Kind != fault.Denied || e.Remedy == "" {
			t.Errorf("%s: got %v, want denied with a remedy", bad, err)
		}
	}
}
