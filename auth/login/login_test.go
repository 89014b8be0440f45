package login_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	ptotp "github.com/pquerna/otp/totp"
	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/auth/login"
	"github.com/threshold-access/threshold/auth/oidc"
	"github.com/threshold-access/threshold/auth/oidc/oidctest"
	"github.com/threshold-access/threshold/auth/state"
	"github.com/threshold-access/threshold/auth/totp"
	"github.com/threshold-access/threshold/ca/keyring/keyringtest"
	"github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/formbrowser"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/raftstore/raftstoretest"
)

const (
	origin   = "https://proxy.example.com:8443"
	callback = "http://127.0.0.1:49152/callback"
	cluster  = "example.com"
)

var proxyIdentity = identity.Identity{
	Kind:    identity.Proxy,
	Cluster: cluster,
	Name:    "proxy-1",
	ID:      "0123456789abcdef0123456789abcdef",
}

// fixture is the login machine with real parts behind it: provider over HTTP, factor and store; and a clock.
type fixture struct {
	*login.Service
	t        *testing.T
	state    *state.State
	vault    *state.Vault
	provider *oidctest.Provider
	issuer   string
	log      bytes.Buffer

	mu  sync.Mutex
	now time.Time
}

func (l *fixture) clock() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.now
}

func (l *fixture) advance(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.now = l.now.Add(d)
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	s := state.New(raftstoretest.Open(t))
	l := &fixture{
		t:     t,
		state: s,
		vault: state.NewVault(s, keyringtest.Seal(t)),
		now:   time.Now().Truncate(30 * time.Second),
	}
	server := httptest.NewServer(
		http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { l.provider.ServeHTTP(w, r) }),
	)
	t.Cleanup(server.Close)
	l.issuer = server.URL
	var err error
	l.provider, err = oidctest.New(oidctest.Config{Issuer: server.URL, Alg: "ES256", Now: l.clock,
		Clients: []oidctest.Client{
			{ID: "threshold", Secret: "s3cret", Redirects: []string{origin + authrpc.CallbackPath("corp")}},
		},
		Users: []oidctest.User{
			{
				Email:    "alice@example.com",
				Password: "wonderland",
				Subject:  "sub-alice",
				Claims:   map[string]any{"groups": "eng", "uid": "alice"},
			},
			{Email: "bob@example.com", Password: "builder", Subject: "sub-bob"},
		}})
	l.must(err)
	l.connect("corp")
	l.Service = l.replica(7)
	return l
}

// replica makes a login machine over the lobby's store, with a key of the one byte.
func (l *fixture) replica(key byte) *login.Service {
	l.t.Helper()
	providers, err := oidc.New(oidc.Config{Source: l.vault, Now: l.clock})
	l.must(err)
	factor, err := totp.New(totp.Config{Store: l.vault, Issuer: cluster, Now: l.clock})
	l.must(err)
	s, err := login.New(login.Config{
		Cluster:   cluster,
		Key:       bytes.Repeat([]byte{key}, 32),
		Providers: providers,
		Factor:    factor,
		Logins:    l.state.Logins, Events: l.state.Events,
		Now: l.clock,
		Log: slog.New(slog.NewTextHandler(&l.log, nil)),
		AllowedOrigin: func(by identity.Identity, o string) error {
			if by.Name != proxyIdentity.Name || o != origin {
				return fault.New(fault.Denied, "test", "not an origin of this proxy", "register it")
			}
			return nil
		},
	})
	l.must(err)
	return s
}

