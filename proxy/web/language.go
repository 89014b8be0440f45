package web

import (
	"fmt"
	"net/http"
	"net/url"

	"golang.org/x/text/language"

	"github.com/threshold-access/threshold/internal/authrpc"
)

// locale has the texts of one language.
type locale struct {
	Tag           string            // BCP 47, for the lang attribute
	SelfName      string            // the name of the language in the language
	texts         map[string]string // of the pages, by key
	errorTexts    map[string]string // translations of errors, by their English text; nil for English
	errorPatterns []errorPattern    // the texts in errorTexts that have placeholders
}

// locales are the supported languages. The first is the default.
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
	for _, l := range locales {
		tags = append(tags, language.MustParse(l.Tag))
	}
	return language.NewMatcher(tags)
}()

// maxAcceptBytes is the longest Accept-Language header that is used.
const maxAcceptBytes = 256

// T returns a text in the language. A key without a text is a defect that a test finds.
func (l locale) T(key string, args ...any) string {
	text, ok := l.texts[key]
	if !ok {
		return "[" + key + "]"
	}
	if len(args) > 0 {
		return fmt.Sprintf(text, args...)
	}
	return text
}

// languageOf returns the language for a request: that of ?lang=, else the one chosen before, else the best
// match for the browser.
func languageOf(r *http.Request) locale {
	wanted := r.URL.Query().Get("lang")
	if !supported(wanted) {
		wanted, _ = readCookie(r, languageCookie)
	}
	if !supported(wanted) {
		wanted = r.Header.Get("Accept-Language")
	}
	if len(wanted) > maxAcceptBytes {
		wanted = ""
	}
	_, index := language.MatchStrings(matcher, wanted)
	return locales[index]
}

func supported(tag string) bool {
	for _, l := range locales {
		if l.Tag == tag {
			return true
		}
	}
	return false
}

// language is languageOf, and stores the choice of ?lang= in a cookie: the redirects through the provider
// lose the parameter.
func (s *Server) language(w http.ResponseWriter, r *http.Request) locale {
	l := languageOf(r)
	if r.URL.Query().Get("lang") == l.Tag {
		setCookie(w, languageCookie, l.Tag)
	}
	return l
}

// chosenLanguage returns the language that the user chose on our pages, or "". The language of the browser
// is not a choice: the browser sends it to the provider itself.
func (s *Server) chosenLanguage(w http.ResponseWriter, r *http.Request) string {
	tag := s.language(w, r).Tag
	if cookie, _ := readCookie(r, languageCookie); cookie == tag || r.URL.Query().Get("lang") == tag {
		return tag
	}
	return ""
}

// otherLanguages returns links to the present page in the other languages. The answer to a form and the
// callback of the provider cannot be requested again: their links lead to the form, or to the start page.
func otherLanguages(r *http.Request, present locale) []link {
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
	for _, l := range locales {
		if l.Tag != present.Tag {
			q.Set("lang", l.Tag)
			out = append(out, link{l.Tag, l.SelfName, path + "?" + q.Encode()})
		}
	}
	return out
}
