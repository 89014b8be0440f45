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

func (h *fixture) clock() time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.now
}

func (h *fixture) advance(d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.now = h.now.Add(d)
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
	return state.StoredConnector{}, fault.New(fault.NotFound, "test", "none", "make one")
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

func (h *fixture) spec() oidc.Spec {
	return oidc.Spec{
		Type:         "oidc",
		Display:      "Corp",
		Issuer:       h.server.URL,
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

func newFixture(t *testing.T, alg string) *fixture {
	t.Helper()
	h := &fixture{
		now:    time.Now().Truncate(time.Second),
		source: &memorySource{recs: map[string]state.StoredConnector{}},
	}
	h.server = httptest.NewServer(
		http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.Provider.ServeHTTP(w, r) }),
	)
	t.Cleanup(h.server.Close)
	var err error
	h.Provider, err = oidctest.New(oidctest.Config{
		Issuer: h.server.URL, Alg: alg, Now: h.clock,
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
	h.source.put("corp", h.spec())
	if h.Providers, err = oidc.New(oidc.Config{Source: h.source, Now: h.clock}); err != nil {
		t.Fatal(err)
	}
	return h
}

// signIn starts a flow, signs alice in at the provider's page, and returns the callback parameters.
func (h *fixture) signIn(t *testing.T) (oidc.Flow, oidc.CallbackParams) {
	t.Helper()
	f, page, err := h.Start(t.Context(), "corp", redirect, "")
	if err != nil {
		t.Fatal(err)
	}
	return f, signInAt(t, page)
}

func signInAt(t *testing.T, address string) oidc.CallbackParams {
	t.Helper()
	p, err := formbrowser.New(nil, redirect).Open(t.Context(), address)
	if err == nil && p.Location == "" {
		form := map[string]string{"login": "alice@example.com", "password": "wonderland"}
		p, err = p.Submit(t.Context(), form)
	}
	if err != nil {
		t.Fatal(err)
	}
	back, err := url.Parse(p.Location)
	if err != nil || !strings.HasPrefix(p.Location, redirect) {
		t.Fatalf("got status %d to %q, want a redirect to the client", p.Status, p.Location)
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

func TestFinishReturnsTheVerifiedUser(t *testing.T) {
	t.Parallel()
	for _, alg := range []string{"RS256", "ES256"} {
		h := newFixture(t, alg)
		f, r := h.signIn(t)
		v, err := h.Finish(t.Context(), f, r)
		if err != nil {
			t.Fatal(err)
		}
		if v.Connector() != "corp" || v.Subject() != "sub-alice" || v.Name() != "alice@example.com" {
			t.Errorf("%s: got %q %q %q, want alice of corp", alg, v.Connector(), v.Subject(), v.Name())
		}
		if got := strings.Join(v.Roles(), " "); got != "admin dev ops staff" {
			t.Errorf("%s: got roles %q, want those of all three rules", alg, got)
		}
		if tr := v.Traits(); len(tr) != 1 || len(tr["unix"]) != 1 || tr["unix"][0] != "alice" {
			t.Errorf("%s: got traits %v, want only the immutable one", alg, tr)
		}
	}
}

func TestPKCEIsS256AndSecretsAreNotSent(t *testing.T) {
	t.Parallel()
	h := newFixture(t, "ES256")
	f, page, err := h.Start(t.Context(), "corp", redirect, "")
	if err != nil {
		t.Fatal(err)
	}
	u, _ := url.Parse(page)
	if u.Query().Get("code_challenge_method") != "S256" || u.Query().Get("nonce") != f.Nonce ||
		u.Query().Get("state") != f.State {
		t.Errorf("got %s, want S256, nonce and state", page)
	}
	if strings.Contains(page, f.Verifier) || strings.Contains(page, "client-secret") {
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
	h := newFixture(t, "ES256")
	for locale, want := range map[string]bool{"ko": true, "": false} {
		_, page, err := h.Start(t.Context(), "corp", redirect, locale)
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

func TestInvalidCallbacksAndTokensAreRefused(t *testing.T) {
	t.Parallel()
	h := newFixture(t, "RS256")
	now := h.clock()
	for _, tt := range []struct {
		name   string
		tamper tamper
		want   fault.Kind
		says   string
	}{
		// the callback
		{"the state of another browser", callback(func(r *params) { r.State = "other" }),
			fault.Invalid, "does not belong"},
		{"no state", callback(func(r *params) { r.State = "" }), fault.Invalid, "does not belong"},
		{"a flow without state", tamper{
			flow:     func(f *oidc.Flow) { f.State = "" },
			callback: func(r *params) { r.State = "" },
		}, fault.Invalid, "does not belong"},
		{"neither code nor error", callback(func(r *params) { r.Code = "" }), fault.Invalid, "neither"},
		{"an unknown code", callback(func(r *params) { r.Code = "made-up" }),
			fault.Invalid, "does not know this code"},
		{"a code too long", callback(func(r *params) { r.Code = strings.Repeat("x", 5000) }),
			fault.Invalid, "too large"},
		{"another PKCE verifier", flow(func(f *oidc.Flow) { f.Verifier = strings.Repeat("v", 43) }),
			fault.Invalid, "does not know this code"},
		{"another redirect", flow(func(f *oidc.Flow) { f.Redirect += "x" }),
			fault.Invalid, "does not know this code"},
		{"another issuer beside the code", callback(func(r *params) { r.Issuer = "https://evil.example" }),
			fault.Invalid, "another identity provider"},
		{"no issuer from a provider that sends it", callback(func(r *params) { r.Issuer = "" }),
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
			fault.Invalid, "is 10m0s ahead of this server's"},
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
			h.SetFaults(tt.tamper.faults)
			f, r := h.signIn(t)
			if tt.tamper.flow != nil {
				tt.tamper.flow(&f)
			}
			if tt.tamper.callback != nil {
				tt.tamper.callback(&r)
			}
			v, err := h.Finish(t.Context(), f, r)
			if !fault.Is(err, tt.want) || !strings.Contains(err.Error(), tt.says) || fault.Remedy(err) == "" {
				t.Errorf("got %v (kind %s, remedy %q), want %s with %q",
					err, fault.KindOf(err), fault.Remedy(err), tt.want, tt.says)
			}
			if v.Subject() != "" {
				t.Errorf("got %+v with the error, want nobody", v)
			}
		})
	}
	h.advance(time.Minute) // beyond the rate limit of key fetches
	h.SetFaults(oidctest.Faults{})
	f, r := h.signIn(t)
	if _, err := h.Finish(t.Context(), f, r); err != nil {
		t.Errorf("got %v from the provider without faults, want success", err)
	}
}

func TestClockSkewOfAMinuteIsAccepted(t *testing.T) {
	t.Parallel()
	h := newFixture(t, "ES256")
	for _, d := range []time.Duration{-59 * time.Second, 59 * time.Second} {
		h.SetFaults(oidctest.Faults{Claims: func(c map[string]any) {
			c["iat"], c["exp"] = h.clock().Add(d).Unix(), h.clock().Add(d).Add(time.Second).Unix()
		}})
		f, r := h.signIn(t)
		if _, err := h.Finish(t.Context(), f, r); err != nil {
			t.Errorf("clock off by %s: got %v, want success", d, err)
		}
	}
}

func TestAuthorizationCodeWorksOnce(t *testing.T) {
	t.Parallel()
	h := newFixture(t, "ES256")
	f, r := h.signIn(t)
	if _, err := h.Finish(t.Context(), f, r); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Finish(t.Context(), f, r); !fault.Is(err, fault.Invalid) {
		t.Errorf("got %v, want the used code refused", err)
	}
}

func TestRolesByEmailNeedAVerifiedAddress(t *testing.T) {
	t.Parallel()
	h := newFixture(t, "ES256")
	spec := h.spec()
	spec.NameClaim = "uid"
	h.source.put("corp", spec)
	h.SetFaults(withClaim("email_verified", false))
	f, r := h.signIn(t)
	v, err := h.Finish(t.Context(), f, r)
	if err != nil || strings.Contains(strings.Join(v.Roles(), " "), "staff") || v.Name() != "alice" {
		t.Errorf("got %v %v and %v, want no role by the address", v.Name(), v.Roles(), err)
	}
}

func TestKeyRotationIsFollowed(t *testing.T) {
	t.Parallel()
	h := newFixture(t, "ES256")
	for i := range 2 {
		f, r := h.signIn(t)
		if _, err := h.Finish(t.Context(), f, r); err != nil {
			t.Fatalf("key %d: %v", i+1, err)
		}
		if err := h.Rotate(); err != nil {
			t.Fatal(err)
		}
	}
	if got := h.RequestCounts().KeyFetches; got != 2 {
		t.Errorf("got %d fetches, want one for each key", got)
	}
}

func TestConcurrentLoginsFetchANewKeyOnce(t *testing.T) {
	t.Parallel()
	h := newFixture(t, "ES256")
	const users = 12
	var flows [users]oidc.Flow
	var returns [users]oidc.CallbackParams
	for i := range users {
		flows[i], returns[i] = h.signIn(t)
	}
	var all sync.WaitGroup
	for i := range users {
		all.Go(func() {
			if _, err := h.Finish(t.Context(), flows[i], returns[i]); err != nil {
				t.Errorf("user %d: got %v, want success", i, err)
			}
		})
	}
	all.Wait()
	if got := h.RequestCounts().KeyFetches; got != 1 {
		t.Errorf("got %d fetches, want 1", got)
	}
}

func TestUnknownKeyIDsCauseFewFetches(t *testing.T) {
	t.Parallel()
	h := newFixture(t, "ES256")
	h.SetFaults(oidctest.Faults{Signature: oidctest.UnknownKey})
	var last error
	for range 10 {
		f, r := h.signIn(t)
		if _, last = h.Finish(t.Context(), f, r); last == nil {
			t.Fatal("got a foreign key accepted")
		}
	}
	if got := h.RequestCounts().KeyFetches; got != 3 {
		t.Errorf("got %d fetches for 10 tokens, want 3", got)
	}
	if !fault.Is(last, fault.Unavailable) || fault.Remedy(last) == "" {
		t.Errorf("got %v, want unavailable with a remedy", last)
	}
}

func TestDiscoveryIsCachedRetriedAndSurvivesAnOutage(t *testing.T) {
	t.Parallel()
	h := newFixture(t, "ES256")
	h.SetFaults(oidctest.Faults{Down: true})
	for range 3 {
		if _, _, err := h.Start(t.Context(), "corp", redirect, ""); !fault.Is(err, fault.Unavailable) ||
			fault.Remedy(err) == "" {
			t.Fatalf("got %v, want unavailable with a remedy", err)
		}
	}
	h.SetFaults(oidctest.Faults{})
	h.advance(3 * time.Second)
	for range 3 {
		if _, _, err := h.Start(t.Context(), "corp", redirect, ""); err != nil {
			t.Fatalf("got %v after the outage, want success", err)
		}
	}
	if got := h.RequestCounts().Discoveries; got != 1 {
		t.Errorf("got %d discoveries, want 1", got)
	}
	h.SetFaults(oidctest.Faults{Down: true})
	h.advance(2 * time.Hour)
	if _, _, err := h.Start(t.Context(), "corp", redirect, ""); err != nil {
		t.Errorf("got %v with an old discovery document, want success", err)
	}
	h.advance(24 * time.Hour)
	if _, _, err := h.Start(t.Context(), "corp", redirect, ""); !fault.Is(err, fault.Unavailable) {
		t.Errorf("got %v with one that is a day old, want unavailable", err)
	}
}

func TestMissingKeySetIsUnavailable(t *testing.T) {
	t.Parallel()
	h := newFixture(t, "ES256")
	h.SetFaults(oidctest.Faults{NoKeys: true})
	f, r := h.signIn(t)
	if _, err := h.Finish(t.Context(), f, r); !fault.Is(err, fault.Unavailable) {
		t.Errorf("got %v, want unavailable", err)
	}
}

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
		h := newFixture(t, "ES256")
		h.SetFaults(oidctest.Faults{Discovery: func(d map[string]any) { d[tt.key] = tt.value }})
		if _, _, err := h.Start(t.Context(), "corp", redirect, ""); !fault.Is(err, fault.Unavailable) ||
			!strings.Contains(err.Error(), tt.says) ||
			fault.Remedy(err) == "" {
			t.Errorf("%s: got %v, want unavailable with %q", tt.name, err, tt.says)
		}
	}
}

func TestWrongClientSecretNamesTheConnector(t *testing.T) {
	t.Parallel()
	h := newFixture(t, "ES256")
	spec := h.spec()
	spec.ClientSecret = "old"
	h.source.put("corp", spec)
	f, r := h.signIn(t)
	if _, err := h.Finish(t.Context(), f, r); !fault.Is(err, fault.Unavailable) ||
		!strings.Contains(fault.Remedy(err), "connector corp") {
		t.Errorf("got %v with remedy %q, want the connector named", err, fault.Remedy(err))
	}
	h.source.put("corp", h.spec())
	f, r = h.signIn(t)
	if _, err := h.Finish(t.Context(), f, r); err != nil {
		t.Errorf("got %v after the correction, want success", err)
	}
}

func TestUnknownConnectorListsTheKnownOnes(t *testing.T) {
	t.Parallel()
	h := newFixture(t, "ES256")
	if _, _, err := h.Start(t.Context(), "crop", redirect, ""); !fault.Is(err, fault.NotFound) ||
		!strings.Contains(fault.Remedy(err), "corp") {
		t.Errorf("got %v with remedy %q, want corp offered", err, fault.Remedy(err))
	}
	if got, err := h.List(t.Context()); err != nil || len(got) != 1 || got[0].Display != "Corp" {
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
	h := newFixture(t, "ES256")
	spec := h.spec()
	spec.Issuer = big.URL
	h.source.put("corp", spec)
	if _, _, err := h.Start(t.Context(), "corp", redirect, ""); !fault.Is(err, fault.Unavailable) ||
		!strings.Contains(err.Error(), "larger than") {
		t.Errorf("got %v, want the response refused", err)
	}
}

// Libraries quote whole response bodies in their errors, and every failed login would write that to the log.
func TestErrorQuotesProviderBodiesBriefly(t *testing.T) {
	t.Parallel()
	h := newFixture(t, "ES256")
	loud := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, strings.Repeat("sorry ", 20_000), http.StatusInternalServerError)
	}))
	defer loud.Close()
	spec := h.spec()
	spec.Issuer = loud.URL
	h.source.put("loud", spec)
	_, _, err := h.Start(t.Context(), "loud", redirect, "")
	if !fault.Is(err, fault.Unavailable) {
		t.Errorf("got %v, want unavailable", err)
	}
	for ; err != nil; err = errors.Unwrap(err) {
		if n := len(err.Error()); n > 2000 {
			t.Errorf("got an error of %d bytes, want its beginning", n)
		}
	}
}
