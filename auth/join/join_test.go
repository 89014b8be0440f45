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
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/auth/join"
	"github.com/threshold-access/threshold/auth/state"
	"github.com/threshold-access/threshold/auth/state/statetest"
	"github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

type fixture struct {
	*testing.T
	*join.Service
	st  *state.State
	now time.Time // a clock that stands until the test moves it
}

func newFixture(t *testing.T) *fixture {
	st, _ := statetest.NewCluster(t)
	g := &fixture{T: t, st: st, now: time.Now()}
	g.Service = join.New(
		join.Config{State: st, Cluster: statetest.Cluster, Now: func() time.Time { return g.now }},
	)
	return g
}

func (g *fixture) must(err error) {
	g.Helper()
	if err != nil {
		g.Fatal(err)
	}
}

func (g *fixture) token(w join.TokenRequest) string {
	g.Helper()
	if w.Kind == "" {
		w.Kind = identity.Node
	}
	t, _, err := g.Create(g.Context(), w)
	g.must(err)
	return t.String()
}

// request is one that is right in everything.
func (g *fixture) request(token, name string) (authrpc.JoinRequest, *ecdsa.PrivateKey) {
	g.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	g.must(err)
	host, _, err := ed25519.GenerateKey(rand.Reader)
	g.must(err)
	hostKey, err := ssh.NewPublicKey(host)
	g.must(err)
	r := authrpc.JoinRequest{
		Token:  token,
		Kind:   identity.Node,
		Name:   name,
		SSHKey: hostKey.Marshal(),
		Time:   g.now,
	}
	r.X509Key, err = x509.MarshalPKIXPublicKey(key.Public())
	g.must(err)
	g.prove(&r, key)
	return r, key
}

func (g *fixture) prove(r *authrpc.JoinRequest, key *ecdsa.PrivateKey) {
	g.Helper()
	sum := authrpc.JoinProof(r.Token, r.SSHKey, r.X509Key)
	var err error
	r.Proof, err = key.Sign(rand.Reader, sum[:], crypto.SHA256)
	g.must(err)
}

// joined admits a machine that must be admitted.
func (g *fixture) joined(w join.TokenRequest, name string, names ...string) state.Machine {
	g.Helper()
	r, _ := g.request(g.token(w), name)
	r.PublicNames = names
	if w.Kind != "" {
		r.Kind = w.Kind
	}
	a, err := g.Admit(g.Context(), r)
	g.must(err)
	return a.Machine()
}

// refusals counts the events that say so.
func (g *fixture) refusals() (n int) {
	g.Helper()
	list, err := g.st.ReadEvents(g.Context(), 1, 1000)
	g.must(err)
	for _, e := range list {
		if e.Event.Code == audit.JoinRefused {
			n++
		}
	}
	return n
}

func TestATokenAdmitsOnce(t *testing.T) {
	g := newFixture(t)
	token := g.token(join.TokenRequest{Labels: identity.Labels{"env": "prod"}})
	r, _ := g.request(token, "web-1")
	r.Labels = identity.Labels{"env": "dev", "rack": "7"}
	a, err := g.Admit(t.Context(), r)
	g.must(err)
	m := a.Machine()
	if m.Name != "web-1" || m.Labels["env"] != "prod" || m.Labels["rack"] != "7" || a.Renewal() {
		t.Errorf("got %+v, want web-1 with the token's env and its own rack", m)
	}
	again, _ := g.request(token, "web-2")
	_, err = g.Admit(t.Context(), again)
	if !fault.Is(err, fault.Denied) || !strings.Contains(fault.Message(err), "used already") ||
		!strings.Contains(fault.Remedy(err), "tsh token create") {
		t.Errorf("second use: got %v, want denied, used already, and how to get another", err)
	}
	if g.refusals() != 1 {
		t.Errorf("got %d refusals in the audit log, want 1", g.refusals())
	}
}

