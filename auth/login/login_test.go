package login_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	ptotp "github.com/pquerna/otp/totp"
	"go.uber.org/goleak"
	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/auth/factor"
	"github.com/threshold-access/threshold/auth/login"
	"github.com/threshold-access/threshold/auth/oidc"
	"github.com/threshold-access/threshold/auth/oidc/oidctest"
	"github.com/threshold-access/threshold/auth/state"
	"github.com/threshold-access/threshold/auth/state/statetest"
	"github.com/threshold-access/threshold/auth/totp"
	"github.com/threshold-access/threshold/ca/keyring/keyringtest"
	"github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/fault/faulttest"
	"github.com/threshold-access/threshold/internal/formbrowser"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/raftstore/raftstoretest"
)

const (
	origin   = "https://proxy.example.com:8443"
	callback = "http://127.0.0.1:49152/callback"
	cluster  = "example.com"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var proxyIdentity = identity.Identity{
	Kind:    identity.Proxy,
	Cluster: cluster,
	Name:    "proxy-1",
	ID:      "0123456789abcdef0123456789abcdef",
}

// fixture is a login service with a real provider over HTTP, a real factor, a real store, and a fake clock.
type fixture struct {
	*login.Service
	t        *testing.T
	state    *state.State
	vault    *state.Vault
	provider *oidctest.Provider
	issuer   string
	log      bytes.Buffer

	mu  sync.Mutex // guards now
	now time.Time
}

func (f *fixture) clock() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.now
}

func (f *fixture) advance(d time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.now = f.now.Add(d)
}

// newFixture makes a cluster with the connector corp, whose provider knows alice, with roles, and bob,
// without.
func newFixture(t *testing.T) *fixture {
	t.Helper()
	s := state.New(raftstoretest.Open(t))
	f := &fixture{
		t:     t,
		state: s,
		vault: state.NewVault(s, keyringtest.Secrets(t)),
		now:   time.Now().Truncate(30 * time.Second),
	}
	server := httptest.NewServer(
		http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { f.provider.ServeHTTP(w, r) }),
	)
	t.Cleanup(server.Close)
	f.issuer = server.URL
	var err error
	f.provider, err = oidctest.New(oidctest.Config{Issuer: server.URL, Alg: "ES256", Now: f.clock,
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
	f.must(err)
	f.connect("corp")
	f.Service = f.replica(7)
	return f
}

// replica makes another service over the same store, with a key that repeats one byte.
func (f *fixture) replica(key byte) *login.Service {
	f.t.Helper()
	providers, err := oidc.New(oidc.Config{Source: f.vault.Connectors, Now: f.clock})
	f.must(err)
	factors, err := factor.New(factor.Config{
		Store:   f.vault.Factors,
		Methods: []factor.Method{totp.Method{Issuer: cluster}},
		Now:     f.clock,
	})
	f.must(err)
	s, err := login.New(login.Config{
		Cluster:   cluster,
		Key:       bytes.Repeat([]byte{key}, 32),
		Providers: providers,
		Factors:   factors,
		Attempts:  f.vault.Attempts,
		Logins:    f.state.Logins,
		Events:    f.state.Events,
		Now:       f.clock,
		Log:       slog.New(slog.NewTextHandler(&f.log, nil)),
		AllowedOrigin: func(by identity.Identity, o string) error {
			if by.Name != proxyIdentity.Name || o != origin {
				return faulttest.New(fault.Denied, "test", "not an origin of this proxy", "register it")
			}
			return nil
		},
	})
	f.must(err)
	return s
}

func (f *fixture) must(err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) connect(name string) {
	f.t.Helper()
	f.putConnector(state.StoredConnector{Name: name}, oidc.RoleRule{
		Claim: "groups",
		Value: "eng",
		Roles: []string{"dev"},
	})
}

// mapRoles makes a connector give the users in each group the role at the same place.
func (f *fixture) mapRoles(connector string, groups, roles []string) {
	f.t.Helper()
	old, err := f.vault.Connectors.Connector(f.t.Context(), connector)
	f.must(err)
	var rules []oidc.RoleRule
	for i, group := range groups {
		rules = append(rules, oidc.RoleRule{Claim: "groups", Value: group, Roles: roles[i : i+1]})
	}
	f.putConnector(old, rules...)
}

func (f *fixture) putConnector(old state.StoredConnector, rules ...oidc.RoleRule) {
	f.t.Helper()
	rec, err := oidc.Spec{
		Type:         "oidc",
		Display:      "Corp",
		Issuer:       f.issuer,
		ClientID:     "threshold",
		ClientSecret: "s3cret",
		Roles:        rules,
		Traits:       []oidc.TraitRule{{Trait: "unix", Claim: "uid", Immutable: true}},
	}.Record()
	f.must(err)
	f.must(f.vault.Connectors.PutConnector(f.t.Context(), old, rec, nil, state.By{Time: time.Now()}))
}

// wantFault fails unless err is of the kind, has a remedy, and contains says in its message or remedy.
func (f *fixture) wantFault(err error, kind fault.Kind, says string) {
	f.t.Helper()
	if !fault.Is(err, kind) || !strings.Contains(err.Error()+" "+fault.Remedy(err), says) ||
		fault.Remedy(err) == "" {
		f.t.Errorf("got %v (kind %s, remedy %q), want %s with %q",
			err, fault.KindOf(err), fault.Remedy(err), kind, says)
	}
}

// noWrites fails if do writes to the store. It compares the revisions of two probes, each of which writes
// once.
func (f *fixture) noWrites(do func()) {
	f.t.Helper()
	before := f.probe()
	do()
	if n := f.probe() - before - 1; n != 0 {
		f.t.Errorf("got %d writes to the store, want none", n)
	}
}

// probe writes a record and returns its revision.
func (f *fixture) probe() uint64 {
	f.t.Helper()
	key := identity.UserKey{Connector: "probe", Subject: "probe"}
	old, err := f.state.User(f.t.Context(), key)
	if !fault.Is(err, fault.NotFound) {
		f.must(err)
	}
	probe, by := state.User{Connector: "probe", Subject: "probe"}, state.By{Time: time.Now()}
	f.must(f.state.Users.PutUser(f.t.Context(), old, probe, by))
	got, err := f.state.User(f.t.Context(), key)
	f.must(err)
	return got.Revision
}

// client is tsh on one machine.
type client struct {
	verifier, state string
	sshKey, x509Key []byte
	ssh             ssh.PublicKey
	x509            crypto.PublicKey
}

// newClient makes a client with new keys, a new verifier and a new state.
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
		From:         netip.MustParseAddr("192.0.2.7"),
	}
}

