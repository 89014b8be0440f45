package web_test

import (
	"crypto/tls"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/net/html"

	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/clustertest"
	"github.com/threshold-access/threshold/internal/dial"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/fault/faulttest"
	"github.com/threshold-access/threshold/proxy/proxytest"
	"github.com/threshold-access/threshold/proxy/web"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	provider = "https://id.example.com/authorize?x=1"
	callback = "http://127.0.0.1:40000/callback?code=one-time&state=abc"
	secret   = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"
	goodCode = "123456"
)

// testSite is the web server over TLS, with an auth service that knows one login.
type testSite struct {
	*proxytest.Auth
	t   *testing.T
	srv *httptest.Server
	now time.Time // the clock of the web server

	enrol      bool                        // the user sets up a second factor
	codes      []string                    // recovery codes after the factor
	redirect   string                      // the address after the factor
	connectors []authrpc.Connector         // to choose from; empty: no choice
	began      []authrpc.BeginLoginRequest // the calls to Begin
	headless   *authrpc.Headless           // the machine of a headless login
	// otherChallenges are offered beside TOTP.
	otherChallenges []authrpc.FactorChallenge
}

// newTestSite serves the pages over TLS, in front of an auth service whose login routes are begin, finish and
// prove of the site.
func newTestSite(t *testing.T) *testSite {
	t.Helper()
	site := &testSite{Auth: proxytest.New(t), t: t, redirect: callback, now: time.Now()}
	client := site.Client()
	site.srv = httptest.NewUnstartedServer(nil)
	site.srv.EnableHTTP2 = true
	host := site.srv.Listener.Addr().String()
	pages := web.New(web.Config{
		Auth:    client,
		Public:  []string{"Proxy.Example.com:443", host},
		Cluster: clustertest.Name,
		Pin:     site.Pin(),
		Version: "v1",
		Now:     func() time.Time { return site.now },
		Log:     proxytest.Log(),
	})
	site.srv.Config.Handler = pages.Handler()
	site.srv.StartTLS()
	t.Cleanup(func() { site.srv.Close(); client.Close() })
	clustertest.Answer(site.Cluster, authrpc.BeginLogin, site.begin)
	clustertest.Answer(site.Cluster, authrpc.FinishOIDC, site.finish)
	clustertest.Answer(site.Cluster, authrpc.ShowFactor, site.show)
	clustertest.Answer(site.Cluster, authrpc.ProveFactor, site.prove)
	return site
}

func (s *testSite) begin(r authrpc.BeginLoginRequest) (authrpc.BeginLoginResponse, error) {
	s.began = append(s.began, r)
	if len(s.connectors) > 0 && r.Connector == "" {
		return authrpc.BeginLoginResponse{Connectors: s.connectors}, nil
	}
	return authrpc.BeginLoginResponse{Attempt: "begun", Redirect: provider}, nil
}

// finish answers FinishOIDC as the auth service does: it accepts the attempt, state and code of a login that
// begin has begun.
func (s *testSite) finish(r authrpc.FinishOIDCRequest) (authrpc.FinishOIDCResponse, error) {
	switch {
	case r.Error != "":
		return authrpc.FinishOIDCResponse{}, faulttest.New(fault.Denied, "login",
			"the provider did not sign you in: "+r.Error, "try again: tsh login")
	case r.Attempt != "begun" || r.State != "st" || r.Code != "co":
		return authrpc.FinishOIDCResponse{}, faulttest.New(fault.Denied, "login",
			"this response belongs to another login", "run: tsh login")
	}
	return authrpc.FinishOIDCResponse{Attempt: "identified", Expires: s.now.Add(10 * time.Minute)}, nil
}

func (s *testSite) show(r authrpc.ShowFactorRequest) (authrpc.ShowFactorResponse, error) {
	if r.Attempt != "identified" {
		return authrpc.ShowFactorResponse{}, expiredFault()
	}
	challenge := authrpc.FactorChallenge{Kind: authrpc.TOTP, Enrol: s.enrol}
	if s.enrol {
		challenge.Body, _ = json.Marshal(authrpc.TOTPEnrolment{
			URI:    "otpauth://totp/Threshold:alice@example.com?secret=" + secret + "&issuer=Threshold",
			Secret: secret,
		})
	}
	return authrpc.ShowFactorResponse{
		Name:       "alice@example.com",
		Challenges: append(s.otherChallenges, challenge),
		Headless:   s.headless,
		Expires:    s.now.Add(10 * time.Minute),
	}, nil
}

