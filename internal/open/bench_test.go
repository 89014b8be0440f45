package open_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/open"
)

// BenchmarkAddAndRemove is what each session and forward costs.
func BenchmarkAddAndRemove(b *testing.B) {
	for _, name := range []string{"first of its use", "one more"} {
		b.Run(name, func(b *testing.B) {
			r := open.New(open.Config{Rules: newTestRules(), Now: time.Now})
			alice := &holder{name: "alice"}
			if name == "one more" {
				r.Add(useOf("alice", access.Shell), alice)
			}
			b.ReportAllocs()
			for b.Loop() {
				r.Add(useOf("alice", access.Shell), alice).Remove()
			}
		})
	}
}

// BenchmarkDecideAgain is what a change of the rules costs with 10,000 entries.
func BenchmarkDecideAgain(b *testing.B) {
	for _, users := range []int{10, 10_000} {
		b.Run(fmt.Sprintf("%d users", users), func(b *testing.B) {
			r := open.New(open.Config{Rules: newTestRules(), Now: time.Now})
			for i := range 10_000 {
				name := fmt.Sprintf("user-%d", i%users)
				r.Add(useOf(name, access.ForwardLocal), &holder{name: name})
			}
			b.ReportAllocs()
			for b.Loop() {
				if n := r.Decide(); n != 0 {
					b.Fatalf("got %d denied, want none", n)
				}
			}
		})
	}
}
