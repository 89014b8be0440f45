package web_test

import (
	"html"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
)

const headlessPath = "/login/headless?handle=sealed"

// headlessSite is a site whose auth knows one headless login.
func headlessSite(t *testing.T) *testSite {
	s := newTestSite(t)
	who := &authrpc.Headless{From: "203.0.113.9", Code: "WDJB-MJHT", Expires: s.now.Add(10 * time.Minute)}
	begin, finish, prove := s.Begin, s.Finish, s.Prove
	s.Begin = func(r authrpc.BeginLoginRequest) (authrpc.BeginLoginResponse, error) {
		switch {
		case r.Handle != "sealed":
			return authrpc.BeginLoginResponse{}, fault.New(
				fault.Expired,
				"login",
				"this page has ended",
				"run: tsh login",
			)
		case !r.Confirmed:
			return authrpc.BeginLoginResponse{Headless: who}, nil
		}
		return begin(r)
	}
	s.Finish = func(r authrpc.FinishOIDCRequest) (authrpc.FinishOIDCResponse, error) {
		res, err := finish(r)
		res.Headless = who
		return res, err
	}
	s.to = ""
	s.Prove = prove
	return s
}

func TestAHeadlessLoginIsConfirmedAndApproved(t *testing.T) {
	for lang, done := range map[string]string{"en": "goes on by itself", "ko": "이어집니다"} {
		s := headlessSite(t)
		s.codes = []string{"code-a"}
		b := s.browser(lang)
		a := b.get(headlessPath)
		wantPage(t, a, 200, "203.0.113.9", "WDJB-MJHT", `id="continue"`, "go=1")
		if a := b.get(headlessPath + "&go=1"); a.StatusCode != http.StatusSeeOther ||
			a.Header.Get("Location") != provider {
			t.Fatalf(
				"%s: got %d to %q: %s, want the provider",
				lang,
				a.StatusCode,
				a.Header.Get("Location"),
				a.body,
			)
		}
		b.get("/login/callback/corp?state=st&code=co")
		wantPage(t, b.get("/login/factor"), 200, "203.0.113.9", "WDJB-MJHT", `name="code"`)
		wantPage(t, b.code("000000"), 403, "WDJB-MJHT", `id="error"`)
		wantPage(t, b.code(goodCode), 200, "203.0.113.9", done, "code-a")
		wantPage(t, b.get("/login/factor"), 410, "tsh login") // the cookies are gone
	}
}

// A link, or another site, cannot skip the page that says who asks.
func TestTheConfirmationPageCannotBeSkipped(t *testing.T) {
	s := headlessSite(t)
	wantPage(
		t,
		s.browser("en").get(headlessPath+"&go=1"),
		200,
		"WDJB-MJHT",
	) // a link straight to the provider
	b := s.browser("en")
	b.get(headlessPath)
	r, err := http.NewRequest(http.MethodGet, s.srv.URL+headlessPath+"&go=1", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Sec-Fetch-Site", "cross-site")
	wantPage(t, b.do(r), 200, "WDJB-MJHT")
	if a := b.get(headlessPath + "&go=1"); a.StatusCode != http.StatusSeeOther {
		t.Errorf("got %d from the page itself, want the provider", a.StatusCode)
	}
}

// Who prefers another language reads the same question in it.
func TestTheConfirmationPageIsTranslated(t *testing.T) {
	s := headlessSite(t)
	b := s.browser("en")
	a := b.get(headlessPath)
	link := regexp.MustCompile(`href="([^"]*lang=ko[^"]*)"`).FindStringSubmatch(a.body)
	if link == nil {
		t.Fatalf("got no link to Korean in:\n%s", a.body)
	}
	a = b.get(html.UnescapeString(link[1]))
	wantPage(t, a, 200, "203.0.113.9", "WDJB-MJHT", `id="continue"`)
	if got := a.Header.Get("Content-Language"); got != "ko" {
		t.Errorf("got the question in %q, want ko", got)
	}
}

func TestHeadlessLinksThatAreRefused(t *testing.T) {
	s := headlessSite(t)
	b := s.browser("en")
	wantPage(t, b.get("/login/headless"), 400, "begins in the terminal")
	wantPage(t, b.get(headlessPath+"&handle=other"), 400, "damaged")
	wantPage(t, b.get("/login/headless?handle="+strings.Repeat("x", 3000)), 400, "damaged")
	wantPage(t, b.get("/login/headless?handle=old"), 410, "this page has ended")
}
