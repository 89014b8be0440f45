// Package oidctest answers: how does a provider behave, and how does it misbehave?
//
// Provider is a small, real OpenID Connect provider: discovery, a login page, codes with PKCE (RFC 7636), ID
// tokens and keys. Unit tests use it over HTTP, with hooks to misbehave; threshold-demo serves it so that a
// newcomer needs no other. It keeps everything in memory and knows only the users it was made with, so no
// production binary links it.
package oidctest

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
)

// Config is what a provider is made of.
type Config struct {
	Issuer  string // the URL it is served at, without a "/" at the end; a path is allowed
	Clients []Client
	Users   []User
	Now     func() time.Time // nil: time.Now
	// Alg signs ID tokens: RS256 (also when empty) or ES256.
	Alg string
}

// Client is a relying party.
type Client struct {
	ID, Secret string
	Redirects  []string // compared as they are
}

// User is a person with an account.
type User struct {
	Email    string // what is typed as login
	Password string
	Subject  string         // empty: the e-mail address
	Claims   map[string]any // beside sub, email and email_verified, which they may overrule
}

const (
	codeLife  = time.Minute
	tokenLife = 5 * time.Minute
	maxGrants = 1000    // codes not yet redeemed
	maxForm   = 8 << 10 // bytes of a posted form

	challengeLength = 43 // a SHA-256 in base64 without padding
)

// grant is what a code stands for: the authorization request, the user who signed in for it, and until when
// the code can be exchanged.
type grant struct {
	client    string // its id
	redirect  string // the redirect URI
	challenge string // PKCE
	nonce     string
	user      User
	expires   time.Time
}

// Provider is an OpenID Connect provider. It is safe for concurrent use.
type Provider struct {
	issuer  *url.URL
	clients map[string]Client
	users   map[string]User
	now     func() time.Time
	mux     *http.ServeMux
	logins  throttle // locks logins after wrong passwords

	mu     sync.Mutex       // guards the fields below
	keys   signer           // signs ID tokens; Rotate replaces it
	grants map[string]grant // by code
	faults Faults
	counts RequestCounts
}

// New makes a provider with a new signing key. It returns an error for an issuer that is no URL or ends with
// a slash, and for an unknown Alg.
func New(cfg Config) (*Provider, error) {
	issuer, err := url.Parse(cfg.Issuer)
	if err != nil || issuer.Host == "" || strings.HasSuffix(cfg.Issuer, "/") {
		return nil, fmt.Errorf("oidctest: issuer %q is not a URL, or ends with a slash", cfg.Issuer)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	p := &Provider{
		issuer:  issuer,
		clients: map[string]Client{},
		users:   map[string]User{},
		now:     cfg.Now,
		grants:  map[string]grant{},
	}
	p.logins.now = cfg.Now
	for _, c := range cfg.Clients {
		p.clients[c.ID] = c
	}
	for _, u := range cfg.Users {
		if u.Subject == "" {
			u.Subject = u.Email
		}
		p.users[normalizeLogin(u.Email)] = u
	}
	if p.keys, err = newSigner(cfg.Alg); err != nil {
		return nil, err
	}
	p.routes()
	return p, nil
}

// normalizeLogin lets users type their address in any case.
func normalizeLogin(typed string) string { return strings.ToLower(strings.TrimSpace(typed)) }

// routes sets the handlers. All paths are below that of the issuer.
func (p *Provider) routes() {
	base := strings.TrimSuffix(p.issuer.Path, "/")
	p.mux = http.NewServeMux()
	p.mux.HandleFunc("GET "+base+"/.well-known/openid-configuration", p.serveDiscovery)
	p.mux.HandleFunc("GET "+base+"/keys", p.serveKeys)
	p.mux.HandleFunc("GET "+base+"/authorize", p.serveLoginPage)
	p.mux.HandleFunc("POST "+base+"/authorize", p.handlePassword)
	p.mux.HandleFunc("POST "+base+"/token", p.serveToken)
	p.mux.HandleFunc("GET "+base+"/style.css", serveStyle)
}

// ServeHTTP implements http.Handler.
func (p *Provider) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if p.currentFaults().Down {
		http.Error(w, "down", http.StatusServiceUnavailable)
		return
	}
	p.mux.ServeHTTP(w, r)
}

