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

	"github.com/threshold-access/threshold/auth/oidc"
	"github.com/threshold-access/threshold/auth/oidc/oidctest"
	"github.com/threshold-access/threshold/auth/state"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/formbrowser"
)

const redirect = "http://127.0.0.1:9/login/callback"

// fixture is a provider over HTTP, the connectors that name it, and a clock.
type fixture struct {
	*oidctest.Provider
	*oidc.Providers
	server *httptest.Server
	source *memorySource

	mu  sync.Mutex
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
	mu   sync.Mutex
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

func (s *memorySource) Connectors(context.Context) ([]state.StoredConnector, error) {
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

// signIn goes through the provider's page and returns what the browser came back with.
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
		p, err = p.Submit(
			t.Context(),
			map[string]string{"login": "alice@example.com", "password": "wonderland"},
		)
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
			t.Errorf("%s: got traits %v, want the immutable one alone", alg, tr)
		}
	}
}

func TestPKCEIsS256AndSecretsAreNotSent(t *testing.T) {
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
		t.Error("the page's address shows a secret")
	}
}

// tamperCase is one way in which an answer may be wrong.
type tamperCase struct {
	name   string
	faults oidctest.Faults
	flow   func(*oidc.Flow)
	ret    func(*oidc.CallbackParams)
	want   fault.Kind
	says   string
}

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

func TestInvalidCallbacksAndTokensAreRefused(t *testing.T) {
	h := newFixture(t, "RS256")
	now := h.clock()
	for _, tt := range []tamperCase{
		{name: "the state of another browser", ret: func(r *oidc.CallbackParams) { r.State = "other" }, want: fault.Invalid, says: "does not belong"},
		{name: "no state at all", ret: func(r *oidc.CallbackParams) { r.State = "" }, want: fault.Invalid, says: "does not belong"},
		{name: "a flow without state", flow: func(f *oidc.Flow) { f.State = "" }, ret: func(r *oidc.CallbackParams) { r.State = "" }, want: fault.Invalid, says: "does not belong"},
		{name: "neither code nor error", ret: func(r *oidc.CallbackParams) { r.Code = "" }, want: fault.Invalid, says: "neither"},
		{name: "a made-up code", ret: func(r *oidc.CallbackParams) { r.Code = "made-up" }, want: fault.Invalid, says: "does not know this code"},
		{name: "a code too long", ret: func(r *oidc.CallbackParams) { r.Code = strings.Repeat("x", 5000) }, want: fault.Invalid, says: "too large"},
		{name: "another PKCE verifier", flow: func(f *oidc.Flow) { f.Verifier = strings.Repeat("v", 43) }, want: fault.Invalid, says: "does not know this code"},
		{name: "another redirect", flow: func(f *oidc.Flow) { f.Redirect += "x" }, want: fault.Invalid, says: "does not know this code"},
		{name: "another issuer beside the code", ret: func(r *oidc.CallbackParams) { r.Issuer = "https://evil.example" }, want: fault.Invalid, says: "another identity provider"},
		{name: "no issuer from one who sends it", ret: func(r *oidc.CallbackParams) { r.Issuer = "" }, want: fault.Invalid, says: "another identity provider"},
		{name: "the nonce of another login", faults: withClaim("nonce", "replayed"), want: fault.Invalid, says: "does not belong"},
		{name: "no nonce", faults: withClaim("nonce", nil), want: fault.Invalid, says: "does not belong"},
		{name: "another issuer", faults: withClaim("iss", "https://evil.example"), want: fault.Invalid, says: "ID token is not valid"},
		{name: "another audience", faults: withClaim("aud", "somebody-else"), want: fault.Invalid, says: "ID token is not valid"},
		{name: "several audiences and no azp", faults: withClaim("aud", []string{"threshold", "somebody-else"}), want: fault.Invalid, says: "another client"},
		{name: "another azp", faults: withClaim("azp", "somebody-else"), want: fault.Invalid, says: "another client"},
		{name: "an azp of no text", faults: withClaim("azp", 7), want: fault.Invalid, says: "another client"},
		{name: "an expired token", faults: withClaim("exp", now.Add(-2*time.Minute).Unix()), want: fault.Invalid, says: "has expired"},
		{name: "no expiry", faults: withClaim("exp", nil), want: fault.Invalid, says: "no issue time or no expiry"},
		{name: "no issue time", faults: withClaim("iat", nil), want: fault.Invalid, says: "no issue time or no expiry"},
		{name: "a token from the future", faults: withClaim("iat", now.Add(10*time.Minute).Unix()), want: fault.Invalid, says: "is 10m0s ahead of this server's"},
		{name: "a token from long ago", faults: withClaim("iat", now.Add(-12*time.Minute).Unix()), want: fault.Invalid, says: "is 12m"},
		{name: "a token not valid yet", faults: withClaim("nbf", now.Add(5*time.Minute).Unix()), want: fault.Invalid, says: "not valid yet"},
		{name: "alg none", faults: oidctest.Faults{Signature: oidctest.Unsigned}, want: fault.Invalid, says: "ID token is not valid"},
		{name: "HS256 with the public key", faults: oidctest.Faults{Signature: oidctest.PublicKeyAsSecret}, want: fault.Invalid, says: "ID token is not valid"},
		{name: "a foreign key under the right id", faults: oidctest.Faults{Signature: oidctest.ForeignKey}, want: fault.Invalid, says: "ID token is not valid"},
		{name: "an at_hash of another token", faults: withClaim("at_hash", "AAAAAAAAAAAAAAAAAAAAAA"), want: fault.Invalid, says: "belong together"},
		{name: "a token too large", faults: withClaim("extra", strings.Repeat("x", 64<<10)), want: fault.Invalid, says: "too large"},
		{name: "no subject", faults: withClaim("sub", nil), want: fault.Invalid, says: `"sub"`},
		{name: "a subject with a new line", faults: withClaim("sub", "a\nb"), want: fault.Invalid, says: `"sub"`},
		{name: "a name that turns the writing direction", faults: withClaim("email", "a\u202eb@example.com"), want: fault.Invalid, says: `"email"`},
		{name: "an address not verified", faults: withClaim("email_verified", false), want: fault.Denied, says: "not verified"},
		{name: "an address of which nothing is said", faults: withClaim("email_verified", nil), want: fault.Denied, says: "not verified"},
		{name: "a trait with a control character", faults: withClaim("uid", "a\x00b"), want: fault.Invalid, says: `"uid"`},
		{name: "access denied", faults: oidctest.Faults{Refuse: "access_denied", Description: "no\x1b[31m luck"}, want: fault.Denied, says: `access_denied (it says "no[31m luck")`},
		{name: "a provider's own defect", faults: oidctest.Faults{Refuse: "server_error"}, want: fault.Unavailable, says: "server_error"},
		{name: "a wrong client registration", faults: oidctest.Faults{Refuse: "invalid_scope"}, want: fault.Unavailable, says: "invalid_scope"},
		{name: "any other error", faults: oidctest.Faults{Refuse: "login_required"}, want: fault.Denied, says: "login_required"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h.SetFaults(tt.faults)
			f, r := h.signIn(t)
			if tt.flow != nil {
				tt.flow(&f)
			}
			if tt.ret != nil {
				tt.ret(&r)
			}
			v, err := h.Finish(t.Context(), f, r)
			if !fault.Is(err, tt.want) || !strings.Contains(err.Error(), tt.says) || fault.Remedy(err) == "" {
				t.Errorf(
					"got %v (kind %s, remedy %q), want %s with %q",
					err,
					fault.KindOf(err),
					fault.Remedy(err),
					tt.want,
					tt.says,
				)
			}
			if v.Subject() != "" {
				t.Errorf("got %+v beside the fault, want nobody", v)
			}
		})
	}
	h.advance(time.Minute) // so that the rate of key fetches is no reason
	h.SetFaults(oidctest.Faults{})
	f, r := h.signIn(t)
	if _, err := h.Finish(t.Context(), f, r); err != nil {
		t.Errorf("got %v from the provider that behaves again, want success", err)
	}
}