func (l *fixture) must(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

func (l *fixture) connect(name string) {
	l.t.Helper()
	rec, err := oidc.Spec{
		Type:         "oidc",
		Display:      "Corp",
		Issuer:       l.issuer,
		ClientID:     "threshold",
		ClientSecret: "s3cret",
		Roles:        []oidc.RoleRule{{Claim: "groups", Value: "eng", Roles: []string{"dev"}}},
		Traits:       []oidc.TraitRule{{Trait: "unix", Claim: "uid", Immutable: true}},
	}.Record()
	l.must(err)
	l.must(l.vault.PutConnector(l.t.Context(), state.StoredConnector{Name: name}, rec))
}

func (l *fixture) wantFault(err error, kind fault.Kind, says string) {
	l.t.Helper()
	if !fault.Is(err, kind) || !strings.Contains(err.Error()+" "+fault.Remedy(err), says) ||
		fault.Remedy(err) == "" {
		l.t.Errorf(
			"got %v (kind %s, remedy %q), want %s with %q",
			err,
			fault.KindOf(err),
			fault.Remedy(err),
			kind,
			says,
		)
	}
}

// noWrites runs f and fails if the store was written to meanwhile: each probe writes once itself.
func (l *fixture) noWrites(f func()) {
	l.t.Helper()
	before := l.probe()
	f()
	if n := l.probe() - before - 1; n != 0 {
		l.t.Errorf("got %d writes to the store, want none", n)
	}
}

// probe writes a record and returns its revision.
func (l *fixture) probe() uint64 {
	l.t.Helper()
	key := identity.UserKey{Connector: "probe", Subject: "probe"}
	old, err := l.state.User(l.t.Context(), key)
	if !fault.Is(err, fault.NotFound) {
		l.must(err)
	}
	l.must(l.state.Users.PutUser(l.t.Context(), old, state.User{Connector: "probe", Subject: "probe"}))
	got, err := l.state.User(l.t.Context(), key)
	l.must(err)
	return got.Revision
}

// client is tsh on one machine.
type client struct {
	verifier, state string
	sshKey, x509Key []byte
	ssh             ssh.PublicKey
	x509            crypto.PublicKey
}

func newClient(t *testing.T) client {
	t.Helper()
	public, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	sshKey, err := ssh.NewPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(ec.Public())
	if err != nil {
		t.Fatal(err)
	}
	return client{
		verifier: rand.Text() + rand.Text(),
		state:    rand.Text(),
		sshKey:   sshKey.Marshal(),
		x509Key:  der,
		ssh:      sshKey,
		x509:     ec.Public(),
	}
}

func (c client) begin() authrpc.BeginLoginRequest {
	return authrpc.BeginLoginRequest{
		Challenge:    authrpc.Challenge(c.verifier, c.sshKey, c.x509Key),
		Callback:     callback,
		State:        c.state,
		PublicOrigin: origin,
		From:         "192.0.2.7",
	}
}

func (c client) redeem(code string) authrpc.RedeemLoginRequest {
	return authrpc.RedeemLoginRequest{
		Code: code,
		Keys: authrpc.Keys{Verifier: c.verifier, SSHKey: c.sshKey, X509Key: c.x509Key},
	}
}

// signIn goes through the provider's page and returns what the proxy hears.
func (l *fixture) signIn(res authrpc.BeginLoginResponse, user, password string) authrpc.FinishOIDCRequest {
	l.t.Helper()
	p, err := formbrowser.New(nil, origin).Open(l.t.Context(), res.Redirect)
	if err == nil && p.Location == "" {
		p, err = p.Submit(l.t.Context(), map[string]string{"login": user, "password": password})
	}
	l.must(err)
	back, err := url.Parse(p.Location)
	l.must(err)
	if !strings.HasPrefix(p.Location, origin+authrpc.CallbackPath("corp")+"?") {
		l.t.Fatalf("got status %d to %q, want the proxy's callback", p.Status, p.Location)
	}
	q := back.Query()
	return authrpc.FinishOIDCRequest{
		Attempt:          res.Attempt,
		Connector:        "corp",
		State:            q.Get("state"),
		Code:             q.Get("code"),
		Issuer:           q.Get("iss"),
		Error:            q.Get("error"),
		ErrorDescription: q.Get("error_description"),
		From:             "192.0.2.7",
	}
}

// identify takes alice's browser to the page that asks for the code.
func (l *fixture) identify(c client) authrpc.FinishOIDCResponse {
	l.t.Helper()
	res, err := l.Begin(l.t.Context(), proxyIdentity, c.begin())
	l.must(err)
	out, err := l.Identify(l.t.Context(), proxyIdentity, l.signIn(res, "alice@example.com", "wonderland"))
	l.must(err)
	return out
}

func (l *fixture) code(secret string) string {
	l.t.Helper()
	c, err := ptotp.GenerateCode(secret, l.clock())
	l.must(err)
	return c
}

func (l *fixture) prove(attempt, code string) (authrpc.ProveFactorResponse, error) {
	return l.Prove(
		l.t.Context(),
		proxyIdentity,
		authrpc.ProveFactorRequest{Attempt: attempt, Code: code, From: "192.0.2.7"},
	)
}

// enrol logs alice in for the first time and returns her secret and the one-time code; its step has passed.
func (l *fixture) enrol(c client) (secret, code string) {
	l.t.Helper()
	i := l.identify(c)
	if i.Enrol == nil {
		l.t.Fatal("got no enrolment, want one at the first login")
	}
	p, err := l.prove(i.Attempt, l.code(i.Enrol.Secret))
	l.must(err)
	l.advance(30 * time.Second)
	return i.Enrol.Secret, codeOf(l.t, p, c)
}

// logIn logs alice in with her factor.
func (l *fixture) logIn(c client, secret string) (code string) {
	l.t.Helper()
	p, err := l.prove(l.identify(c).Attempt, l.code(secret))
	l.must(err)
	l.advance(30 * time.Second)
	return codeOf(l.t, p, c)
}

func codeOf(t *testing.T, p authrpc.ProveFactorResponse, c client) string {
	t.Helper()
	u, err := url.Parse(p.Redirect)
	if err != nil || !strings.HasPrefix(p.Redirect, callback+"?") || u.Query().Get("state") != c.state {
		t.Fatalf("got %q and %v, want tsh's callback with its state", p.Redirect, err)
	}
	return u.Query().Get("code")
}

func (l *fixture) events(code audit.Code) (out []audit.Event) {
	l.t.Helper()
	all, err := l.state.ReadEvents(l.t.Context(), 1, 1000)
	l.must(err)
	for _, e := range all {
		if e.Event.Code == code {
			out = append(out, e.Event)
		}
	}
	return out
}

func TestUserLogsIn(t *testing.T) {
	l := newFixture(t)
	c := newClient(t)
	secret, first := l.enrol(c)
	if _, err := l.Redeem(t.Context(), c.redeem(first)); err != nil {
		t.Fatal(err)
	}
	u, err := l.state.User(t.Context(), identity.UserKey{Connector: "corp", Subject: "sub-alice"})
	l.must(err)
	u.Value.Roles = []string{"ops", "dev"}
	l.must(l.state.Users.PutUser(t.Context(), u, u.Value))

	c = newClient(t)
	a, err := l.Redeem(t.Context(), c.redeem(l.logIn(c, secret)))
	l.must(err)
	who := a.Who()
	if who.Name != "alice@example.com" ||
		who.UserKey() != (identity.UserKey{Connector: "corp", Subject: "sub-alice"}) ||
		who.Factor != "totp" ||
		who.Kind != identity.User ||
		who.Cluster != cluster {
		t.Errorf("got %+v, want alice of corp with totp", who)
	}
	if got := strings.Join(who.Roles, " "); got != "dev ops" || who.Traits["unix"][0] != "alice" ||
		len(who.LoginID) != 32 {
		t.Errorf(
			"got roles %q, traits %v, login id %q, want those of connector and record",
			got,
			who.Traits,
			who.LoginID,
		)
	}
	sshKey, x509Key := a.Keys()
	if !bytes.Equal(sshKey.Marshal(), c.sshKey) || !x509Key.(*ecdsa.PublicKey).Equal(c.x509) ||
		a.Proxy().ID != proxyIdentity.ID ||
		a.From() != "192.0.2.7" {
		t.Errorf("got proxy %v from %q, want the keys, door and address that were shown", a.Proxy(), a.From())
	}
	if got := l.events(audit.LoginSucceeded); len(got) != 2 || got[1].LoginID != who.LoginID ||
		got[1].Proxy != proxyIdentity.Name ||
		got[0].LoginID == got[1].LoginID {
		t.Errorf("got events %+v, want one for each login", got)
	}
}

func TestUserWithoutRolesMayLogIn(t *testing.T) {
	l := newFixture(t)
	c := newClient(t)
	res, err := l.Begin(t.Context(), proxyIdentity, c.begin())
	l.must(err)
	i, err := l.Identify(t.Context(), proxyIdentity, l.signIn(res, "bob@example.com", "builder"))
	l.must(err)
	p, err := l.prove(i.Attempt, l.code(i.Enrol.Secret))
	l.must(err)
	a, err := l.Redeem(t.Context(), c.redeem(codeOf(t, p, c)))
	if err != nil || len(a.Who().Roles) != 0 || len(p.RecoveryCodes) != 10 {
		t.Errorf(
			"got %+v, %d recovery codes and %v, want bob without roles",
			a.Who(),
			len(p.RecoveryCodes),
			err,
		)
	}
}