// serveDiscovery serves the discovery document (OpenID Connect Discovery 1.0 section 4).
func (p *Provider) serveDiscovery(w http.ResponseWriter, _ *http.Request) {
	faults := p.countRequest(func(c *RequestCounts) { c.Discoveries++ })
	issuer := p.issuer.String()
	doc := map[string]any{
		"issuer":                                issuer,
		"authorization_endpoint":                issuer + "/authorize",
		"token_endpoint":                        issuer + "/token",
		"jwks_uri":                              issuer + "/keys",
		"response_types_supported":              []string{"code"},
		"subject_types_supported":               []string{"public"},
		"grant_types_supported":                 []string{"authorization_code"},
		"id_token_signing_alg_values_supported": []string{p.signer().alg()},
		"code_challenge_methods_supported":      []string{"S256"},
		"token_endpoint_auth_methods_supported": []string{"client_secret_basic", "client_secret_post"},
		"scopes_supported":                      []string{"openid", "profile", "email"},

		"authorization_response_iss_parameter_supported": true,
	}
	if faults.Discovery != nil {
		faults.Discovery(doc)
	}
	writeJSON(w, http.StatusOK, doc)
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the client is gone if this fails
}

// parseAuthorize checks an authorization request (RFC 6749 section 4.1.1). It returns a grant without user
// and expiry, and the parameters of the request. The browser is redirected only after it succeeds, because
// before that the redirect URI may not belong to the client.
func (p *Provider) parseAuthorize(r *http.Request) (grant, url.Values, error) {
	q := r.URL.Query()
	client, known := p.clients[q.Get("client_id")]
	switch {
	case !known:
		return grant{}, q, fmt.Errorf("unknown client")
	case !slices.Contains(client.Redirects, q.Get("redirect_uri")):
		return grant{}, q, fmt.Errorf("the client has not registered this redirect_uri")
	case q.Get("response_type") != "code" || !slices.Contains(strings.Fields(q.Get("scope")), "openid"):
		return grant{}, q, fmt.Errorf("only response_type=code with scope openid is served")
	case q.Get("code_challenge_method") != "S256" || len(q.Get("code_challenge")) != challengeLength:
		return grant{}, q, fmt.Errorf("PKCE with S256 is required")
	}
	return grant{
		client:    client.ID,
		redirect:  q.Get("redirect_uri"),
		challenge: q.Get("code_challenge"),
		nonce:     q.Get("nonce"),
	}, q, nil
}

// serveLoginPage shows the login page. The request stays in the page's address, so the form posts it back and
// the provider stores nothing. With Faults.Refuse it redirects with an error instead.
func (p *Provider) serveLoginPage(w http.ResponseWriter, r *http.Request) {
	request, q, err := p.parseAuthorize(r)
	if err != nil {
		p.renderPage(w, r, http.StatusBadRequest, page{Error: err.Error()})
		return
	}
	if faults := p.currentFaults(); faults.Refuse != "" {
		p.redirectBack(w, r, request.redirect, url.Values{
			"error":             {faults.Refuse},
			"error_description": {faults.Description},
			"state":             {q.Get("state")},
		})
		return
	}
	p.renderPage(w, r, http.StatusOK, page{Redirect: request.redirect, Login: q.Get("login_hint")})
}