func expiredFault() error {
	return faulttest.New(fault.Expired, "login", "this login has expired", "run: tsh login")
}

func (s *testSite) prove(r authrpc.ProveFactorRequest) (authrpc.ProveFactorResponse, error) {
	var code string
	_ = json.Unmarshal(r.Response.Body, &code)
	switch {
	case r.Attempt != "identified":
		return authrpc.ProveFactorResponse{}, expiredFault()
	case r.Response.Kind != authrpc.TOTP:
		return authrpc.ProveFactorResponse{}, faulttest.New(fault.Invalid, "login",
			"no such factor", "run: tsh login")
	case code == "999999":
		return authrpc.ProveFactorResponse{}, faulttest.New(fault.Exhausted, "login",
			"too many wrong codes", "wait 30s, then try again")
	case code != goodCode:
		return authrpc.ProveFactorResponse{}, faulttest.New(fault.Denied, "login",
			"the code is wrong or was used already", "wait for the next code")
	}
	return authrpc.ProveFactorResponse{
		Redirect:      s.redirect,
		Name:          "alice@example.com",
		RecoveryCodes: s.codes,
		Headless:      s.headless,
	}, nil
}

// browser is a client that keeps cookies and does not follow redirects.
type browser struct {
	s    *testSite
	http *http.Client
	lang string
}

func (s *testSite) browser(lang string) *browser {
	c := s.srv.Client()
	jar, _ := cookiejar.New(nil)
	stay := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &browser{s, &http.Client{Transport: c.Transport, Jar: jar, CheckRedirect: stay}, lang}
}

// response is an answer with its body.
type response struct {
	*http.Response
	body string
}

// do makes a request. It checks every page that comes back.
func (b *browser) do(r *http.Request) response {
	b.s.t.Helper()
	r.Header.Set("Accept-Language", b.lang)
	resp, err := b.http.Do(r)
	if err != nil {
		b.s.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		b.s.t.Fatal(err)
	}
	a := response{resp, string(body)}
	if strings.HasPrefix(resp.Header.Get("Content-Type"), "text/html") {
		checkPage(b.s.t, a)
	}
	return a
}

func (b *browser) get(path string) response {
	b.s.t.Helper()
	r, err := http.NewRequest(http.MethodGet, b.s.srv.URL+path, nil)
	if err != nil {
		b.s.t.Fatal(err)
	}
	return b.do(r)
}

