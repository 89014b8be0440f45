package access_test

import (
	"fmt"
	"testing"

	"github.com/threshold-access/threshold/internal/access"
)

// BenchmarkDecide is one decision by as many locks as there may be, none of which is for the user.
func BenchmarkDecide(b *testing.B) {
	for _, n := range []int{0, 1000, 10_000} {
		b.Run(fmt.Sprintf("%d locks", n), func(b *testing.B) {
			locks := make([]access.Lock, n)
			for i := range locks {
				user := access.UserFact{Connector: "corp", Subject: fmt.Sprintf("other-%d", i)}
				locks[i] = access.Lock{ID: fmt.Sprint(i), Match: access.Facts{User: user}}
			}
			p, r := lockedPolicy(locks...), lockedRequest()
			b.ReportAllocs()
			for b.Loop() {
				if !p.Decide(r).Allow {
					b.Fatal("got it denied")
				}
			}
		})
	}
}
