package loopback

import (
	_ "embed"
	"html/template"
	"net/http"

	"golang.org/x/text/language"
)

//go:embed page.html
var pageText string

var pageTemplate = template.Must(template.New("page").Parse(pageText))

// resultPage is the last page of a login in the browser.
type resultPage struct{ Lang, Class, Title, Text string }

// Each result page in English and Korean, in the order of pageLanguages.
var (
	pagesDone = []resultPage{
		{"en", "done", "Return to your terminal", "You are done in the browser. You can close this window."},
		{"ko", "done", "터미널로 돌아가세요", "브라우저에서 할 일이 끝났습니다. 이 창은 닫아도 됩니다."},
	}
	pagesFailed = []resultPage{
		{
			"en", "failed", "The login was not completed",
			"You can close this window. Your terminal shows the reason and what to do next.",
		},
		{
			"ko", "failed", "로그인이 완료되지 않았습니다",
			"이 창은 닫아도 됩니다. 이유와 다음 단계는 터미널에서 확인하세요.",
		},
	}
	pagesWrongState = []resultPage{
		{"en", "failed", "This link belongs to another login", "Start again in your terminal: tsh login"},
		{"ko", "failed", "다른 로그인에서 사용하는 링크입니다", "터미널에서 다시 시작하세요: tsh login"},
	}
	pagesAnswered = []resultPage{
		{
			"en", "failed", "This login has already received an answer",
			"You can close this window. Your terminal shows the result.",
		},
		{
			"ko", "failed", "이 로그인은 이미 응답을 받았습니다",
			"이 창은 닫아도 됩니다. 결과는 터미널에서 확인하세요.",
		},
	}
)

var pageLanguages = language.NewMatcher([]language.Tag{language.English, language.Korean})

// writeResultPage writes one of pages, which are the same page in each language of pageLanguages: in the
// language that the user chose on the login page (parameter lang), else in one that the browser accepts, else
// in English. It ignores write errors, because the login does not depend on the page.
func writeResultPage(w http.ResponseWriter, r *http.Request, status int, pages []resultPage) {
	chosen, accepted := r.URL.Query().Get("lang"), r.Header.Get("Accept-Language")
	_, index := language.MatchStrings(pageLanguages, chosen, accepted)
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Connection", "close")
	w.WriteHeader(status)
	_ = pageTemplate.Execute(w, pages[index])
}