// post sends a form as a browser does from our own page. change adapts the request.
func (b *browser) post(path string, form url.Values, change func(*http.Request)) response {
	b.s.t.Helper()
	r, err := http.NewRequest(http.MethodPost, b.s.srv.URL+path, strings.NewReader(form.Encode()))
	if err != nil {
		b.s.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Sec-Fetch-Site", "same-origin")
	r.Header.Set("Origin", b.s.srv.URL)
	if change != nil {
		change(r)
	}
	return b.do(r)
}

// code sends the form of the factor page.
func (b *browser) code(code string) response {
	b.s.t.Helper()
	return b.post("/login/factor", url.Values{"code": {code}}, nil)
}

// loginPath is the address that tsh opens.
const loginPath = "/login?challenge=abc&callback=http%3A%2F%2F127.0.0.1%3A40000%2Fcallback&state=xyz"

// identified returns a browser that is at the factor page.
func (s *testSite) identified(lang string) *browser {
	s.t.Helper()
	b := s.browser(lang)
	wantRedirect(s.t, b.get(loginPath), provider)
	wantRedirect(s.t, b.get("/login/callback/corp?state=st&code=co"), "/login/factor")
	return b
}

// checkPage checks what every page in every language has in common.
func checkPage(t *testing.T, a response) {
	t.Helper()
	root, err := html.Parse(strings.NewReader(a.body))
	if err != nil {
		t.Fatalf("%s: %v", a.Request.URL, err)
	}
	count, labels, ids := map[string]int{}, map[string]bool{}, map[string]bool{}
	var inputs []string
	for n := range root.Descendants() {
		if n.Type != html.ElementNode {
			continue
		}
		count[n.Data]++
		for _, at := range n.Attr {
			switch {
			case strings.HasPrefix(at.Key, "on") || at.Key == "style":
				t.Errorf("%s: element %s has attribute %s", a.Request.URL, n.Data, at.Key)
			case at.Key == "id":
				if ids[at.Val] {
					t.Errorf("%s: id %q twice", a.Request.URL, at.Val)
				}
				ids[at.Val] = true
			case n.Data == "label" && at.Key == "for":
				labels[at.Val] = true
			case n.Data == "html" && at.Key == "lang" && at.Val != a.Header.Get("Content-Language"):
				t.Errorf("%s: got lang %q, want %q", a.Request.URL, at.Val, a.Header.Get("Content-Language"))
			}
		}
		if n.Data == "input" && attribute(n, "type") != "hidden" {
			inputs = append(inputs, attribute(n, "id"))
		}
		if n.Data == "img" &&
			!slices.ContainsFunc(n.Attr, func(a html.Attribute) bool { return a.Key == "alt" }) {
			t.Errorf("%s: an image without alt", a.Request.URL)
		}
	}
	for _, id := range inputs {
		if !labels[id] {
			t.Errorf("%s: input %q has no label", a.Request.URL, id)
		}
	}
	for element, want := range map[string]int{
		"h1": 1, "main": 1, "title": 1, "script": 0, "style": 0, "iframe": 0,
	} {
		if count[element] != want {
			t.Errorf("%s: got %d elements %s, want %d", a.Request.URL, count[element], element, want)
		}
	}
	if key := missing.FindString(a.body); key != "" {
		t.Errorf("%s: the text %s is missing", a.Request.URL, key)
	}
	checkHeaders(t, a)
}

// missing matches what a page shows in place of a missing text.
var missing = regexp.MustCompile(`\[[a-z]+\.[a-z_-]+\]`)

func attribute(n *html.Node, key string) string {
	for _, a := range n.Attr {
		if a.Key == key {
			return a.Val
		}
	}
	return ""
}

// checkHeaders checks that an answer has all security headers and that its policy allows no script.
func checkHeaders(t *testing.T, answer response) {
	t.Helper()
	policy := answer.Header.Get("Content-Security-Policy")
	for _, want := range []string{
		"default-src 'none'", "frame-ancestors 'none'", "base-uri 'none'",
		"form-action 'self' http://127.0.0.1:*",
	} {
		if !strings.Contains(policy, want) {
			t.Errorf("%s: got policy %q, want %q in it", answer.Request.URL, policy, want)
		}
	}
	if strings.Contains(policy, "unsafe") || strings.Contains(policy, "script-src") {
		t.Errorf("got policy %q, want no script at all", policy)
	}
	for key, want := range map[string]string{
		"Strict-Transport-Security": "max-age=31536000",
		"X-Content-Type-Options":    "nosniff",
		"Referrer-Policy":           "same-origin",
		"X-Robots-Tag":              "noindex, nofollow",
		"Cache-Control":             "no-store",
		"X-Frame-Options":           "DENY",
	} {
		if got := answer.Header.Get(key); got != want {
			t.Errorf("%s: got %s %q, want %q", answer.Request.URL, key, got, want)
		}
	}
}

// wantPage checks the status, and that the page has the texts. Pages begin texts of errors with a capital.
func wantPage(t *testing.T, a response, status int, texts ...string) {
	t.Helper()
	if a.StatusCode != status {
		t.Errorf("%s: got status %d, want %d", a.Request.URL.Path, a.StatusCode, status)
	}
	for _, text := range texts {
		capital := strings.ToUpper(text[:1]) + text[1:]
		if !strings.Contains(a.body, text) && !strings.Contains(a.body, capital) {
			t.Errorf("%s: got no %q in:\n%s", a.Request.URL.Path, text, a.body)
		}
	}
}

func wantRedirect(t *testing.T, a response, to string) {
	t.Helper()
	if got := a.Header.Get("Location"); a.StatusCode != http.StatusSeeOther || got != to {
		t.Fatalf("%s: got %d to %q, want a redirect to %q:\n%s",
			a.Request.URL.Path, a.StatusCode, got, to, a.body)
	}
}

func TestTheChosenLanguageIsPassedToTsh(t *testing.T) {
	t.Parallel()
	s := newTestSite(t)
	b := s.identified("en")
	b.get("/login/factor?lang=ko")
	to, err := url.Parse(b.code(goodCode).Header.Get("Location"))
	if err != nil || to.Query().Get("lang") != "ko" || to.Host != "127.0.0.1:40000" {
		t.Errorf("got %v, %v, want tsh's address in Korean", to, err)
	}
}

// A user with a second factor logs in. Reloads and wrong codes change nothing, the right code redirects to
// tsh, and the cookies are gone afterwards.
func TestLoginRedirectsToTsh(t *testing.T) {
	t.Parallel()
	site := newTestSite(t)
	client := site.identified("en")
	answer := client.get("/login/factor")
	wantPage(t, answer, 200, "Signed in as alice@example.com",
		`name="code"`, `inputmode="numeric"`, `autocomplete="one-time-code"`, "autofocus")
	if strings.Contains(answer.body, `id="secret"`) {
		t.Error("got a secret on a page without enrolment")
	}
	wantPage(t, client.get("/login/factor"), 200, "alice@example.com") // a reload changes nothing
	wantPage(t, client.code("000000"), 403, "the code is wrong or was used already", "wait for the next code",
		`id="error"`, `role="alert"`, `name="code"`)
	wantPage(t, client.code("999999"), 429, "too many wrong codes", `name="code"`)
	wantPage(t, client.code("  "), 400, "six digits")
	wantPage(t, client.code(strings.Repeat("1", 65)), 400, "six digits")
	wantRedirect(t, client.code(" "+goodCode+" "), callback)
	wantPage(t, client.get("/login/factor"), 410, "tsh login") // the cookies are gone
	got := site.began[0]
	if got.PublicOrigin != site.srv.URL || got.From.String() != "127.0.0.1" {
		t.Errorf("got begun with %+v, want this origin and address", got)
	}
	if got.Challenge != "abc" || got.State != "xyz" {
		t.Errorf("got begun with %+v, want the challenge and the state of the link", got)
	}
}

func TestEnrolmentShowsSecretAndRecoveryCodes(t *testing.T) {
	t.Parallel()
	s := newTestSite(t)
	s.enrol = true
	for i := range 10 {
		s.codes = append(s.codes, "code-"+string(rune('a'+i)))
	}
	b := s.identified("en")
	for range 2 { // a reload shows it again
		wantPage(t, b.get("/login/factor"), 200, `<code id="secret">JBSW Y3DP`, `src="data:image/png;base64,`)
	}
	wantPage(t, b.code("000000"), 403, `id="secret"`, "wrong")
	a := b.code(goodCode)
	wantPage(t, a, 200, `id="continue"`, "<code>code-a</code>", "<code>code-j</code>",
		`href="http://127.0.0.1:40000/callback?code=one-time&amp;state=abc"`)
	wantPage(t, b.code(goodCode), 410, "tsh login")
}

func TestRecoveryCodeFieldTakesLetters(t *testing.T) {
	t.Parallel()
	s := newTestSite(t)
	b := s.identified("en")
	wantPage(t, b.get("/login/factor?with=recovery"), 200, `inputmode="text"`, "Recovery code")
	a := b.post("/login/factor", url.Values{"code": {"x"}, "with": {"recovery"}}, nil)
	wantPage(t, a, 403, `inputmode="text"`)
}

func TestChooserKeepsTheWholeRequest(t *testing.T) {
	t.Parallel()
	s := newTestSite(t)
	s.connectors = []authrpc.Connector{{Name: "corp", DisplayName: "Corp & Co"}, {Name: "partner"}}
	b := s.browser("en")
	a := b.get(loginPath)
	wantPage(t, a, 200, "Corp &amp; Co", "partner", "connector=corp", "challenge=abc")
	wantRedirect(t, b.get(loginPath+"&connector=partner"), provider)
}

func TestCookiesAreStrict(t *testing.T) {
	t.Parallel()
	s := newTestSite(t)
	b := s.browser("en")
	for _, path := range []string{loginPath, "/login/callback/corp?state=st&code=co", "/?lang=ko"} {
		for _, c := range b.get(path).Cookies() {
			strict := c.Secure && c.HttpOnly && c.Path == "/" && c.Domain == "" &&
				c.SameSite == http.SameSiteLaxMode
			if !strings.HasPrefix(c.Name, "__Host-threshold-") || !strict {
				t.Errorf("%s: got cookie %s, want a strict one", path, c)
			}
			if strings.Contains(c.Value, "alice") || strings.Contains(c.Value, secret) {
				t.Errorf("%s: got a readable cookie %s", path, c)
			}
		}
	}
}

// Cookies that are missing or of another login end the login with the advice to start again. No code is
// accepted with them.
func TestForeignAndMissingCookies(t *testing.T) {
	t.Parallel()
	site := newTestSite(t)
	u, _ := url.Parse(site.srv.URL)
	for name, value := range map[string]string{
		"another attempt": "somebody-else",
		"no attempt":      "",
		"too large":       strings.Repeat("x", 5000),
	} {
		b := site.identified("en")
		b.http.Jar.SetCookies(u, []*http.Cookie{
			{Name: "__Host-threshold-login", Value: value, Path: "/", Secure: true},
		})
		wantPage(t, b.get("/login/factor"), 410, "tsh login")
		if answer := b.code(goodCode); answer.StatusCode != http.StatusGone {
			t.Errorf("%s: got %d for the code, want it refused", name, answer.StatusCode)
		}
	}
	b := site.browser("en")
	wantPage(t, b.get("/login/callback/corp?state=st&code=co"), 410, "no login in progress", "tsh login")
	wantPage(t, b.get("/login/factor"), 410, "tsh login")
	wantPage(t, b.code(goodCode), 410, "tsh login")
}

// A newer auth service may offer kinds of factors for which this proxy has no form.
func TestUnknownKindsOfFactors(t *testing.T) {
	t.Parallel()
	site := newTestSite(t)
	site.otherChallenges = []authrpc.FactorChallenge{{Kind: "future", Body: json.RawMessage(`{"x":1}`)}}
	client := site.identified("en")
	wantPage(t, client.get("/login/factor"), 200, `name="kind" value="totp"`)
	wantRedirect(t, client.post("/login/factor", url.Values{
		"code": {goodCode},
		"kind": {authrpc.TOTP},
	}, nil), callback)

	client = site.identified("en")
	form := url.Values{"code": {goodCode}, "kind": {"future"}}
	wantPage(t, client.post("/login/factor", form, nil), 400, "no such factor")
	show := func(authrpc.ShowFactorRequest) (authrpc.ShowFactorResponse, error) {
		return authrpc.ShowFactorResponse{Name: "alice", Challenges: site.otherChallenges}, nil
	}
	clustertest.Answer(site.Cluster, authrpc.ShowFactor, show)
	wantPage(t, client.get("/login/factor"), 503, "no form for this second factor: future",
		"update the proxy")
}

func TestTheProvidersRefusalIsShown(t *testing.T) {
	t.Parallel()
	s := newTestSite(t)
	b := s.browser("en")
	b.get(loginPath)
	wantPage(t, b.get("/login/callback/corp?error=access_denied&state=st"), 403,
		"the provider did not sign you in: access_denied", "tsh login")
	wantPage(t, b.get("/login/callback/corp?state=forged&code=co"), 403, "belongs to another login")
}

// A form from another site, or from our name over http, is refused. A form of our own page is accepted even
// with "Origin: null".
func TestOtherSitesCannotPost(t *testing.T) {
	t.Parallel()
	site := newTestSite(t)
	client := site.identified("en")
	for name, change := range map[string]func(*http.Request){
		"cross-site": func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "cross-site") },
		"same-site":  func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "same-site") },
		"another origin": func(r *http.Request) {
			r.Header.Del("Sec-Fetch-Site")
			r.Header.Set("Origin", "https://evil.example.com")
		},
		"our name over http": func(r *http.Request) {
			r.Header.Del("Sec-Fetch-Site")
			r.Header.Set("Origin", strings.Replace(site.srv.URL, "https:", "http:", 1))
		},
		"no origin": func(r *http.Request) { r.Header.Del("Sec-Fetch-Site"); r.Header.Set("Origin", "null") },
	} {
		answer := client.post("/login/factor", url.Values{"code": {goodCode}}, change)
		if answer.StatusCode != http.StatusForbidden {
			t.Errorf("%s: got %d, want it refused", name, answer.StatusCode)
		}
	}
	// Chromium sends this with a form of our own page when the referrer policy is no-referrer.
	own := func(r *http.Request) {
		r.Header.Set("Sec-Fetch-Site", "same-origin")
		r.Header.Set("Origin", "null")
	}
	wantRedirect(t, client.post("/login/factor", url.Values{"code": {goodCode}}, own), callback)
}

