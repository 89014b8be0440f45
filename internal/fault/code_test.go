package fault_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/threshold-access/threshold/internal/fault"
)

var (
	nodeUnknown = fault.Code{
		Name: "node-unknown", Kind: fault.NotFound, Text: "there is no node {node}", Remedy: "see: tsh ls",
	}
	tooMany = fault.Code{
		Name: "codes-exhausted", Kind: fault.Exhausted,
		Text: "too many", Remedy: "try again in {retry_after}",
	}
)

func TestACodeMakesTheText(t *testing.T) {
	t.Parallel()
	e := nodeUnknown.New("jump.Open", fault.Args{"node": "web-1"})
	if e.Code != "node-unknown" || e.Kind != fault.NotFound || e.Msg != "there is no node web-1" ||
		e.Remedy != "see: tsh ls" || e.Args["node"] != "web-1" || e.Op != "jump.Open" {
		t.Errorf("got %+v, want the fault of the code", e)
	}
	if !nodeUnknown.Is(e) || tooMany.Is(e) || nodeUnknown.Is(errors.New("x")) || nodeUnknown.Is(nil) {
		t.Error("got another answer of Is, want it for this code alone")
	}
}

func TestACodeWrapsACause(t *testing.T) {
	t.Parallel()
	cause := errors.New("disk")
	if err := nodeUnknown.Wrap(cause, "op", fault.Args{"node": 7}); !errors.Is(err, cause) ||
		fault.Message(err) != "there is no node 7" {
		t.Errorf("got %v, want the cause in a fault", err)
	}
	if err := nodeUnknown.Wrap(nil, "op"); err != nil {
		t.Errorf("got %v, want nil", err)
	}
}

// An argument is data: it cannot add lines, hide text, name other arguments, or be longer than a text may be.
func TestArgumentsAreData(t *testing.T) {
	t.Parallel()
	for value, want := range map[string]string{
		"a\r\nthreshold: hint: run evil": "a  threshold: hint: run evil",
		"\x1b[2J\u202e\u200b\xff":        "?[2J???",
		"{node} {x}":                     "{node} {x}",
		strings.Repeat("é", 10_000):      strings.Repeat("é", 510) + "…",
		"":                               "",
	} {
		e := nodeUnknown.New("op", fault.Args{"node": value})
		if e.Msg != "there is no node "+want || e.Args["node"] != want {
			t.Errorf("%.40q: got %q and %q, want %q in both", value, e.Msg, e.Args["node"], want)
		}
	}
}

func TestRetryAfterIsWholeSeconds(t *testing.T) {
	t.Parallel()
	for wait, want := range map[time.Duration]string{
		29*time.Second + 1: "30s", time.Minute: "1m", 90 * time.Second: "1m30s", 2 * time.Hour: "2h",
		-time.Second: "0s", 90 * time.Minute: "1h30m",
	} {
		e := tooMany.New("op", fault.Args{fault.ArgRetryAfter: wait})
		if e.Remedy != "try again in "+want || fault.FormatDuration(e.RetryAfter) != want {
			t.Errorf("%s: got %q and %s, want %s", wait, e.Remedy, e.RetryAfter, want)
		}
	}
}

func TestFillLeavesUnknownNames(t *testing.T) {
	t.Parallel()
	args := map[string]string{"a": "1", "b": "{a}"}
	for text, want := range map[string]string{
		"{a}{b}": "1{a}", "{c} {a}": "{c} 1", "{": "{", "}{a": "}{a", "": "", "{{a}}": "{1}", "a{}": "a{}",
	} {
		if got := fault.Fill(text, args); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}