func TestWhatJoinRefuses(t *testing.T) {
	g := newFixture(t)
	for _, tt := range []struct {
		name  string
		spoil func(*authrpc.JoinRequest, *ecdsa.PrivateKey)
		kind  fault.Kind
		says  string
		noted bool
	}{
		{"a token that ended", func(*authrpc.JoinRequest, *ecdsa.PrivateKey) { g.now = g.now.Add(time.Hour) }, fault.Expired, "ended at", true},
		{"another kind of machine", func(r *authrpc.JoinRequest, _ *ecdsa.PrivateKey) { r.Kind = identity.Proxy }, fault.Denied, "is for a node", true},
		{"an auth replica", func(r *authrpc.JoinRequest, _ *ecdsa.PrivateKey) { r.Kind = identity.Auth }, fault.Denied, "is for a node", true},
		{"a clock 10 minutes behind", func(r *authrpc.JoinRequest, _ *ecdsa.PrivateKey) { r.Time = g.now.Add(-10 * time.Minute) }, fault.Invalid, "10m0s behind", true},
		{"a clock 10 minutes ahead", func(r *authrpc.JoinRequest, _ *ecdsa.PrivateKey) { r.Time = g.now.Add(10 * time.Minute) }, fault.Invalid, "10m0s ahead", true},
		{"no clock", func(r *authrpc.JoinRequest, _ *ecdsa.PrivateKey) { r.Time = time.Time{} }, fault.Invalid, "auth's", true},
		{"no proof", func(r *authrpc.JoinRequest, _ *ecdsa.PrivateKey) { r.Proof = nil }, fault.Denied, "does not prove", true},
		{"another host key than was proven", func(r *authrpc.JoinRequest, _ *ecdsa.PrivateKey) {
			other, _ := g.request(r.Token, "x")
			r.SSHKey = other.SSHKey
		}, fault.Denied, "does not prove", true},
		{"somebody else's key", func(r *authrpc.JoinRequest, _ *ecdsa.PrivateKey) {
			other, _ := g.request(r.Token, "x")
			r.X509Key = other.X509Key
		}, fault.Denied, "does not prove", true},
		{"no keys", func(r *authrpc.JoinRequest, _ *ecdsa.PrivateKey) { r.SSHKey = nil }, fault.Invalid, "keys are not acceptable", true},
		{"public names for a node", func(r *authrpc.JoinRequest, _ *ecdsa.PrivateKey) { r.PublicNames = []string{"access.example.com"} }, fault.Denied, "no public names", true},
		{"labels that forge lines", func(r *authrpc.JoinRequest, _ *ecdsa.PrivateKey) { r.Labels = identity.Labels{"env": "a\nb"} }, fault.Invalid, "label", true},
		{"labels beyond what certificates hold", func(r *authrpc.JoinRequest, _ *ecdsa.PrivateKey) {
			r.Labels = identity.Labels{"a": strings.Repeat("<", 500), "b": strings.Repeat("<", 500)}
		}, fault.Invalid, "labels", true},
		{"a token nobody made", func(r *authrpc.JoinRequest, key *ecdsa.PrivateKey) {
			forged, err := authrpc.ParseToken(r.Token)
			g.must(err)
			forged.Secret[3] ^= 1
			r.Token = forged.String()
			g.prove(r, key)
		}, fault.Denied, "not known", false},
		{"no token", func(r *authrpc.JoinRequest, _ *ecdsa.PrivateKey) { r.Token = "" }, fault.Denied, "no join token", false},
	} {
		before, clock := g.refusals(), g.now
		r, key := g.request(g.token(join.TokenRequest{}), "web")
		tt.spoil(&r, key)
		_, err := g.Admit(t.Context(), r)
		if !fault.Is(err, tt.kind) || !strings.Contains(fault.Message(err), tt.says) ||
			fault.Remedy(err) == "" {
			t.Errorf("%s: got %v, want %s that says %q, with a remedy", tt.name, err, tt.kind, tt.says)
		}
		if noted := g.refusals() > before; noted != tt.noted {
			t.Errorf("%s: got noted %v, want %v", tt.name, noted, tt.noted)
		}
		g.now = clock
	}
	g.joined(join.TokenRequest{}, "web") // and the same request unspoiled is admitted
}