// A login that another site opens in the same browser replaces the cookies. A code from the page of the
// user's own login is not used for it.
func TestACodeIsForTheLoginOfItsPage(t *testing.T) {
	t.Parallel()
	site := newTestSite(t)
	mine, logins := "", 0
	finish := func(authrpc.FinishOIDCRequest) (authrpc.FinishOIDCResponse, error) {
		logins++
		return authrpc.FinishOIDCResponse{
			Attempt: strings.Repeat("identified ", logins),
			Expires: site.now.Add(time.Minute),
		}, nil
	}
	clustertest.Answer(site.Cluster, authrpc.FinishOIDC, finish)
	show := func(authrpc.ShowFactorRequest) (authrpc.ShowFactorResponse, error) {
		return site.show(authrpc.ShowFactorRequest{Attempt: "identified"})
	}
	clustertest.Answer(site.Cluster, authrpc.ShowFactor, show)
	proved := 0
	prove := func(authrpc.ProveFactorRequest) (authrpc.ProveFactorResponse, error) {
		proved++
		return authrpc.ProveFactorResponse{Redirect: callback}, nil
	}
	clustertest.Answer(site.Cluster, authrpc.ProveFactor, prove)
	client := site.identified("en")
	field := regexp.MustCompile(`name="attempt" value="([^"]+)"`)
	page := client.get("/login/factor")
	if m := field.FindStringSubmatch(page.body); m != nil {
		mine = m[1]
	}
	if mine == "" || strings.Contains(page.body, "identified") {
		t.Fatalf("got %s, want the form to identify its login and not to reveal it", page.body)
	}
	client.get(loginPath)
	client.get("/login/callback/corp?state=st&code=co")
	answer := client.post("/login/factor", url.Values{"code": {goodCode}, "attempt": {mine}}, nil)
	wantPage(t, answer, 410, "belongs to another login", "tsh login")
	if proved != 0 {
		t.Error("the code was used for another login")
	}
	second := field.FindStringSubmatch(client.get("/login/factor").body)[1]
	answer = client.post("/login/factor", url.Values{"code": {goodCode}, "attempt": {second}}, nil)
	wantRedirect(t, answer, callback)
	if proved != 1 {
		t.Errorf("got %d codes checked, want the one of the page's own login", proved)
	}
}

