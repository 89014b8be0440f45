package tsh

import (
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/threshold-access/threshold/internal/config"
	"github.com/threshold-access/threshold/internal/fault"
)

func TestEveryErrorEndsInAHint(t *testing.T) {
	t.Parallel()
	for _, err := range []error{
		io.EOF,
		fault.New(fault.Internal, "", "x", ""),
		fmt.Errorf("wrapped: %w", fault.New(fault.Denied, "", "no\x1b", "ask")),
		config.Faults{{File: "f", Line: 1, Msg: "bad"}},
		fmt.Errorf("unknown command \"x\" for \"tsh\"\n\nDid you mean this?\n\tls\n"),
	} {
		msg, hint := describeError(err)
		if msg == "" || hint == "" || strings.Contains(msg+hint, "\x1b") {
			t.Errorf("%v: got %q, %q", err, msg, hint)
		}
	}
	err := &fault.Error{Kind: fault.Internal, Msg: "internal error", ID: "abc"}
	if msg, _ := describeError(err); !strings.Contains(msg, "abc") {
		t.Errorf("got %q, want the error's id", msg)
	}
}
