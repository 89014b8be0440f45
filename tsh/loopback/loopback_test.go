package loopback

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/threshold-access/threshold/internal/fault"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const state = "secret"

// get requests the address with a browser that prefers the language, and returns the status and the page.
func get(t *testing.T, method, addr, lang string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, addr, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept-Language", lang)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// start listens and waits in a goroutine for the answer.
func start(t *testing.T, ctx context.Context) (l *Listener, answers <-chan callbackResult) {
	t.Helper()
	l, err := Listen(state)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan callbackResult, 1)
	go func() {
		code, err := l.Wait(ctx)
		done <- callbackResult{code, err}
	}()
	return l, done
}

// Requests with a wrong state, path, method or host name are refused, and the login goes on until the right
// one.
func TestOnlyTheFirstAnswerWithTheStateCounts(t *testing.T) {
	t.Parallel()
	l, answers := start(t, t.Context())
	good := l.URL() + "?" + url.Values{"state": {state}, "code": {"c1"}}.Encode()
	other := strings.Replace(good, callbackPath, "/other", 1)
	for name, tt := range map[string]struct {
		method, addr string
		status       int
	}{
		"no state":       {http.MethodGet, l.URL() + "?code=x", http.StatusForbidden},
		"a wrong state":  {http.MethodGet, l.URL() + "?code=x&state=guess", http.StatusForbidden},
		"another path":   {http.MethodGet, other, http.StatusNotFound},
		"another method": {http.MethodPost, good, http.StatusMethodNotAllowed},
	} {
		if status, body := get(t, tt.method, tt.addr, "en"); status != tt.status {
			t.Errorf("%s: got %d %q, want %d", name, status, body, tt.status)
		}
	}
	r := httptest.NewRequest(http.MethodGet, good, nil)
	r.Host = "evil.example" // a name that an attacker points to 127.0.0.1
	w := httptest.NewRecorder()
	if l.ServeHTTP(w, r); w.Code != http.StatusNotFound {
		t.Errorf("another host name: got %d, want 404", w.Code)
	}
	if status, body := get(t, http.MethodGet, good, "ko"); status != http.StatusOK ||
		!strings.Contains(body, "터미널로 돌아가세요") {
		t.Errorf("got %d %q, want the Korean page", status, body)
	}
	if got := <-answers; got.code != "c1" || got.err != nil {
		t.Errorf("got %q (%v), want the code", got.code, got.err)
	}
}

// A callback after the first gets a page that says so, and does not replace the result.
func TestASecondAnswerIsRefused(t *testing.T) {
	t.Parallel()
	l, err := Listen(state)
	if err != nil {
		t.Fatal(err)
	}
	l.result <- callbackResult{code: "first"} // as if the first answer had just arrived
	srv := &http.Server{Handler: l}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(l.listener) }()
	defer func() { _ = srv.Close(); <-done }()
	second := l.URL() + "?" + url.Values{"state": {state}, "code": {"second"}}.Encode()
	for lang, want := range map[string]string{"en": "already received an answer", "ko": "이미 응답을 받았습니다"} {
		if status, body := get(t, http.MethodGet, second, lang); status != http.StatusConflict ||
			!strings.Contains(body, want) {
			t.Errorf("%s: got %d %q, want 409 and %q", lang, status, body, want)
		}
	}
	if got := <-l.result; got.code != "first" {
		t.Errorf("got %q, want the first answer", got.code)
	}
}

func TestAnswersWithoutACode(t *testing.T) {
	t.Parallel()
	for query, want := range map[string]fault.Kind{
		"error=access_denied":               fault.Denied,
		"":                                  fault.Invalid,
		"code=" + strings.Repeat("x", 2000): fault.Invalid,
	} {
		l, answers := start(t, t.Context())
		status, body := get(t, http.MethodGet, l.URL()+"?state="+state+"&"+query, "en")
		if status != http.StatusOK || !strings.Contains(body, "not completed") {
			t.Errorf("%.20q: got %d %q, want the page for a failed login", query, status, body)
		}
		if got := <-answers; !fault.Is(got.err, want) || fault.Remedy(got.err) == "" {
			t.Errorf("%.20q: got %q (%v), want %s with a remedy", query, got.code, got.err, want)
		}
	}
}

func TestWaitEndsWithItsContext(t *testing.T) {
	t.Parallel()
	cause := errors.New("too late")
	ctx, cancel := context.WithCancelCause(t.Context())
	_, answers := start(t, ctx)
	cancel(cause)
	if got := <-answers; !errors.Is(got.err, cause) {
		t.Errorf("got %q (%v), want the cause", got.code, got.err)
	}
}
