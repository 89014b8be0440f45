package web

import (
	"net/http"
	"net/url"

	"golang.org/x/text/language"

	"github.com/threshold-access/threshold/internal/authrpc"
)

// locale are the phrases of one language.
type locale struct {
	Tag           string // BCP 47, for the lang attribute
	SelfName      string // the language's own name
	texts         map[string]string
	errorTexts    map[string]string // sentences of auth's
	errorPatterns []errorPattern    // those of them with gaps
}

// locales are the languages we speak; the first is for everybody else.
var locales = []locale{
	{Tag: "en", SelfName: "English", texts: english},
	{
		Tag:           "ko",
		SelfName:      "한국어",
		texts:         korean,
		errorTexts:    errorTextsKorean,
		errorPatterns: compilePatterns(errorTextsKorean),
	},
}

var matcher = func() language.Matcher {
	var tags []language.Tag
	for _, t := range locales {
		tags = append(tags, language.MustParse(t.Tag))
	}
	return language.NewMatcher(tags)
}()

// maxAccept bounds the Accept-Language header that is looked at.
const maxAccept = 256

// languageOf obeys ?lang=, then what was chosen before, then the browser.
func languageOf(r *http.Request) locale {
	wish := r.URL.Query().Get("lang")
	if !supported(wish) {
		wish, _ = readCookie(r, languageCookie)
	}
	if !supported(wish) {
		wish = r.Header.Get("Accept-Language")
	}
	if len(wish) > maxAccept {
		wish = ""
	}
	_, index := language.MatchStrings(matcher, wish)
	return locales[index]
}

func supported(tag string) bool {
	for _, t := range locales {
		if t.Tag == tag {
			return true
		}
	}
	return false
}

// chosenLanguage is the language that the person chose here, or "": of what the browser prefers it tells the
// provider itself.
func (s *Server) chosenLanguage(w http.ResponseWriter, r *http.Request) string {
	tag := s.language(w, r).Tag
	if cookie, _ := readCookie(r, languageCookie); cookie == tag || r.URL.Query().Get("lang") == tag {
		return tag
	}
	return ""
}

// language is languageOf, and remembers a choice, because the way through the provider loses the parameter.
func (s *Server) language(w http.ResponseWriter, r *http.Request) locale {
	t := languageOf(r)
	if r.URL.Query().Get("lang") == t.Tag {
		setCookie(w, languageCookie, t.Tag)
	}
	return t
}

// otherLanguages links to the page in the other languages. The answer to a form, and the provider's callback,
// cannot be asked for again: there the choice leads to the form.
func otherLanguages(r *http.Request, now locale) []link {
	path, q := r.URL.Path, r.URL.Query()
	switch path {
	case "/", "/login", authrpc.HeadlessPath:
	default:
		q = url.Values{}
		if path != factorPath {
			path = "/"
		}
	}
	var out []link
	for _, t := range locales {
		if t.Tag != now.Tag {
			q.Set("lang", t.Tag)
			out = append(out, link{t.Tag, t.SelfName, path + "?" + q.Encode()})
		}
	}
	return out
}