// handlePassword checks the password that the login page posts. If it is right, it redirects the browser to
// the client with a code; if not, or while the login is locked, it shows the page again.
func (p *Provider) handlePassword(w http.ResponseWriter, r *http.Request) {
	granted, q, err := p.parseAuthorize(r)
	if err != nil {
		p.renderPage(w, r, http.StatusBadRequest, page{Error: err.Error()})
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	login := r.PostFormValue("login")
	if wait := p.logins.lockedFor(normalizeLogin(login)); wait > 0 {
		locked := page{Redirect: granted.redirect, Login: login, Wait: int(wait.Seconds()) + 1}
		p.renderPage(w, r, http.StatusTooManyRequests, locked)
		return
	}
	user, ok := p.checkPassword(login, r.PostFormValue("password"))
	if !ok {
		p.logins.recordFailure(normalizeLogin(login))
		again := page{Redirect: granted.redirect, Login: login, Wrong: true}
		p.renderPage(w, r, http.StatusUnauthorized, again)
		return
	}
	p.logins.recordSuccess(normalizeLogin(login))
	granted.user, granted.expires = user, p.now().Add(codeLife)
	code := p.storeGrant(granted)
	p.redirectBack(w, r, granted.redirect, url.Values{"code": {code}, "state": {q.Get("state")}})
}

// checkPassword returns the user of that login, and whether the password is theirs. It takes as long for a
// login that does not exist as for one with another password.
func (p *Provider) checkPassword(login, password string) (User, bool) {
	user, known := p.users[normalizeLogin(login)]
	typed, want := sha256.Sum256([]byte(password)), sha256.Sum256([]byte(user.Password))
	return user, subtle.ConstantTimeCompare(typed[:], want[:]) == 1 && known && user.Password != ""
}

// storeGrant returns a new code for the grant. It also removes expired grants, and others if there are
// maxGrants.
func (p *Provider) storeGrant(g grant) (code string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for old, stored := range p.grants {
		if len(p.grants) >= maxGrants || p.now().After(stored.expires) {
			delete(p.grants, old)
		}
	}
	code = rand.Text()
	p.grants[code] = g
	return code
}

// redirectBack redirects the browser to the client with the parameters, and with the issuer of this provider
// (RFC 9207). It keeps the query of the redirect URI. Faults.Return may alter the parameters.
func (p *Provider) redirectBack(w http.ResponseWriter, r *http.Request, redirect string, params url.Values) {
	u, err := url.Parse(redirect)
	if err != nil {
		p.renderPage(w, r, http.StatusBadRequest, page{Error: "redirect_uri is not a URL"})
		return
	}
	params.Set("iss", p.issuer.String())
	if faults := p.currentFaults(); faults.Return != nil {
		faults.Return(params)
	}
	q := u.Query()
	for name := range params {
		q.Set(name, params.Get(name))
	}
	u.RawQuery = q.Encode()
	// Otherwise the next page could see the address, which contains the code.
	w.Header().Set("Referrer-Policy", "no-referrer")
	http.Redirect(w, r, u.String(), http.StatusSeeOther)
}

// serveToken exchanges a code for an ID token (OpenID Connect Core 1.0 section 3.1.3). The client
// authenticates with its secret, in the header or in the form.
func (p *Provider) serveToken(w http.ResponseWriter, r *http.Request) {
	p.countRequest(func(c *RequestCounts) { c.Exchanges++ })
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	id, secret, inHeader := r.BasicAuth()
	if inHeader { // RFC 6749 section 2.3.1 encodes both as in a form
		id, _ = url.QueryUnescape(id)
		secret, _ = url.QueryUnescape(secret)
	} else {
		id, secret = r.PostFormValue("client_id"), r.PostFormValue("client_secret")
	}
	client, known := p.clients[id]
	if !known || subtle.ConstantTimeCompare([]byte(secret), []byte(client.Secret)) != 1 {
		writeJSON(w, http.StatusUnauthorized, map[string]string{"error": "invalid_client"})
		return
	}
	code, redirect := r.PostFormValue("code"), r.PostFormValue("redirect_uri")
	granted, ok := p.redeemCode(code, id, redirect, r.PostFormValue("code_verifier"))
	if !ok || r.PostFormValue("grant_type") != "authorization_code" {
		writeJSON(w, http.StatusBadRequest, map[string]string{"error": "invalid_grant"})
		return
	}
	token, err := p.idToken(granted)
	if err != nil {
		writeJSON(w, http.StatusInternalServerError, map[string]string{"error": "server_error"})
		return
	}
	writeJSON(w, http.StatusOK, map[string]any{
		"access_token": rand.Text(),
		"token_type":   "Bearer",
		"expires_in":   int(tokenLife.Seconds()),
		"id_token":     token,
	})
}

// redeemCode returns the grant of a code, and whether the code is valid for the client, the redirect URI and
// the PKCE verifier. The code is used up in any case, even if one of these is wrong.
func (p *Provider) redeemCode(code, client, redirect, verifier string) (grant, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	g, known := p.grants[code]
	delete(p.grants, code)
	sum := sha256.Sum256([]byte(verifier))
	challenge := base64.RawURLEncoding.EncodeToString(sum[:])
	verified := subtle.ConstantTimeCompare([]byte(challenge), []byte(g.challenge)) == 1
	fits := g.client == client && g.redirect == redirect && p.now().Before(g.expires)
	return g, known && fits && verified
}
