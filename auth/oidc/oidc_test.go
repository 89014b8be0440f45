package oidc_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/threshold-access/threshold/auth/oidc"
	"github.com/threshold-access/threshold/auth/oidc/oidctest"
	"github.com/threshold-access/threshold/auth/state"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/fault/faulttest"
	"github.com/threshold-access/threshold/internal/formbrowser"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const redirect = "http://127.0.0.1:9/login/callback"

// fixture is a provider over HTTP, a relying party with the connector corp for it, and a fake clock.
type fixture struct {
	*oidctest.Provider
	*oidc.Providers
	server *httptest.Server
	source *memorySource

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

// memorySource holds connectors in memory.
type memorySource struct {
	mu   sync.Mutex // guards recs
	recs map[string]state.StoredConnector
}

func (s *memorySource) put(name string, spec oidc.Spec) {
	rec, err := spec.Record()
	if err != nil {
		panic(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.recs[name] = state.StoredConnector{Name: name, Connector: rec, Revision: s.recs[name].Revision + 1}
}

func (s *memorySource) Connector(_ context.Context, name string) (state.StoredConnector, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c, ok := s.recs[name]; ok {
		return c, nil
	}
	return state.StoredConnector{}, faulttest.New(fault.NotFound, "test", "none", "make one")
}

func (s *memorySource) ListConnectors(context.Context) ([]state.StoredConnector, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []state.StoredConnector
	for _, c := range s.recs {
		out = append(out, c)
	}
	return out, nil
}

func (f *fixture) spec() oidc.Spec {
	return oidc.Spec{
		Type:         "oidc",
		Display:      "Corp",
		Issuer:       f.server.URL,
		ClientID:     "threshold",
		ClientSecret: "client-secret",
		Roles: []oidc.RoleRule{
			{Claim: "groups", Value: "eng-*", Roles: []string{"dev", "ops"}},
			{Claim: "email", Value: "*@example.com", Roles: []string{"staff"}},
			{Claim: "realm.roles", Value: "boss", Roles: []string{"admin"}},
		},
		Traits: []oidc.TraitRule{
			{Trait: "unix", Claim: "uid", Immutable: true},
			{Trait: "nick", Claim: "nickname"},
		},
	}
}

// newFixture makes a provider that signs with alg and knows alice, and the connector corp for it.
func newFixture(t *testing.T, alg string) *fixture {
	t.Helper()
	f := &fixture{
		now:    time.Now().Truncate(time.Second),
		source: &memorySource{recs: map[string]state.StoredConnector{}},
	}
	f.server = httptest.NewServer(
		http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { f.Provider.ServeHTTP(w, r) }),
	)
	t.Cleanup(f.server.Close)
	var err error
	f.Provider, err = oidctest.New(oidctest.Config{
		Issuer: f.server.URL, Alg: alg, Now: f.clock,
		Clients: []oidctest.Client{{ID: "threshold", Secret: "client-secret", Redirects: []string{redirect}}},
		Users: []oidctest.User{{Email: "alice@example.com", Password: "wonderland", Subject: "sub-alice",
			Claims: map[string]any{
				"groups":   []string{"eng-web", "all"},
				"uid":      "alice",
				"nickname": "root",
				"realm":    map[string]any{"roles": []string{"boss"}},
			}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	f.source.put("corp", f.spec())
	if f.Providers, err = oidc.New(oidc.Config{Source: f.source, Now: f.clock}); err != nil {
		t.Fatal(err)
	}
	return f
}

// signIn starts a flow, signs alice in at the provider's page, and returns the callback parameters.
func (f *fixture) signIn(t *testing.T) (oidc.Flow, oidc.CallbackParams) {
	t.Helper()
	started, page, err := f.Start(t.Context(), "corp", redirect, "")
	if err != nil {
		t.Fatal(err)
	}
	return started, signInAt(t, page)
}

// signInAt signs alice in at the provider's page and returns the callback parameters.
func signInAt(t *testing.T, address string) oidc.CallbackParams {
	t.Helper()
	page, err := formbrowser.New(nil, redirect).Open(t.Context(), address)
	if err == nil && page.Location == "" {
		form := map[string]string{"login": "alice@example.com", "password": "wonderland"}
		page, err = page.Submit(t.Context(), form)
	}
	if err != nil {
		t.Fatal(err)
	}
	back, err := url.Parse(page.Location)
	if err != nil || !strings.HasPrefix(page.Location, redirect) {
		t.Fatalf("got status %d to %q, want a redirect to the client", page.Status, page.Location)
	}
	q := back.Query()
	return oidc.CallbackParams{
		State:            q.Get("state"),
		Code:             q.Get("code"),
		Issuer:           q.Get("iss"),
		Error:            q.Get("error"),
		ErrorDescription: q.Get("error_description"),
	}
}

// The user is named by the token, and has the roles and immutable traits to which the connector maps its
// claims.
func TestFinishReturnsTheVerifiedUser(t *testing.T) {
	t.Parallel()
	for _, alg := range []string{"RS256", "ES256"} {
		f := newFixture(t, alg)
		started, back := f.signIn(t)
		user, err := f.Finish(t.Context(), started, back)
		if err != nil {
			t.Fatal(err)
		}
		if user.Connector() != "corp" || user.Subject() != "sub-alice" || user.Name() != "alice@example.com" {
			t.Errorf(
				"%s: got %q %q %q, want alice of corp",
				alg,
				user.Connector(),
				user.Subject(),
				user.Name(),
			)
		}
		if got := strings.Join(user.Roles(), " "); got != "admin dev ops staff" {
			t.Errorf("%s: got roles %q, want those of all three rules", alg, got)
		}
		if tr := user.Traits(); len(tr) != 1 || len(tr["unix"]) != 1 || tr["unix"][0] != "alice" {
			t.Errorf("%s: got traits %v, want only the immutable one", alg, tr)
		}
	}
}

func TestPKCEIsS256AndSecretsAreNotSent(t *testing.T) {
	t.Parallel()
	f := newFixture(t, "ES256")
	started, page, err := f.Start(t.Context(), "corp", redirect, "")
	if err != nil {
		t.Fatal(err)
	}
	u, _ := url.Parse(page)
	if u.Query().Get("code_challenge_method") != "S256" || u.Query().Get("nonce") != started.Nonce ||
		u.Query().Get("state") != started.State {
		t.Errorf("got %s, want S256, nonce and state", page)
	}
	if strings.Contains(page, started.Verifier) || strings.Contains(page, "client-secret") {
		t.Error("the page's address contains a secret")
	}
}

// withClaim sets a claim of every ID token, or removes it where v is nil.
func withClaim(name string, v any) oidctest.Faults {
	return oidctest.Faults{Claims: func(c map[string]any) {
		if v == nil {
			delete(c, name)
			return
		}
		c[name] = v
	}}
}

func TestLocaleIsSentToTheProvider(t *testing.T) {
	t.Parallel()
	f := newFixture(t, "ES256")
	for locale, want := range map[string]bool{"ko": true, "": false} {
		_, page, err := f.Start(t.Context(), "corp", redirect, locale)
		if err != nil {
			t.Fatal(err)
		}
		u, err := url.Parse(page)
		if err != nil || u.Query().Get("ui_locales") != locale || u.Query().Has("ui_locales") != want {
			t.Errorf("%q: got %s (%v)", locale, page, err)
		}
	}
}

// tamper changes one login: what the provider does, what was remembered, or what the browser brings back.
type tamper struct {
	faults   oidctest.Faults
	flow     func(*oidc.Flow)
	callback func(*params)
}

type params = oidc.CallbackParams

func callback(change func(*params)) tamper { return tamper{callback: change} }

func flow(change func(*oidc.Flow)) tamper { return tamper{flow: change} }

func claim(name string, v any) tamper { return tamper{faults: withClaim(name, v)} }

func signedAs(how oidctest.Signature) tamper {
	return tamper{faults: oidctest.Faults{Signature: how}}
}

func refused(code, description string) tamper {
	return tamper{faults: oidctest.Faults{Refuse: code, Description: description}}
}

// Each case alters one thing in an otherwise valid login: the callback, the ID token, the claims, or the
// provider's answer. Finish must refuse it, return nobody, and say what to do.
func TestInvalidCallbacksAndTokensAreRefused(t *testing.T) {
	t.Parallel()
	f := newFixture(t, "RS256")
	now := f.clock()
	for _, tt := range []struct {
		name   string
		tamper tamper
		want   fault.Kind
		says   string
	}{
		// the callback
		{"the state of another browser", callback(func(back *params) { back.State = "other" }),
			fault.Invalid, "does not belong"},
		{"no state", callback(func(back *params) { back.State = "" }), fault.Invalid, "does not belong"},
		{"a flow without state", tamper{
			flow:     func(started *oidc.Flow) { started.State = "" },
			callback: func(back *params) { back.State = "" },
		}, fault.Invalid, "does not belong"},
		{"neither code nor error", callback(func(back *params) { back.Code = "" }), fault.Invalid, "neither"},
		{"an unknown code", callback(func(back *params) { back.Code = "made-up" }),
			fault.Invalid, "does not know this code"},
		{"a code too long", callback(func(back *params) { back.Code = strings.Repeat("x", 5000) }),
			fault.Invalid, "too large"},
		{"another PKCE verifier", flow(func(started *oidc.Flow) { started.Verifier = strings.Repeat("v", 43) }),
			fault.Invalid, "does not know this code"},
		{"another redirect", flow(func(started *oidc.Flow) { started.Redirect += "x" }),
			fault.Invalid, "does not know this code"},
		{"another issuer beside the code", callback(func(back *params) { back.Issuer = "https://evil.example" }),
			fault.Invalid, "another identity provider"},
		{"no issuer from a provider that sends it", callback(func(back *params) { back.Issuer = "" }),
			fault.Invalid, "another identity provider"},

		// the ID token
		{"the nonce of another login", claim("nonce", "replayed"), fault.Invalid, "does not belong"},
		{"no nonce", claim("nonce", nil), fault.Invalid, "does not belong"},
		{"another issuer", claim("iss", "https://evil.example"), fault.Invalid, "ID token is not valid"},
		{"another audience", claim("aud", "somebody-else"), fault.Invalid, "ID token is not valid"},
		{"several audiences and no azp", claim("aud", []string{"threshold", "somebody-else"}),
			fault.Invalid, "another client"},
		{"another azp", claim("azp", "somebody-else"), fault.Invalid, "another client"},
		{"an azp that is no text", claim("azp", 7), fault.Invalid, "another client"},
		{"an expired token", claim("exp", now.Add(-2*time.Minute).Unix()), fault.Invalid, "has expired"},
		{"no expiry", claim("exp", nil), fault.Invalid, "no issue time or no expiry"},
		{"no issue time", claim("iat", nil), fault.Invalid, "no issue time or no expiry"},
		{"a token from the future", claim("iat", now.Add(10*time.Minute).Unix()),
			fault.Invalid, "is 10m ahead of this server's"},
		{"a token from long ago", claim("iat", now.Add(-12*time.Minute).Unix()), fault.Invalid, "is 12m"},
		{"a token not valid yet", claim("nbf", now.Add(5*time.Minute).Unix()),
			fault.Invalid, "not valid yet"},
		{"alg none", signedAs(oidctest.Unsigned), fault.Invalid, "ID token is not valid"},
		{"HS256 with the public key", signedAs(oidctest.PublicKeyAsSecret),
			fault.Invalid, "ID token is not valid"},
		{"a foreign key under the right id", signedAs(oidctest.ForeignKey),
			fault.Invalid, "ID token is not valid"},
		{"an at_hash of another token", claim("at_hash", "AAAAAAAAAAAAAAAAAAAAAA"),
			fault.Invalid, "belong together"},
		{"a token too large", claim("extra", strings.Repeat("x", 64<<10)), fault.Invalid, "too large"},

		// claims that cannot be used
		{"no subject", claim("sub", nil), fault.Invalid, `"sub"`},
		{"a subject with a new line", claim("sub", "a\nb"), fault.Invalid, `"sub"`},
		{"a name that changes the writing direction", claim("email", "a\u202eb@example.com"),
			fault.Invalid, `"email"`},
		{"an address not verified", claim("email_verified", false), fault.Denied, "not verified"},
		{"an address without email_verified", claim("email_verified", nil), fault.Denied, "not verified"},
		{"a trait with a control character", claim("uid", "a\x00b"), fault.Invalid, `"uid"`},

		// errors of the provider
		{"access denied", refused("access_denied", "no\x1b[31m luck"),
			fault.Denied, `access_denied (it says "no[31m luck")`},
		{"a provider's own error", refused("server_error", ""), fault.Unavailable, "server_error"},
		{"a wrong registration", refused("invalid_scope", ""), fault.Unavailable, "invalid_scope"},
		{"any other error", refused("login_required", ""), fault.Denied, "login_required"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f.SetFaults(tt.tamper.faults)
			started, back := f.signIn(t)
			if tt.tamper.flow != nil {
				tt.tamper.flow(&started)
			}
			if tt.tamper.callback != nil {
				tt.tamper.callback(&back)
			}
			user, err := f.Finish(t.Context(), started, back)
			if !fault.Is(err, tt.want) || !strings.Contains(err.Error(), tt.says) || fault.Remedy(err) == "" {
				t.Errorf("got %v (kind %s, remedy %q), want %s with %q",
					err, fault.KindOf(err), fault.Remedy(err), tt.want, tt.says)
			}
			if user.Subject() != "" {
				t.Errorf("got %+v with the error, want nobody", user)
			}
		})
	}
	f.advance(time.Minute) // beyond the rate limit of key fetches
	f.SetFaults(oidctest.Faults{})
	started, back := f.signIn(t)
	if _, err := f.Finish(t.Context(), started, back); err != nil {
		t.Errorf("got %v from the provider without faults, want success", err)
	}
}

func TestClockSkewOfAMinuteIsAccepted(t *testing.T) {
	t.Parallel()
	f := newFixture(t, "ES256")
	for _, d := range []time.Duration{-59 * time.Second, 59 * time.Second} {
		f.SetFaults(oidctest.Faults{Claims: func(c map[string]any) {
			c["iat"], c["exp"] = f.clock().Add(d).Unix(), f.clock().Add(d).Add(time.Second).Unix()
		}})
		started, back := f.signIn(t)
		if _, err := f.Finish(t.Context(), started, back); err != nil {
			t.Errorf("clock off by %s: got %v, want success", d, err)
		}
	}
}

func TestAuthorizationCodeWorksOnce(t *testing.T) {
	t.Parallel()
	f := newFixture(t, "ES256")
	started, back := f.signIn(t)
	if _, err := f.Finish(t.Context(), started, back); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Finish(t.Context(), started, back); !fault.Is(err, fault.Invalid) {
		t.Errorf("got %v, want the used code refused", err)
	}
}

func TestRolesByEmailNeedAVerifiedAddress(t *testing.T) {
	t.Parallel()
	f := newFixture(t, "ES256")
	spec := f.spec()
	spec.NameClaim = "uid"
	f.source.put("corp", spec)
	f.SetFaults(withClaim("email_verified", false))
	started, back := f.signIn(t)
	user, err := f.Finish(t.Context(), started, back)
	if err != nil || strings.Contains(strings.Join(user.Roles(), " "), "staff") || user.Name() != "alice" {
		t.Errorf("got %v %v and %v, want no role by the address", user.Name(), user.Roles(), err)
	}
}

func TestKeyRotationIsFollowed(t *testing.T) {
	t.Parallel()
	f := newFixture(t, "ES256")
	for i := range 2 {
		started, back := f.signIn(t)
		if _, err := f.Finish(t.Context(), started, back); err != nil {
			t.Fatalf("key %d: %v", i+1, err)
		}
		if err := f.Rotate(); err != nil {
			t.Fatal(err)
		}
	}
	if got := f.RequestCounts().KeyFetches; got != 2 {
		t.Errorf("got %d fetches, want one for each key", got)
	}
}

// Twelve logins need the provider's new key at once. One fetches the key set and the others wait for it.
func TestConcurrentLoginsFetchANewKeyOnce(t *testing.T) {
	t.Parallel()
	f := newFixture(t, "ES256")
	const users = 12
	var flows [users]oidc.Flow
	var returns [users]oidc.CallbackParams
	for i := range users {
		flows[i], returns[i] = f.signIn(t)
	}
	var all sync.WaitGroup
	for i := range users {
		all.Go(func() {
			if _, err := f.Finish(t.Context(), flows[i], returns[i]); err != nil {
				t.Errorf("user %d: got %v, want success", i, err)
			}
		})
	}
	all.Wait()
	if got := f.RequestCounts().KeyFetches; got != 1 {
		t.Errorf("got %d fetches, want 1", got)
	}
}

func TestUnknownKeyIDsCauseFewFetches(t *testing.T) {
	t.Parallel()
	f := newFixture(t, "ES256")
	f.SetFaults(oidctest.Faults{Signature: oidctest.UnknownKey})
	var last error
	for range 10 {
		started, back := f.signIn(t)
		if _, last = f.Finish(t.Context(), started, back); last == nil {
			t.Fatal("got a foreign key accepted")
		}
	}
	if got := f.RequestCounts().KeyFetches; got != 3 {
		t.Errorf("got %d fetches for 10 tokens, want 3", got)
	}
	if !fault.Is(last, fault.Unavailable) || fault.Remedy(last) == "" {
		t.Errorf("got %v, want unavailable with a remedy", last)
	}
}

// A failed discovery is tried again only after a pause, a successful one is kept for an hour, and an old one
// is used for a day while the provider is down.
func TestDiscoveryIsCachedRetriedAndSurvivesAnOutage(t *testing.T) {
	t.Parallel()
	f := newFixture(t, "ES256")
	f.SetFaults(oidctest.Faults{Down: true})
	for range 3 {
		if _, _, err := f.Start(t.Context(), "corp", redirect, ""); !fault.Is(err, fault.Unavailable) ||
			fault.Remedy(err) == "" {
			t.Fatalf("got %v, want unavailable with a remedy", err)
		}
	}
	f.SetFaults(oidctest.Faults{})
	f.advance(3 * time.Second)
	for range 3 {
		if _, _, err := f.Start(t.Context(), "corp", redirect, ""); err != nil {
			t.Fatalf("got %v after the outage, want success", err)
		}
	}
	if got := f.RequestCounts().Discoveries; got != 1 {
		t.Errorf("got %d discoveries, want 1", got)
	}
	f.SetFaults(oidctest.Faults{Down: true})
	f.advance(2 * time.Hour)
	if _, _, err := f.Start(t.Context(), "corp", redirect, ""); err != nil {
		t.Errorf("got %v with an old discovery document, want success", err)
	}
	f.advance(24 * time.Hour)
	if _, _, err := f.Start(t.Context(), "corp", redirect, ""); !fault.Is(err, fault.Unavailable) {
		t.Errorf("got %v with one that is a day old, want unavailable", err)
	}
}

func TestMissingKeySetIsUnavailable(t *testing.T) {
	t.Parallel()
	f := newFixture(t, "ES256")
	f.SetFaults(oidctest.Faults{NoKeys: true})
	started, back := f.signIn(t)
	if _, err := f.Finish(t.Context(), started, back); !fault.Is(err, fault.Unavailable) {
		t.Errorf("got %v, want unavailable", err)
	}
}

// A discovery document with which no login is possible makes Start fail with the reason.
func TestUnusableDiscoveryIsReported(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, key string
		value     any
		says      string
	}{
		{"another issuer", "issuer", "https://evil.example", "its issuer"},
		{"plain http over the network", "token_endpoint", "http://login.example.com/token", "https"},
		{"a script as an address", "authorization_endpoint", "javascript:alert(1)", "not a valid address"},
		{"only refused algorithms", "id_token_signing_alg_values_supported",
			[]string{"none", "HS256"}, "offers none"},
	} {
		f := newFixture(t, "ES256")
		f.SetFaults(oidctest.Faults{Discovery: func(d map[string]any) { d[tt.key] = tt.value }})
		if _, _, err := f.Start(t.Context(), "corp", redirect, ""); !fault.Is(err, fault.Unavailable) ||
			!strings.Contains(err.Error(), tt.says) ||
			fault.Remedy(err) == "" {
			t.Errorf("%s: got %v, want unavailable with %q", tt.name, err, tt.says)
		}
	}
}

func TestWrongClientSecretNamesTheConnector(t *testing.T) {
	t.Parallel()
	f := newFixture(t, "ES256")
	spec := f.spec()
	spec.ClientSecret = "old"
	f.source.put("corp", spec)
	started, back := f.signIn(t)
	if _, err := f.Finish(t.Context(), started, back); !fault.Is(err, fault.Unavailable) ||
		!strings.Contains(fault.Remedy(err), "connector corp") {
		t.Errorf("got %v with remedy %q, want the connector named", err, fault.Remedy(err))
	}
	f.source.put("corp", f.spec())
	started, back = f.signIn(t)
	if _, err := f.Finish(t.Context(), started, back); err != nil {
		t.Errorf("got %v after the correction, want success", err)
	}
}

func TestUnknownConnectorListsTheKnownOnes(t *testing.T) {
	t.Parallel()
	f := newFixture(t, "ES256")
	if _, _, err := f.Start(t.Context(), "crop", redirect, ""); !fault.Is(err, fault.NotFound) ||
		!strings.Contains(fault.Remedy(err), "corp") {
		t.Errorf("got %v with remedy %q, want corp offered", err, fault.Remedy(err))
	}
	if got, err := f.List(t.Context()); err != nil || len(got) != 1 || got[0].Display != "Corp" {
		t.Errorf("got %v and %v, want Corp", got, err)
	}
}

func TestLargeResponsesAreRefused(t *testing.T) {
	t.Parallel()
	big := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{"issuer":"` + strings.Repeat("x", 2<<20) + `"}`))
	}))
	defer big.Close()
	f := newFixture(t, "ES256")
	spec := f.spec()
	spec.Issuer = big.URL
	f.source.put("corp", spec)
	if _, _, err := f.Start(t.Context(), "corp", redirect, ""); !fault.Is(err, fault.Unavailable) ||
		!strings.Contains(err.Error(), "larger than") {
		t.Errorf("got %v, want the response refused", err)
	}
}

// Libraries quote whole response bodies in their errors, and every failed login would write that to the log.
func TestErrorQuotesProviderBodiesBriefly(t *testing.T) {
	t.Parallel()
	f := newFixture(t, "ES256")
	loud := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, strings.Repeat("sorry ", 20_000), http.StatusInternalServerError)
	}))
	defer loud.Close()
	spec := f.spec()
	spec.Issuer = loud.URL
	f.source.put("loud", spec)
	_, _, err := f.Start(t.Context(), "loud", redirect, "")
	if !fault.Is(err, fault.Unavailable) {
		t.Errorf("got %v, want unavailable", err)
	}
	for ; err != nil; err = errors.Unwrap(err) {
		if n := len(err.Error()); n > 2000 {
			t.Errorf("got an error of %d bytes, want its beginning", n)
		}
	}
}