func TestClockSkewOfAMinuteIsAccepted(t *testing.T) {
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
	h := newFixture(t, "ES256")
	const people = 12
	var flows [people]oidc.Flow
	var returns [people]oidc.CallbackParams
	for i := range people {
		flows[i], returns[i] = h.signIn(t)
	}
	var all sync.WaitGroup
	for i := range people {
		all.Go(func() {
			if _, err := h.Finish(t.Context(), flows[i], returns[i]); err != nil {
				t.Errorf("person %d: got %v, want success", i, err)
			}
		})
	}
	all.Wait()
	if got := h.RequestCounts().KeyFetches; got != 1 {
		t.Errorf("got %d fetches, want 1", got)
	}
}

func TestUnknownKeyIDsCauseFewFetches(t *testing.T) {
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
	h := newFixture(t, "ES256")
	h.SetFaults(oidctest.Faults{NoKeys: true})
	f, r := h.signIn(t)
	if _, err := h.Finish(t.Context(), f, r); !fault.Is(err, fault.Unavailable) {
		t.Errorf("got %v, want unavailable", err)
	}
}

func TestUnusableDiscoveryIsReported(t *testing.T) {
	for _, tt := range []struct {
		name, key string
		value     any
		says      string
	}{
		{"another issuer", "issuer", "https://evil.example", "its issuer"},
		{"plain http over the network", "token_endpoint", "http://login.example.com/token", "https"},
		{"a script for a page", "authorization_endpoint", "javascript:alert(1)", "no address"},
		{"only signatures that do not count", "id_token_signing_alg_values_supported", []string{"none", "HS256"}, "signs with none"},
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
		t.Errorf("got %v, want the answer cut off", err)
	}
}

// Libraries quote what a provider answers, whole; each login that fails by it would put that into the log.
func TestErrorQuotesProviderBodiesBriefly(t *testing.T) {
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
