package state

import (
	"slices"
	"sync"
	"testing"
	"time"
)

// Of all terms that are begun, by however many callers at once, none is begun twice, and each later one is
// higher, whatever the clock says. A store that has forgotten its terms begins above those of the past.
func TestTermsOfHeadsAreNeverRepeated(t *testing.T) {
	t.Parallel()
	s := open(t)
	now := time.Now()
	var last uint64
	for _, clock := range []time.Time{now, now.Add(-time.Hour), now, now.Add(time.Hour), now, {}} {
		term, err := s.Rules.BeginRulesTerm(t.Context(), clock)
		must(t, err)
		if term <= last || term < uint64(now.Unix()) {
			t.Errorf("got term %d after %d with the clock at %s, want a higher one", term, last, clock)
		}
		if stored, err := s.RulesTerm(t.Context()); err != nil || stored != term {
			t.Errorf("got %d, %v stored, want the term that was begun", stored, err)
		}
		last = term
	}
	var mu sync.Mutex
	var terms []uint64
	var callers sync.WaitGroup
	for range 4 {
		callers.Go(func() {
			term, err := s.Rules.BeginRulesTerm(t.Context(), now)
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			terms = append(terms, term)
		})
	}
	callers.Wait()
	slices.Sort(terms)
	if len(slices.Compact(terms)) != 4 { // Compact drops repetitions
		t.Errorf("got terms %d, want four different ones", terms)
	}
}