func TestAWrongClockIsReportedWithBothTimes(t *testing.T) {
	g := newFixture(t)
	r, _ := g.request(g.token(join.TokenRequest{}), "web")
	r.Time = g.now.Add(-10 * time.Minute)
	_, err := g.Admit(t.Context(), r)
	for _, clock := range []time.Time{g.now, r.Time} {
		if !strings.Contains(fault.Message(err), clock.UTC().Format(time.RFC3339)) {
			t.Errorf("got %q, want it to name %s", fault.Message(err), clock.UTC().Format(time.RFC3339))
		}
	}
	r.Time = g.now // the token was not spent
	if _, err := g.Admit(t.Context(), r); err != nil {
		t.Errorf("with the clock set: got %v", err)
	}
}

func TestNamesAreChosenByAuth(t *testing.T) {
	g := newFixture(t)
	const id = "0123456789abcdef0123456789abcdef"
	for _, tt := range []struct{ wish, want string }{
		{"web", "web"},
		{"web", "web-2"},
		{"WEB", "web-3"},
		{"web.example.com", "web-4"},             // the cluster's own suffix says nothing
		{"web.example.com.example.com", "web-5"}, // web's own host certificate says web.example.com
		{"web.example-.com", "web-6"},
		{"web.example..com", "web-7"},
		{"web._example.com.Example.COM", "web-8"},
		{"db.internal", "db.internal"},
		{"db.internal", "db-2.internal"},
		{"My Laptop_1", "my-laptop-1"},
		{"", "node"},
		{"***", "node-2"},
		{id, id + "-2"}, // never what could be another machine's id
		{"example.com", "example-2.com"},
		{"10.0.0.1", "10-2.0.0.1"},
		{strings.Repeat("a", 300), strings.Repeat("a", 58)},
	} {
		if got := g.joined(join.TokenRequest{}, tt.wish).Name; got != tt.want {
			t.Errorf("wish %.40q: got %q, want %q", tt.wish, got, tt.want)
		}
	}
	if got := g.joined(join.TokenRequest{Machine: "build-7"}, "anything").Name; got != "build-7" {
		t.Errorf("the token's name: got %q, want build-7", got)
	}
}

func TestNobodyTakesAProxysName(t *testing.T) {
	g := newFixture(t)
	proxy := join.TokenRequest{Kind: identity.Proxy}
	g.joined(proxy, "edge", "access.example.com", "gate.example.org", "127.0.0.1")
	for wish, want := range map[string]string{"edge": "edge-2", "access": "access-2", "gate.example.org": "gate-2.example.org"} {
		if got := g.joined(join.TokenRequest{}, wish).Name; got != want {
			t.Errorf("a node that wishes %s: got %q, want %q", wish, got, want)
		}
	}
	// A second proxy may answer to the same public names; to a node's it may not.
	g.joined(proxy, "edge-b", "access.example.com")
	g.joined(join.TokenRequest{}, "shop")
	r, _ := g.request(g.token(proxy), "edge-c")
	r.Kind, r.PublicNames = identity.Proxy, []string{"shop.example.com"}
	if _, err := g.Admit(t.Context(), r); !fault.Is(err, fault.Denied) || fault.Remedy(err) == "" {
		t.Errorf("a proxy with a node's name: got %v, want denied with a remedy", err)
	}
	for _, bad := range []string{"*", "a,b", "EDGE.example.com", "0.0.0.0", "::ffff:1.2.3.4", "0123456789abcdef0123456789abcdef"} {
		r, _ := g.request(g.token(proxy), "edge-d")
		r.Kind, r.PublicNames = identity.Proxy, []string{bad}
		if _, err := g.Admit(t.Context(), r); !fault.Is(err, fault.Invalid) {
			t.Errorf("public name %q: got %v, want invalid", bad, err)
		}
	}
}

