package authrpc_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
)

func TestStatus(t *testing.T) {
	t.Parallel()
	for kind, want := range map[fault.Kind]int{
		fault.Internal: 500, fault.Invalid: 400, fault.Unauthenticated: 401, fault.Denied: 403,
		fault.Expired: 410, fault.NotFound: 404, fault.Conflict: 409, fault.Unavailable: 503,
		fault.Exhausted:      429,
		"of a newer release": 500,
	} {
		if got := authrpc.Status(kind); got != want {
			t.Errorf("%s: got %d, want %d", kind, got, want)
		}
	}
}

// Retry-After counts whole seconds, rounded up, and is there only if the fault says when to try again.
func TestRetryAfter(t *testing.T) {
	t.Parallel()
	for wait, want := range map[time.Duration]string{
		0: "", time.Nanosecond: "1", 30 * time.Second: "30", 90*time.Second + 1: "91",
	} {
		header := http.Header{}
		authrpc.SetRetryAfter(header, &fault.Error{RetryAfter: wait})
		if got := header.Get("Retry-After"); got != want {
			t.Errorf("%s: got %q, want %q", wait, got, want)
		}
	}
}
