package web_test

import (
	"html"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/clustertest"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/fault/faulttest"
)

// headlessPath is the link that tsh shows.
const headlessPath = "/login/headless?handle=sealed"

// headlessSite is a testSite whose auth service knows one headless login.
func headlessSite(t *testing.T) *testSite {
	site := newTestSite(t)
	machine := &authrpc.Headless{
		Host:    "build-1",
		From:    "203.0.113.9",
		Code:    "WDJB-MJHT",
		Expires: site.now.Add(10 * time.Minute),
	}
	begin := func(r authrpc.BeginLoginRequest) (authrpc.BeginLoginResponse, error) {
		switch {
		case r.Handle != "sealed":
			return authrpc.BeginLoginResponse{}, faulttest.New(fault.Expired, "login",
				"this page has expired", "run: tsh login")
		case !r.Confirmed:
			return authrpc.BeginLoginResponse{Headless: machine}, nil
		}
		return site.begin(r)
	}
	clustertest.Answer(site.Cluster, authrpc.BeginLogin, begin)
	site.headless = machine
	site.redirect = ""
	return site
}

func TestAHeadlessLoginIsConfirmedAndApproved(t *testing.T) {
	t.Parallel()
	for lang, done := range map[string]string{"en": "the login continues", "ko": "이어집니다"} {
		s := headlessSite(t)
		s.codes = []string{"code-a"}
		b := s.browser(lang)
		a := b.get(headlessPath)
		wantPage(t, a, 200, "203.0.113.9", "build-1", "WDJB-MJHT", `id="continue"`, "go=1")
		wantRedirect(t, b.get(headlessPath+"&go=1"), provider)
		b.get("/login/callback/corp?state=st&code=co")
		wantPage(t, b.get("/login/factor"), 200, "203.0.113.9", "WDJB-MJHT", `name="code"`)
		wantPage(t, b.code("000000"), 403, "WDJB-MJHT", `id="error"`)
		wantPage(t, b.code(goodCode), 200, "203.0.113.9", done, "code-a")
		wantPage(t, b.get("/login/factor"), 410, "tsh login") // the cookies are gone
	}
}

// Neither a link nor another site can skip the page that asks the user.
func TestTheConfirmationPageCannotBeSkipped(t *testing.T) {
	t.Parallel()
	s := headlessSite(t)
	wantPage(t, s.browser("en").get(headlessPath+"&go=1"), 200, "WDJB-MJHT") // without the cookie
	b := s.browser("en")
	b.get(headlessPath)
	r, err := http.NewRequest(http.MethodGet, s.srv.URL+headlessPath+"&go=1", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Sec-Fetch-Site", "cross-site")
	wantPage(t, b.do(r), 200, "WDJB-MJHT")
	wantRedirect(t, b.get(headlessPath+"&go=1"), provider)
}

// A confirmation is for one login: it does not confirm another link that is opened later.
func TestTheConfirmationIsForOneLogin(t *testing.T) {
	t.Parallel()
	s := headlessSite(t)
	b := s.browser("en")
	b.get(headlessPath)
	var other authrpc.BeginLoginRequest
	begin := func(r authrpc.BeginLoginRequest) (authrpc.BeginLoginResponse, error) {
		other = r
		return authrpc.BeginLoginResponse{Headless: &authrpc.Headless{From: "203.0.113.10"}}, nil
	}
	clustertest.Answer(s.Cluster, authrpc.BeginLogin, begin)
	wantPage(t, b.get("/login/headless?handle=other&go=1"), 200, "203.0.113.10", `id="continue"`)
	if other.Handle != "other" || other.Confirmed {
		t.Errorf("got %+v, want the other login without a confirmation", other)
	}
}

// The link to the other language leads to the same question.
func TestTheConfirmationPageIsTranslated(t *testing.T) {
	t.Parallel()
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
	t.Parallel()
	s := headlessSite(t)
	b := s.browser("en")
	wantPage(t, b.get("/login/headless"), 400, "must be started in the terminal")
	wantPage(t, b.get(headlessPath+"&handle=other"), 400, "the login address is not valid")
	long := strings.Repeat("x", 3000)
	wantPage(t, b.get("/login/headless?handle="+long), 400, "the login address is not valid")
	wantPage(t, b.get("/login/headless?handle=old"), 410, "this page has expired")
}
