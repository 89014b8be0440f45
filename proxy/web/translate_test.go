package web

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/threshold-access/threshold/internal/fault"
)

// declaredCode is a row of docs/errors.md.
type declaredCode struct{ text, remedy, from string }

var codeRow = regexp.MustCompile("(?m)^\\| `([a-z0-9-]+)` \\| [a-z_]+ \\| (.*?) \\| (.*?) \\| `([^`]+)` \\|$")

// declaredCodes reads docs/errors.md, which has every code: a proxy cannot import the auth service.
func declaredCodes(t *testing.T) map[string]declaredCode {
	t.Helper()
	page, err := os.ReadFile("../../docs/errors.md")
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]declaredCode{}
	for _, m := range codeRow.FindAllStringSubmatch(string(page), -1) {
		unescape := strings.NewReplacer(`\_`, "_", `\*`, "*")
		out[m[1]] = declaredCode{unescape.Replace(m[2]), unescape.Replace(m[3]), m[4]}
	}
	return out
}

// neverOnAPage are codes of the login that arise when a program starts, or between tsh and the auth service.
var neverOnAPage = []string{
	"attempt-key-invalid", "login-config-incomplete", "oidc-config-incomplete", "factor-config-incomplete",
	"login-key-refused", "login-key-too-large", "login-not-redeemable", "login-of-other-client",
}

// Every error with which a login can end has a Korean text, with the arguments that the English has.
func TestEveryLoginErrorHasAKoreanText(t *testing.T) {
	t.Parallel()
	pages := []string{"auth/login", "auth/oidc", "auth/factor", "auth/totp", "proxy/web"}
	codes := declaredCodes(t)
	count := 0
	for code, english := range codes {
		if !slices.Contains(pages, english.from) || slices.Contains(neverOnAPage, code) {
			continue
		}
		count++
		if _, ok := errorsKorean[code]; !ok {
			t.Errorf("%s has no Korean text: %s", code, english.text)
		}
	}
	if count < 50 {
		t.Errorf("got %d codes of the login, want many", count)
	}
	for code, korean := range errorsKorean {
		english, ok := codes[code]
		if !ok {
			t.Errorf("%s is translated, and is no code", code)
			continue
		}
		if !strings.ContainsFunc(korean.msg, hangul) || !strings.ContainsFunc(korean.remedy, hangul) {
			t.Errorf("%s: got %+v, want Korean", code, korean)
		}
		for _, pair := range [][2]string{{english.text, korean.msg}, {english.remedy, korean.remedy}} {
			if want, got := argumentsOf(pair[0]), argumentsOf(pair[1]); !slices.Equal(got, want) {
				t.Errorf("%s: got the arguments %q in %q, want %q", code, got, pair[1], want)
			}
		}
	}
}

func hangul(r rune) bool { return r >= '가' && r <= '힣' }

// argumentsOf returns the names in braces, sorted.
func argumentsOf(text string) []string {
	names := regexp.MustCompile(`\{[a-z_]+\}`).FindAllString(text, -1)
	slices.Sort(names)
	return names
}

// A known code is translated, with its arguments as they are. The English of any other is shown.
func TestErrorsAreTranslatedByCode(t *testing.T) {
	t.Parallel()
	ko := locales[1]
	for _, tt := range []struct {
		e                *fault.Error
		msg, remedy, tag string
	}{
		{&fault.Error{Code: "second-factor-locked", Msg: "too many", RetryAfter: 2 * time.Minute,
			Args: map[string]string{"retry_after": "2m"}},
			"틀린 코드를 너무 많이 입력했습니다", "2분 뒤에 다시 시도하세요", "ko"},
		{&fault.Error{Code: "connector-unknown", Msg: "x", Args: map[string]string{"connector": "{a} <b>"}},
			"{a} <b>(이)라는 커넥터가 없습니다", "로그인 화면에서 다른 것을 고르세요", "ko"},
		{&fault.Error{Code: "connector-unknown", Msg: "x"}, // a newer auth service may have renamed an argument
			"{connector}(이)라는 커넥터가 없습니다", "로그인 화면에서 다른 것을 고르세요", "ko"},
		{&fault.Error{Code: "moon-full", Msg: "the moon is full", Remedy: "wait"},
			"the moon is full", "wait", "en"},
		{&fault.Error{Msg: "no code", Remedy: "none"}, "no code", "none", "en"},
	} {
		msg, remedy, tag := ko.translate(tt.e)
		if msg != tt.msg || remedy != tt.remedy || tag != tt.tag {
			t.Errorf("%+v: got %q, %q, %s, want %q, %q, %s",
				tt.e, msg, remedy, tag, tt.msg, tt.remedy, tt.tag)
		}
	}
	for wait, want := range map[time.Duration]string{
		30 * time.Second: "30초", time.Minute: "1분", time.Hour: "1시간",
	} {
		if got := ko.formatWait(wait); got != want {
			t.Errorf("%s: got %q, want %q", wait, got, want)
		}
	}
}

func TestSentencesBeginWithACapital(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"run: tsh login": "Run: tsh login", "": "", "é": "É", "코드": "코드", "7": "7",
	} {
		if got := capitalize(in); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