// A browser cannot choose its address by a header. The provider is told a language only if the user chose
// it on our pages.
func TestForwardedHeadersFromBrowsersAreIgnored(t *testing.T) {
	t.Parallel()
	site := newTestSite(t)
	client := site.browser("ko")
	for _, path := range []string{loginPath, loginPath + "&lang=ko", loginPath} {
		r, err := http.NewRequest(http.MethodGet, site.srv.URL+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, h := range []string{"X-Forwarded-For", "X-Real-Ip", "Forwarded", "True-Client-Ip"} {
			r.Header.Set(h, "for=192.0.2.66")
		}
		client.do(r)
	}
	for i, want := range []string{"", "ko", "ko"} {
		if got := site.began[i]; got.From.String() != "127.0.0.1" || got.Locale != want ||
			got.PublicOrigin != site.srv.URL {
			t.Errorf("%d: got %+v, want it from 127.0.0.1 with locale %q", i, got, want)
		}
	}
}

// The errors of the proxy's own client name internal addresses.
func TestErrorPagesDoNotRevealTheAuthAddress(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln.Close() // connections are refused
	auth := authrpc.NewClient(ln.Addr().String(), &tls.Config{MinVersion: tls.VersionTLS13})
	defer auth.Close()
	pages := web.New(web.Config{
		Auth:    auth,
		Public:  []string{"proxy.example.com"},
		Cluster: clustertest.Name,
		Log:     proxytest.Log(),
	})
	w := httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodGet, "https://proxy.example.com"+loginPath, nil)
	pages.Handler().ServeHTTP(w, r)
	body := w.Body.String()
	if w.Code != 503 || !strings.Contains(body, "The auth service does not answer this proxy") {
		t.Errorf("got %d %s, want an error page", w.Code, body)
	}
	if strings.Contains(body, ln.Addr().String()) {
		t.Errorf("got the address of the auth service in:\n%s", body)
	}
}

