package authrpc_test

import (
	"testing"

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
