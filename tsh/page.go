package tsh

import (
	_ "embed"
	"html/template"
	"net/http"

	"golang.org/x/text/language"
)

//go:embed page.html
var pageText string

var pageTemplate = template.Must(template.New("page").Parse(pageText))

// closing is the last page a browser sees: what tsh itself says on loopback.
type closing struct{ Lang, Class, Title, Text string }

var (
	pagesDone = []closing{
		{"en", "done", "Back to your terminal", "The browser's part is done. You may close this window."},
		{"ko", "done", "터미널로 돌아가세요", "브라우저에서 할 일은 끝났습니다. 이 창을 닫아도 됩니다."},
	}
	pagesFailed = []closing{
		{
			"en",
			"failed",
			"The login was not completed",
			"You may close this window. Your terminal says why, and what to do next.",
		},
		{"ko", "failed", "로그인이 완료되지 않았습니다", "이 창을 닫아도 됩니다. 이유와 다음 단계는 터미널에 표시됩니다."},
	}
	pagesWrongState = []closing{
		{"en", "failed", "This link belongs to another login", "Start again in your terminal: tsh login"},
		{"ko", "failed", "다른 로그인의 주소입니다", "터미널에서 다시 시작하세요: tsh login"},
	}
	pagesAnswered = []closing{
		{
			"en",
			"failed",
			"This login has had its answer already",
			"You may close this window. Your terminal says how it went.",
		},
		{"ko", "failed", "이 로그인은 이미 응답을 받았습니다", "이 창을 닫아도 됩니다. 결과는 터미널에 표시됩니다."},
	}
)

// languages are those of closing pages, in their order.
var languages = language.NewMatcher([]language.Tag{language.English, language.Korean})

// writeResultPage shows the page in the language that was chosen at the proxy, else in the browser's. The
// answer is in tsh's hands already, so a page that cannot be sent is no fault.
func writeResultPage(w http.ResponseWriter, r *http.Request, status int, pages []closing) {
	_, index := language.MatchStrings(languages, r.URL.Query().Get("lang"), r.Header.Get("Accept-Language"))
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Connection", "close")
	w.WriteHeader(status)
	_ = pageTemplate.Execute(w, pages[index])
}
