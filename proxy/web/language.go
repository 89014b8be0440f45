package web

import (
	"fmt"
	"net/http"
	"net/url"
	"time"

	"golang.org/x/text/language"

	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
)

// locale has the texts of one language.
type locale struct {
	Tag      string               // BCP 47, for the lang attribute
	SelfName string               // the name of the language in the language
	texts    map[string]string    // of the pages, by key
	errors   map[string]errorText // translations of errors, by their codes; nil for English
	// formatWait writes a time to wait.
	formatWait func(time.Duration) string
}

// locales are the supported languages. The first is the default.
var locales = []locale{
	{Tag: "en", SelfName: "English", texts: english, formatWait: fault.FormatDuration},
	{
		Tag:        "ko",
		SelfName:   "한국어",
		texts:      korean,
		errors:     errorsKorean,
		formatWait: formatWaitKorean,
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

// languageOf returns the language for a request: that of the parameter lang, else that of the languageCookie,
// else the best match for the browser's Accept-Language, else the default.
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

// supported reports whether there is a locale with exactly this tag.
func supported(tag string) bool {
	for _, l := range locales {
		if l.Tag == tag {
			return true
		}
	}
	return false
}

// language returns languageOf(r). If the request has the parameter lang, it also stores that choice in a
// cookie, because the redirects through the provider lose the parameter.
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

// otherLanguages returns links to the present page in the other languages. Only some pages can be requested
// again with their parameters. The answer to the form of a factor links to the empty form, and every other
// page to the start page: requesting the provider's callback again would fail.
func otherLanguages(r *http.Request, present locale) []link {
	path, query := r.URL.Path, r.URL.Query()
	switch path {
	case "/", "/login", authrpc.HeadlessPath:
	default:
		query = url.Values{}
		if path != factorPath {
			path = "/"
		}
	}
	var out []link
	for _, l := range locales {
		if l.Tag != present.Tag {
			query.Set("lang", l.Tag)
			out = append(out, link{Tag: l.Tag, Name: l.SelfName, To: path + "?" + query.Encode()})
		}
	}
	return out
}