func (c client) redeem(code string) authrpc.RedeemLoginRequest {
	return authrpc.RedeemLoginRequest{
		Code: code,
		Keys: authrpc.Keys{Verifier: c.verifier, SSHKey: c.sshKey, X509Key: c.x509Key},
	}
}

// redeem redeems a login and uses it up, as the issuer does.
func (f *fixture) redeem(req authrpc.RedeemLoginRequest) (login.Assured, error) {
	a, err := f.Redeem(f.t.Context(), req)
	if err == nil {
		err = a.Commit()(f.t.Context(), []json.RawMessage{[]byte(`{}`)})
	}
	if err != nil {
		return login.Assured{}, err
	}
	return a, nil
}

// signIn fills in the provider's page and returns the callback parameters that the proxy gets.
func (f *fixture) signIn(res authrpc.BeginLoginResponse, user, password string) authrpc.FinishOIDCRequest {
	f.t.Helper()
	page, err := formbrowser.New(nil, origin).Open(f.t.Context(), res.Redirect)
	if err == nil && page.Location == "" {
		page, err = page.Submit(f.t.Context(), map[string]string{"login": user, "password": password})
	}
	f.must(err)
	back, err := url.Parse(page.Location)
	f.must(err)
	if !strings.HasPrefix(page.Location, origin+authrpc.CallbackPath("corp")+"?") {
		f.t.Fatalf("got status %d to %q, want the proxy's callback", page.Status, page.Location)
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
		From:             netip.MustParseAddr("192.0.2.7"),
	}
}

// factorPage is the page that asks for the second factor.
type factorPage struct {
	authrpc.ShowFactorResponse
	attempt string // the cookie of the login
	secret  string // of an enrolment; "" without one
}

// show returns the page of an identified attempt.
func (f *fixture) show(attempt string) factorPage {
	f.t.Helper()
	shown, err := f.ShowFactor(f.t.Context(), proxyIdentity, authrpc.ShowFactorRequest{Attempt: attempt})
	f.must(err)
	if len(shown.Challenges) != 1 || shown.Challenges[0].Kind != authrpc.TOTP {
		f.t.Fatalf("got challenges %+v, want one of TOTP", shown.Challenges)
	}
	page := factorPage{ShowFactorResponse: shown, attempt: attempt}
	if c := shown.Challenges[0]; c.Enrol {
		var enrolment authrpc.TOTPEnrolment
		f.must(json.Unmarshal(c.Body, &enrolment))
		page.secret = enrolment.Secret
	}
	return page
}

// identifyAs takes a browser from the callback to the page that asks for the code.
func (f *fixture) identifyAs(back authrpc.FinishOIDCRequest) factorPage {
	f.t.Helper()
	res, err := f.Identify(f.t.Context(), proxyIdentity, back)
	f.must(err)
	return f.show(res.Attempt)
}

// identify takes alice's browser to the page that asks for the code.
func (f *fixture) identify(c client) factorPage {
	f.t.Helper()
	res, err := f.Begin(f.t.Context(), proxyIdentity, c.begin())
	f.must(err)
	return f.identifyAs(f.signIn(res, "alice@example.com", "wonderland"))
}

func (f *fixture) code(secret string) string {
	f.t.Helper()
	c, err := ptotp.GenerateCode(secret, f.clock())
	f.must(err)
	return c
}