func TestARemovedNameStaysReservedForADay(t *testing.T) {
	g := newFixture(t)
	m := g.joined(join.TokenRequest{}, "web")
	kept, err := g.st.Machine(t.Context(), m.ID)
	g.must(err)
	g.must(g.st.Machines.RemoveMachine(t.Context(), kept, g.now))
	g.now = g.now.Add(23 * time.Hour)
	if got := g.joined(join.TokenRequest{}, "web").Name; got != "web-2" {
		t.Errorf("within a day: got %q, want web-2", got)
	}
	g.now = g.now.Add(2 * time.Hour)
	if got := g.joined(join.TokenRequest{}, "web").Name; got != "web" {
		t.Errorf("after a day: got %q, want web", got)
	}
}

func TestATokenAdmitsOneOfManyMachines(t *testing.T) {
	g := newFixture(t)
	token := g.token(join.TokenRequest{})
	const many = 20
	errs := make([]error, many)
	var all sync.WaitGroup
	for i := range many {
		r, _ := g.request(token, "web")
		all.Go(func() { _, errs[i] = g.Admit(context.Background(), r) })
	}
	all.Wait()
	in := 0
	for _, err := range errs {
		if err == nil {
			in++
		} else if !fault.Is(err, fault.Denied) {
			t.Errorf("got %v, want denied", err)
		}
	}
	if in != 1 {
		t.Errorf("got %d machines by one token, want 1", in)
	}
}

// The answer to a join may be lost on its way: the machine, and nobody else, gets it again for as long as the
// token lives.
func TestALostJoinResponseIsRepeated(t *testing.T) {
	g := newFixture(t)
	token := g.token(join.TokenRequest{})
	r, key := g.request(token, "web")
	first, err := g.Admit(t.Context(), r)
	g.must(err)
	r.Name, r.Labels = "db", identity.Labels{"env": "prod"} // another wish changes nothing
	again, err := g.Admit(t.Context(), r)
	g.must(err)
	if m := again.Machine(); m.ID != first.Machine().ID || m.Name != "web" || len(m.Labels) != 0 ||
		!again.Renewal() {
		t.Errorf("got %+v, want the machine as it joined", m)
	}
	for name, spoil := range map[string]func(*authrpc.JoinRequest){
		"without the key":      func(r *authrpc.JoinRequest) { r.Proof = nil },
		"another host key":     func(r *authrpc.JoinRequest) { o, _ := g.request(token, "x"); r.SSHKey = o.SSHKey; g.prove(r, key) },
		"another service key":  func(r *authrpc.JoinRequest) { *r, _ = g.request(token, "web") },
		"as another kind":      func(r *authrpc.JoinRequest) { r.Kind = identity.Proxy },
		"with a clock far off": func(r *authrpc.JoinRequest) { r.Time = g.now.Add(time.Hour) },
	} {
		bad := r
		spoil(&bad)
		if _, err := g.Admit(t.Context(), bad); !fault.Is(err, fault.Denied) {
			t.Errorf("%s: got %v, want denied", name, err)
		}
	}
	kept, err := g.st.Machine(t.Context(), first.Machine().ID)
	g.must(err)
	g.now = g.now.Add(join.DefaultTokenTTL)
	r.Time = g.now
	if _, err := g.Admit(t.Context(), r); err == nil {
		t.Error("after the token's end: got in, want a refusal")
	}
	g.now = g.now.Add(-join.DefaultTokenTTL)
	r.Time = g.now
	g.must(g.st.Machines.RemoveMachine(t.Context(), kept, g.now))
	if _, err := g.Admit(t.Context(), r); !fault.Is(err, fault.Denied) {
		t.Errorf("after the machine was removed: got %v, want denied", err)
	}
}

// Impatient as well as lost: the same machine asks twenty times at once, and is one machine.
func TestTwentyCallsOfOneMachineMakeOneMachine(t *testing.T) {
	g := newFixture(t)
	r, _ := g.request(g.token(join.TokenRequest{}), "web")
	errs, ids := make([]error, 20), make([]identity.MachineID, 20)
	var all sync.WaitGroup
	for i := range errs {
		all.Go(func() {
			a, err := g.Admit(context.Background(), r)
			errs[i], ids[i] = err, a.Machine().ID
		})
	}
	all.Wait()
	for i, err := range errs {
		if err != nil || ids[i] != ids[0] {
			t.Errorf("call %d: got machine %s, %v, want %s", i, ids[i], err, ids[0])
		}
	}
}