func TestUnknownHostNamesAreRefused(t *testing.T) {
	t.Parallel()
	s := newTestSite(t)
	b := s.browser("en")
	for host, want := range map[string]int{
		"proxy.example.com":      200,
		"PROXY.example.com:443":  200,
		"evil.example.com":       421,
		"proxy.example.com:8443": 421,
		"proxy.example.com.":     421,
	} {
		r, _ := http.NewRequest(http.MethodGet, s.srv.URL+"/", nil)
		r.Host = host
		r.Header.Set("X-Forwarded-Host", "proxy.example.com")
		if a := b.do(r); a.StatusCode != want || strings.Contains(a.body, "evil") {
			t.Errorf("%s: got %d, want %d", host, a.StatusCode, want)
		}
	}
}

func TestNoOpenRedirect(t *testing.T) {
	t.Parallel()
	for _, to := range []string{
		"https://evil.example.com/", "http://127.0.0.1.evil.example.com/", "http://192.0.2.7/",
		"//evil.example.com", "javascript:alert(1)", "http://user@127.0.0.1:1/", "http://localhost:1/", "",
	} {
		s := newTestSite(t)
		s.redirect = to
		a := s.identified("en").code(goodCode)
		if a.StatusCode != http.StatusInternalServerError || a.Header.Get("Location") != "" ||
			to != "" && strings.Contains(a.body, to) {
			t.Errorf("%q: got %d to %q, want an error page", to, a.StatusCode, a.Header.Get("Location"))
		}
	}
	s := newTestSite(t)
	s.redirect = "http://[::1]:4000/callback?code=x" // loopback, but the policy cannot name it
	wantPage(t, s.identified("en").code(goodCode), 200, `id="continue"`, "http://[::1]:4000/callback?code=x")
}

