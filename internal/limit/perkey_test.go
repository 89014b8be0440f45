package limit_test

import (
	"testing"

	"github.com/threshold-access/threshold/internal/limit"
)

// Keys are counted apart, refusals are not counted, and a release of something that is not held does no harm.
func TestEachKeyHasALimitOfItsOwn(t *testing.T) {
	t.Parallel()
	var perKey limit.PerKey[string]
	acquire := func(key string, most, wantHeld int, wantOK bool) {
		t.Helper()
		if held, ok := perKey.TryAcquire(key, most); held != wantHeld || ok != wantOK {
			t.Errorf("%s of %d: got %d held, %v; want %d, %v", key, most, held, ok, wantHeld, wantOK)
		}
	}
	acquire("alice", 2, 0, true)
	acquire("alice", 2, 1, true)
	acquire("alice", 2, 2, false)
	acquire("alice", -1, 2, true) // no limit
	acquire("bob", 1, 0, true)
	acquire("bob", 0, 1, false)
	acquire("carol", 0, 0, false)
	if got := perKey.Held("alice"); got != 3 {
		t.Errorf("alice holds %d, want 3: a refusal counts nothing", got)
	}
	perKey.Release("bob")
	acquire("bob", 1, 0, true)
	perKey.Release("nobody")
	acquire("nobody", 1, 0, true)
}
