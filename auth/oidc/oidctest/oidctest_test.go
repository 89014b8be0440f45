package oidctest_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/threshold-access/threshold/auth/oidc/oidctest"
)

func newProvider(t *testing.T, now *time.Time) *oidctest.Provider {
	t.Helper()
	p, err := oidctest.New(oidctest.Config{
		Issuer: "http://127.0.0.1:5556/idp", Alg: "ES256", Now: func() time.Time { return *now },
		Clients: []oidctest.Client{
			{ID: "c", Secret: "s", Redirects: []string{"https://proxy.example/login/callback"}},
		},
		Users: []oidctest.User{{Email: "alice@example.com", Password: "wonderland"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func authorizeURL(change map[string]string) string {
	q := url.Values{
		"client_id":             {"c"},
		"redirect_uri":          {"https://proxy.example/login/callback"},
		"response_type":         {"code"},
		"scope":                 {"openid"},
		"code_challenge_method": {"S256"},
		"code_challenge":        {strings.Repeat("a", 43)},
		"state":                 {"st"},
	}
	for k, v := range change {
		q.Set(k, v)
	}
	return "/idp/authorize?" + q.Encode()
}

func request(p http.Handler, method, address, body, lang string) *http.Response {
	r := httptest.NewRequest(method, address, strings.NewReader(body))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Accept-Language", lang)
	w := httptest.NewRecorder()
	p.ServeHTTP(w, r)
	return w.Result()
}

func readBody(t *testing.T, r *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// The page is in the browser's language if there is a translation, and its policy allows no script and no
// inline style.
func TestLoginPageLanguage(t *testing.T) {
	t.Parallel()
	now := time.Now()
	p := newProvider(t, &now)
	for lang, want := range map[string]string{
		"ko-KR,ko;q=0.9,en;q=0.5": `<html lang="ko">`,
		"de":                      `<html lang="en">`,
		"":                        `<html lang="en">`,
	} {
		r := request(p, http.MethodGet, authorizeURL(nil), "", lang)
		body := readBody(t, r)
		if !strings.Contains(body, want) || strings.Contains(body, "<script") ||
			strings.Contains(body, " style=") {
			t.Errorf("%q: got %s, want %s and nothing inline", lang, body, want)
		}
		if csp := r.Header.Get("Content-Security-Policy"); !strings.Contains(csp, "default-src 'none'") ||
			!strings.Contains(csp, "form-action 'self' https://proxy.example") {
			t.Errorf("got policy %q, want nothing but style and the form", csp)
		}
	}
	if r := request(p, http.MethodGet, "/idp/style.css", "", ""); r.StatusCode != http.StatusOK ||
		!strings.HasPrefix(r.Header.Get("Content-Type"), "text/css") {
		t.Errorf("got %s for the style sheet, want it", r.Status)
	}
}

func TestInvalidAuthorizationRequestsAreNotRedirected(t *testing.T) {
	t.Parallel()
	now := time.Now()
	p := newProvider(t, &now)
	const form = "login=alice@example.com&password=wonderland"
	for _, change := range []map[string]string{
		{"client_id": "x"},
		{"redirect_uri": "https://evil.example/"},
		{"code_challenge_method": "plain"},
		{"code_challenge": ""},
		{"response_type": "token"},
		{"scope": "email"},
	} {
		r := request(p, http.MethodPost, authorizeURL(change), form, "")
		if r.StatusCode != http.StatusBadRequest || r.Header.Get("Location") != "" {
			t.Errorf("%v: got %s to %q, want it refused", change, r.Status, r.Header.Get("Location"))
		}
	}
}

// Five wrong passwords lock the login, in whatever spelling, for thirty seconds.
func TestWrongPasswordsLockALogin(t *testing.T) {
	t.Parallel()
	now := time.Now()
	p := newProvider(t, &now)
	right, wrong := "login=Alice@example.com&password=wonderland", "login=alice@example.com+&password=x"
	logIn := func(form string) *http.Response {
		return request(p, http.MethodPost, authorizeURL(nil), form, "")
	}
	for i := range 5 {
		if r := logIn(wrong); r.StatusCode != http.StatusUnauthorized {
			t.Fatalf("attempt %d: got %s, want unauthorized", i+1, r.Status)
		}
	}
	if r := logIn(right); r.StatusCode != http.StatusTooManyRequests {
		t.Errorf("got %s after five wrong passwords, want the login locked", r.Status)
	}
	now = now.Add(31 * time.Second)
	r := logIn(right)
	if r.StatusCode != http.StatusSeeOther || !strings.Contains(r.Header.Get("Location"), "state=st") {
		t.Errorf("got %s to %q after the lock, want a code", r.Status, r.Header.Get("Location"))
	}
}

func TestUnknownLoginsAreAnsweredLikeWrongPasswords(t *testing.T) {
	t.Parallel()
	now := time.Now()
	p := newProvider(t, &now)
	page := func(login string) string {
		form := "login=" + login + "&password=x"
		body := readBody(t, request(p, http.MethodPost, authorizeURL(nil), form, ""))
		return strings.ReplaceAll(body, login, "LOGIN")
	}
	if unknown, known := page("x@example.com"), page("alice@example.com"); unknown != known {
		t.Errorf("got %s and %s, want the same page", unknown, known)
	}
}