func TestASpentTokenCannotFillTheLog(t *testing.T) {
	g := newFixture(t)
	token := g.token(join.TokenRequest{})
	r, _ := g.request(token, "web")
	_, err := g.Admit(t.Context(), r)
	g.must(err)
	other, _ := g.request(token, "web")
	for range 20 {
		if _, err := g.Admit(t.Context(), other); !fault.Is(err, fault.Denied) {
			t.Fatalf("got %v, want denied", err)
		}
	}
	if n := g.refusals(); n != 5 {
		t.Errorf("got %d events, want 5", n)
	}
}

func TestAMemberIsVerifiedByTheKeyOnRecord(t *testing.T) {
	g := newFixture(t)
	r, key := g.request(g.token(join.TokenRequest{}), "web")
	a, err := g.Admit(t.Context(), r)
	g.must(err)
	id := a.Machine().Identity(statetest.Cluster)
	caller := authrpc.Caller{Identity: id, Key: key.Public()}
	got, err := g.Renew(t.Context(), caller, authrpc.RenewRequest{Time: g.now})
	g.must(err)
	if !got.Renewal() || got.Machine().Name != "web" {
		t.Errorf("got %+v, want the machine, as a renewal", got.Machine())
	}
	_, other := g.request("t", "x")
	asProxy := caller
	asProxy.Kind = identity.Proxy
	for name, c := range map[string]authrpc.Caller{
		"another key": {Identity: id, Key: other.Public()}, "no key": {Identity: id}, "another kind": asProxy,
		"an unknown id": {Identity: identity.Identity{Kind: identity.Node, ID: "00000000000000000000000000000000"}, Key: key.Public()},
	} {
		if _, err := g.VerifyMember(t.Context(), c); !fault.Is(err, fault.Denied) || fault.Remedy(err) == "" {
			t.Errorf("%s: got %v, want denied with a remedy", name, err)
		}
	}
	if _, err := g.Renew(t.Context(), caller, authrpc.RenewRequest{Time: g.now.Add(-10 * time.Minute)}); !fault.Is(
		err,
		fault.Invalid,
	) {
		t.Errorf("a clock that is off: got %v, want invalid", err)
	}
}

func TestTokensAreBounded(t *testing.T) {
	g := newFixture(t)
	for name, w := range map[string]join.TokenRequest{
		"an hour": {Kind: identity.Node, TTL: time.Hour}, "a user": {Kind: identity.User}, "a replica": {Kind: identity.Auth}, "no kind": {},
		"bad labels": {Kind: identity.Node, Labels: identity.Labels{"a b": "c"}}, "a bad name": {Kind: identity.Node, Machine: "UPPER"},
	} {
		if _, _, err := g.Create(t.Context(), w); !fault.Is(err, fault.Invalid) || fault.Remedy(err) == "" {
			t.Errorf("%s: got %v, want invalid with a remedy", name, err)
		}
	}
	if _, _, err := g.Create(t.Context(), join.TokenRequest{Kind: identity.Node, TTL: join.MaxTokenTTL}); err != nil {
		t.Errorf("half an hour: got %v", err)
	}
}

func TestOriginsAreTheProxysOwn(t *testing.T) {
	g := newFixture(t)
	m := g.joined(join.TokenRequest{Kind: identity.Proxy}, "edge", "access.example.com", "127.0.0.1", "::1")
	id := m.Identity(statetest.Cluster)
	for _, good := range []string{"https://access.example.com", "https://access.example.com:8443", "https://127.0.0.1:8443", "https://[::1]:8443"} {
		if err := g.AllowedOrigin(id, good); err != nil {
			t.Errorf("%s: got %v", good, err)
		}
	}
	for _, bad := range []string{"https://evil.example.org", "https://access.example.com.evil.org", "https://", "::"} {
		var f *fault.Error
		if err := g.AllowedOrigin(id, bad); !errors.As(err, &f) || f.Kind != fault.Denied || f.Remedy == "" {
			t.Errorf("%s: got %v, want denied with a remedy", bad, err)
		}
	}
}
