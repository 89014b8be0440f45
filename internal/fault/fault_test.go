package fault_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/fault/faulttest"
)

// What leaves the process has message, remedy and id, and not the cause.
func TestPublicHidesTheCauseAndKeepsTheRemedy(t *testing.T) {
	t.Parallel()
	err := fmt.Errorf(
		"outer: %w",
		faulttest.Wrap(
			errors.New("secret path /x"),
			fault.Denied,
			"auth.Issue",
			"not allowed",
			"ask for role ops",
		),
	)
	public := fault.Public(err)
	b, _ := json.Marshal(public)
	if strings.Contains(string(b), "secret") {
		t.Errorf("got %s, want no cause", b)
	}
	if got := fault.Decode(b); got.Kind != fault.Denied || got.Remedy != "ask for role ops" || got.ID == "" {
		t.Errorf("got %+v, want the fault with an id", got)
	}
}

func TestPublicOfAPlainErrorHidesItsText(t *testing.T) {
	t.Parallel()
	if got := fault.Public(errors.New("dsn=secret")); got.Kind != fault.Internal ||
		strings.Contains(got.Msg, "secret") ||
		got.Remedy == "" {
		t.Errorf("got %+v, want an internal fault without the text", got)
	}
}

func TestDecodeOfGarbageIsStillAFault(t *testing.T) {
	t.Parallel()
	for _, in := range []string{"", "{", "null", `{"kind":""}`, "<html>"} {
		if got := fault.Decode([]byte(in)); got == nil || got.Kind != fault.Internal || got.Remedy == "" {
			t.Errorf("Decode(%q): got %+v, want an internal fault", in, got)
		}
	}
}

func TestWrapOfNilIsNil(t *testing.T) {
	t.Parallel()
	if err := faulttest.Wrap(nil, fault.Internal, "x", "y", "z"); err != nil {
		t.Errorf("got %v, want nil", err)
	}
}

func TestReportWritesErrorAndHint(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	fault.Report(
		&out,
		"threshold",
		faulttest.Wrap(errors.New("cause"), fault.Conflict, "op", "the port is in use", "choose another"),
	)
	fault.Report(&out, "threshold", errors.New("plain"))
	want := "threshold: error: the port is in use\nthreshold: hint: choose another\nthreshold: error: plain\n"
	if out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
}
