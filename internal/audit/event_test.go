package audit_test

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/threshold-access/threshold/internal/audit"
)

func TestTruncateEndsAtAWholeCharacterWithinTheBound(t *testing.T) {
	if got := audit.Truncate("web-1"); got != "web-1" {
		t.Errorf("got %q, want a short text as it is", got)
	}
	for shift := range 3 {
		got := audit.Truncate(strings.Repeat("x", shift) + strings.Repeat("한", audit.MaxText))
		if len(got) > audit.MaxText || !utf8.ValidString(got) || !strings.HasSuffix(got, "한…") {
			t.Errorf(
				"got %d bytes ending in %q, want whole characters and at most %d bytes",
				len(got),
				got[len(got)-8:],
				audit.MaxText,
			)
		}
	}
}
