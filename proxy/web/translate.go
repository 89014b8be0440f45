package web

import (
	"fmt"
	"maps"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/threshold-access/threshold/internal/fault"
)

// errorText is the translation of an error: what happened, and what to do. Arguments stand in braces.
type errorText struct{ msg, remedy string }

// translate returns what happened and what to do, and the language of both: the translation of the fault's
// code, with the arguments of the fault, or the fault's English for a code that has no translation.
func (l locale) translate(e *fault.Error) (msg, remedy, tag string) {
	text, known := l.errors[e.Code]
	if !known {
		return e.Msg, e.Remedy, locales[0].Tag
	}
	args := maps.Clone(e.Args)
	if _, waits := args[fault.ArgRetryAfter]; waits {
		args[fault.ArgRetryAfter] = l.formatWait(e.RetryAfter)
	}
	return fault.Fill(text.msg, args), fault.Fill(text.remedy, args), l.Tag
}

// formatWaitKorean writes a time to wait in Korean.
func formatWaitKorean(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%d초", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%d분", d/time.Minute)
	}
	return fmt.Sprintf("%d시간", d/time.Hour)
}

// capitalize makes the first letter a capital. Faults begin with a small one, as terminals show them.
func capitalize(s string) string {
	first, n := utf8.DecodeRuneInString(s)
	if n == 0 {
		return s
	}
	return string(unicode.ToUpper(first)) + s[n:]
}