func TestTheProviderURLIsChecked(t *testing.T) {
	t.Parallel()
	for to, ok := range map[string]bool{
		"https://id.example.com/x":   true,
		"http://127.0.0.1:5556/auth": true,
		"http://id.example.com/":     false,
		"javascript:alert(1)":        false,
		"/":                          false,
	} {
		s := newTestSite(t)
		begin := func(authrpc.BeginLoginRequest) (authrpc.BeginLoginResponse, error) {
			return authrpc.BeginLoginResponse{Attempt: "begun", Redirect: to}, nil
		}
		clustertest.Answer(s.Cluster, authrpc.BeginLogin, begin)
		if a := s.browser("en").get(loginPath); (a.Header.Get("Location") == to) != ok {
			t.Errorf("%q: got %d to %q, want ok %v", to, a.StatusCode, a.Header.Get("Location"), ok)
		}
	}
}

func TestBadRequests(t *testing.T) {
	t.Parallel()
	s := newTestSite(t)
	b := s.browser("en")
	wantPage(t, b.get("/login"), 400, "a login must be started in the terminal", "tsh login")
	wantPage(t, b.get("/login?challenge=a&challenge=b"), 400, "the login address is not valid")
	wantPage(t, b.get("/login?challenge="+strings.Repeat("a", 3000)), 400, "the login address is not valid")
	wantPage(t, b.get("/nothing"), 404, "no such page")
	if a := b.get("/assets/text.go"); a.StatusCode != 404 {
		t.Errorf("got %d for a missing file, want 404", a.StatusCode)
	}
	b = s.identified("en")
	wantPage(t, b.code(strings.Repeat("1", 20<<10)), 400, "could not be read")
	s.SetDown(true)
	wantPage(t, b.code(goodCode), 503, "the auth service is down")
	wantPage(t, b.get(loginPath), 503, "the auth service is down")
}