func (f *fixture) prove(attempt, code string) (authrpc.ProveFactorResponse, error) {
	body, err := json.Marshal(code)
	f.must(err)
	return f.Prove(f.t.Context(), proxyIdentity, authrpc.ProveFactorRequest{
		Attempt:  attempt,
		Response: authrpc.FactorResponse{Kind: authrpc.TOTP, Body: body},
		From:     netip.MustParseAddr("192.0.2.7"),
	})
}

// enrol logs alice in for the first time and returns her secret and the one-time code. It advances the clock
// by one TOTP step.
func (f *fixture) enrol(c client) (secret, code string) {
	f.t.Helper()
	identified := f.identify(c)
	if identified.secret == "" {
		f.t.Fatal("got no enrolment, want one at the first login")
	}
	proved, err := f.prove(identified.attempt, f.code(identified.secret))
	f.must(err)
	f.advance(30 * time.Second)
	return identified.secret, codeOf(f.t, proved, c)
}

// logIn logs alice in with her factor. It advances the clock by one TOTP step.
func (f *fixture) logIn(c client, secret string) (code string) {
	f.t.Helper()
	proved, err := f.prove(f.identify(c).attempt, f.code(secret))
	f.must(err)
	f.advance(30 * time.Second)
	return codeOf(f.t, proved, c)
}

func codeOf(t *testing.T, proved authrpc.ProveFactorResponse, c client) string {
	t.Helper()
	u, err := url.Parse(proved.Redirect)
	if err != nil || !strings.HasPrefix(proved.Redirect, callback+"?") || u.Query().Get("state") != c.state {
		t.Fatalf("got %q and %v, want tsh's callback with its state", proved.Redirect, err)
	}
	return u.Query().Get("code")
}

func (f *fixture) events(code audit.Code) (out []audit.Event) {
	f.t.Helper()
	for _, e := range statetest.Events(f.t, f.state) {
		if e.Code == code {
			out = append(out, e)
		}
	}
	return out
}

// The whole login in a browser, first with enrolment and then with the factor. Assured and the audit events
// must say what the provider, the user's record and the client said.
func TestUserLogsIn(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	c := newClient(t)
	secret, first := f.enrol(c)
	if _, err := f.redeem(c.redeem(first)); err != nil {
		t.Fatal(err)
	}
	user, err := f.state.User(t.Context(), identity.UserKey{Connector: "corp", Subject: "sub-alice"})
	f.must(err)
	user.Value.Roles = []string{"ops", "dev"}
	f.must(f.state.Users.PutUser(t.Context(), user, user.Value, state.By{Time: time.Now()}))

	c = newClient(t)
	assured, err := f.redeem(c.redeem(f.logIn(c, secret)))
	f.must(err)
	who := assured.Who()
	alice := identity.UserKey{Connector: "corp", Subject: "sub-alice"}
	if who.Name != "alice@example.com" || who.UserKey() != alice || who.Factor != "totp" ||
		who.Kind != identity.User || who.Cluster != cluster {
		t.Errorf("got %+v, want alice of corp with totp", who)
	}
	// enrol and logIn each advance the clock by 30 seconds after the second factor.
	proved := f.clock().Add(-30 * time.Second)
	if who.Profile != identity.UserProfile || who.Proxy != proxyIdentity.ID || !who.AuthTime.Equal(proved) ||
		!who.FactorTime.Equal(proved) {
		t.Errorf("got %+v, want the proxy and the times of the login in it", who)
	}
	if got := strings.Join(who.Roles, " "); got != "dev ops" {
		t.Errorf("got roles %q, want those of the connector and of the user's record", got)
	}
	if who.Traits["unix"][0] != "alice" || len(who.LoginID) != 32 {
		t.Errorf("got traits %v and login id %q, want the unix trait and an id", who.Traits, who.LoginID)
	}
	sshKey, x509Key := assured.Keys()
	if !bytes.Equal(sshKey.Marshal(), c.sshKey) || !x509Key.(*ecdsa.PublicKey).Equal(c.x509) {
		t.Error("got other keys than those of the client")
	}
	if assured.Proxy().ID != proxyIdentity.ID || assured.From().String() != "192.0.2.7" {
		t.Errorf("got proxy %v and address %q, want those of the login", assured.Proxy(), assured.From())
	}
	got := f.events(audit.LoginSucceeded)
	if len(got) != 2 || got[0].Actor.LoginID == got[1].Actor.LoginID ||
		got[1].Actor.LoginID != who.LoginID || got[1].Proxy.Name != proxyIdentity.Name {
		t.Errorf("got events %+v, want one for each login", got)
	}
}

func TestUserWithoutRolesMayLogIn(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	c := newClient(t)
	res, err := f.Begin(t.Context(), proxyIdentity, c.begin())
	f.must(err)
	identified := f.identifyAs(f.signIn(res, "bob@example.com", "builder"))
	proved, err := f.prove(identified.attempt, f.code(identified.secret))
	f.must(err)
	assured, err := f.redeem(c.redeem(codeOf(t, proved, c)))
	if err != nil || len(assured.Who().Roles) != 0 || len(proved.RecoveryCodes) != 10 {
		t.Errorf("got %+v, %d recovery codes and %v, want bob without roles",
			assured.Who(), len(proved.RecoveryCodes), err)
	}
}
