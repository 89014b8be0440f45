package oidctest

import (
	_ "embed"
	"html/template"
	"net/http"
	"net/url"

	"golang.org/x/text/language"
)

//go:embed page.html
var pageText string

//go:embed style.css
var styleText []byte

var pageTemplate = template.Must(template.New("page").Parse(pageText))

// page is what the login page shows.
type page struct {
	Redirect string // where the browser goes after a right password
	Login    string // what the field for the login contains
	Wrong    bool   // the password was wrong
	Wait     int    // seconds until the login is no longer locked; 0: it is not
	Error    string // why the request is refused; then the page has no form

	// The fields below are set by renderPage.
	Style string // the path of the style sheet
	Lang  string
	Text  pageStrings
}

// pageStrings are the texts of the page in one language.
type pageStrings struct{ Title, Lead, Login, Password, Submit, Wrong, WaitBefore, WaitAfter, Error string }

var (
	// languages, pageTexts and languageCodes have the languages in the same order.
	languages = language.NewMatcher([]language.Tag{language.English, language.Korean})
	pageTexts = []pageStrings{
		{
			Title:      "Example sign-in",
			Lead:       "This stands in for your company's sign-in page.",
			Login:      "E-mail address",
			Password:   "Password",
			Submit:     "Sign in",
			Wrong:      "E-mail address or password is wrong. Try again.",
			WaitBefore: "Too many wrong passwords. Try again in",
			WaitAfter:  "seconds.",
			Error:      "This sign-in link cannot be used. Start again: tsh login",
		},
		{
			Title:      "예제 로그인",
			Lead:       "회사 로그인 페이지를 대신하는 예제 페이지입니다.",
			Login:      "이메일 주소",
			Password:   "비밀번호",
			Submit:     "로그인",
			Wrong:      "이메일 주소 또는 비밀번호가 올바르지 않습니다. 다시 시도하세요.",
			WaitBefore: "비밀번호를 여러 번 잘못 입력했습니다. 다시 시도하기까지 남은 시간:",
			WaitAfter:  "초",
			Error:      "이 로그인 링크는 사용할 수 없습니다. 다시 시작하세요: tsh login",
		},
	}
	languageCodes = []string{"en", "ko"}
)

// renderPage sends the login page with the status, in the language of ui_locales or else of the browser.
func (p *Provider) renderPage(w http.ResponseWriter, r *http.Request, status int, content page) {
	// A header that cannot be read gives no language, and so English.
	wanted, _, _ := language.ParseAcceptLanguage(r.Header.Get("Accept-Language"))
	_, i, _ := languages.Match(append(localeTags(r.URL.Query().Get("ui_locales")), wanted...)...)
	content.Lang, content.Text = languageCodes[i], pageTexts[i]
	content.Style = p.issuer.JoinPath("style.css").Path
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("X-Content-Type-Options", "nosniff")
	const policy = "default-src 'none'; style-src 'self'; base-uri 'none'; frame-ancestors 'none'; " +
		"form-action 'self'"
	h.Set("Content-Security-Policy", policy+formActionOrigin(content.Redirect))
	w.WriteHeader(status)
	_ = pageTemplate.Execute(w, content) // the browser is gone if this fails
}

// localeTags returns the language in ui_locales, if the parameter is one tag. A list of several gives none.
func localeTags(list string) []language.Tag {
	tag, err := language.Parse(list)
	if err != nil {
		return nil
	}
	return []language.Tag{tag}
}

// formActionOrigin returns what the policy's form-action needs besides 'self', with a space in front: the
// origin of the redirect URI. Browsers apply form-action also to the redirect that answers the form.
func formActionOrigin(redirect string) string {
	u, err := url.Parse(redirect)
	if err != nil || u.Host == "" {
		return ""
	}
	return " " + u.Scheme + "://" + u.Host
}

func serveStyle(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/css; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	_, _ = w.Write(styleText) // the browser is gone if this fails
}