// Every page is in the language that the browser prefers, English or Korean, and links to the other.
func TestBothLanguages(t *testing.T) {
	t.Parallel()
	for lang, want := range map[string]string{
		"en-GB,en;q=0.8":           "en",
		"ko-KR,ko;q=0.9,en;q=0.5":  "ko",
		"fr":                       "en",
		"":                         "en",
		"fr;q=0.9,ko;q=0.5":        "ko",
		strings.Repeat("ko,", 200): "en",
	} {
		site := newTestSite(t)
		site.enrol, site.codes = true, []string{"one", "two"}
		site.connectors = []authrpc.Connector{{Name: "a"}, {Name: "b"}}
		client := site.browser(lang)
		pages := []response{
			client.get("/"),
			client.get(loginPath),
			client.get("/nothing"),
			client.get("/login"),
		}
		site.connectors = nil
		client = site.identified(lang)
		pages = append(pages, client.get("/login/factor"), client.code("0"), client.code(goodCode))
		site.enrol = false
		client = site.identified(lang)
		pages = append(pages, client.get("/login/factor"), client.get("/login/factor?with=recovery"))
		for _, a := range pages {
			if got := a.Header.Get("Content-Language"); got != want {
				t.Errorf("%q: %s: got %q, want %q", lang, a.Request.URL.Path, got, want)
			}
			hangul := func(r rune) bool { return r >= '가' && r <= '힣' }
			if !strings.ContainsFunc(a.body, hangul) {
				t.Errorf("%s: got no Korean, not even the link to it", a.Request.URL.Path)
			}
		}
	}
}

func TestTheChosenLanguageSurvivesTheProvider(t *testing.T) {
	t.Parallel()
	s := newTestSite(t)
	b := s.browser("en")
	b.get(loginPath + "&lang=ko")
	b.get("/?lang=ko")
	if got := b.get("/").Header.Get("Content-Language"); got != "ko" {
		t.Errorf("got %q, want the language that was chosen", got)
	}
	if got := b.get("/?lang=xx").Header.Get("Content-Language"); got != "ko" {
		t.Errorf("got %q, want an unknown one ignored", got)
	}
}

// The ping document, the style sheet, the icon and robots.txt are served with their content types.
func TestPingAssetsAndRobots(t *testing.T) {
	t.Parallel()
	site := newTestSite(t)
	client := site.browser("en")
	answer := client.get(dial.PingPath)
	var ping dial.Ping
	if err := json.Unmarshal([]byte(answer.body), &ping); err != nil {
		t.Fatal(err)
	}
	if ping.Pin != site.Pin() || ping.Cluster != clustertest.Name || ping.Version != "v1" || ping.V != 1 {
		t.Errorf("got %+v, want this cluster's", ping)
	}
	answer = client.get("/assets/style.css")
	if answer.Header.Get("Content-Type") != "text/css; charset=utf-8" {
		t.Errorf("got %q, want the style sheet", answer.Header.Get("Content-Type"))
	}
	wantPage(t, answer, 200, "prefers-color-scheme: dark")
	if answer := client.get("/assets/icon.svg"); answer.Header.Get("Content-Type") != "image/svg+xml" {
		t.Errorf("got %q, want the icon", answer.Header.Get("Content-Type"))
	}
	wantPage(t, client.get("/robots.txt"), 200, "Disallow: /")
}

// Texts from the auth service and from providers are escaped.
func TestTextFromAuthIsEscaped(t *testing.T) {
	t.Parallel()
	s := newTestSite(t)
	b := s.browser("en")
	b.get(loginPath)
	a := b.get("/login/callback/corp?state=st&error=" + url.QueryEscape(`<script>alert(1)</script>`))
	if strings.Contains(a.body, "<script") {
		t.Errorf("got markup from a parameter:\n%s", a.body)
	}
	wantPage(t, a, 403, "&lt;script&gt;")
}
