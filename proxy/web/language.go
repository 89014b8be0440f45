package web

import (
	"net/http"
	"net/url"

	"golang.org/x/text/language"

	"github.com/threshold-access/threshold/internal/authrpc"
)

// words are the phrases of one language.
type words struct {
	Tag   string // BCP 47, for the lang attribute
	Self  string // the language's own name
	say   map[string]string
	said  map[string]string // sentences of auth's
	forms []form            // those of them with gaps
}

// tongues are the languages we speak; the first is for everybody else.
var tongues = []words{
	{Tag: "en", Self: "English", say: english},
	{Tag: "ko", Self: "한국어", say: korean, said: saidInKorean, forms: formsOf(saidInKorean)},
}

var matcher = func() language.Matcher {
	var tags []language.Tag
	for _, t := range tongues {
		tags = append(tags, language.MustParse(t.Tag))
	}
	return language.NewMatcher(tags)
}()

// maxAccept bounds the Accept-Language header that is looked at.
const maxAccept = 256

// languageOf obeys ?lang=, then what was chosen before, then the browser.
func languageOf(r *http.Request) words {
	wish := r.URL.Query().Get("lang")
	if !spoken(wish) {
		wish, _ = readCookie(r, languageCookie)
	}
	if !spoken(wish) {
		wish = r.Header.Get("Accept-Language")
	}
	if len(wish) > maxAccept {
		wish = ""
	}
	_, index := language.MatchStrings(matcher, wish)
	return tongues[index]
}

func spoken(tag string) bool {
	for _, t := range tongues {
		if t.Tag == tag {
			return true
		}
	}
	return false
}

// chosen is the language that the person chose here, or "": of what the browser prefers it tells the provider itself.
func (s *Server) chosen(w http.ResponseWriter, r *http.Request) string {
	tag := s.language(w, r).Tag
	if cookie, _ := readCookie(r, languageCookie); cookie == tag || r.URL.Query().Get("lang") == tag {
		return tag
	}
	return ""
}

// language is languageOf, and remembers a choice, because the way through the provider loses the parameter.
func (s *Server) language(w http.ResponseWriter, r *http.Request) words {
	t := languageOf(r)
	if r.URL.Query().Get("lang") == t.Tag {
		setCookie(w, languageCookie, t.Tag)
	}
	return t
}

// others links to the page in the other languages. The answer to a form, and the provider's callback, cannot be asked for again: there
// the choice leads to the form.
func others(r *http.Request, now words) []link {
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
	for _, t := range tongues {
		if t.Tag != now.Tag {
			q.Set("lang", t.Tag)
			out = append(out, link{t.Tag, t.Self, path + "?" + q.Encode()})
		}
	}
	return out
}
