package fault_test

import (
	"testing"

	"github.com/threshold-access/threshold/internal/fault"
)

func TestSplitLineFindsTheRemedy(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ line, msg, remedy string }{
		{"no role of alice (roles: ops) allows exec (ask an administrator)",
			"no role of alice (roles: ops) allows exec", "ask an administrator"},
		{"no room (end one (or two), then try again)", "no room", "end one (or two), then try again"},
		{"the port is in use", "the port is in use", ""},
		{"f(x)", "f(x)", ""},
		{"unbalanced)", "unbalanced)", ""},
		{"", "", ""},
	} {
		if msg, remedy := fault.SplitLine(c.line); msg != c.msg || remedy != c.remedy {
			t.Errorf("%q: got %q and %q, want %q and %q", c.line, msg, remedy, c.msg, c.remedy)
		}
	}
}
