package state

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/raftstore/raftstoretest"
)

// placed is an event with a place in a spool.
func placed(spool identity.InstanceID, number uint64) audit.Event {
	e := audit.New(time.Now(), identity.Identity{}, audit.RecoveryUse{})
	e.ID, e.Spool, e.Number = NewID(), spool, number
	return e
}

// placesOf are the places of the stored events, as "1" for the number and "+2" for two that were lost before.
func placesOf(t *testing.T, s *State) (places []string) {
	t.Helper()
	got, err := s.ReadEvents(t.Context(), 0, 1000)
	must(t, err)
	for _, numbered := range got {
		var e audit.Event
		must(t, json.Unmarshal(numbered.JSON, &e))
		place := fmt.Sprintf("%s%d", e.Spool[:1], e.Number)
		if e.Lost > 0 {
			place += fmt.Sprintf("+%d", e.Lost)
		}
		places = append(places, place)
	}
	return places
}

// A machine sends events again after lost answers, restarts, loses events, and runs twice by mistake. Each
// event is stored once, and the log shows how many are missing.
func TestMachineEventsAreStoredOnce(t *testing.T) {
	t.Parallel()
	s := open(t)
	const (
		a = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
		b = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
	)
	for _, batch := range [][]audit.Event{
		{placed(a, 1)},
		{placed(a, 1), placed(a, 2), placed(a, 2)}, // sent again, with more
		{placed(a, 1), placed(a, 2)},               // all of it again
		{placed(a, 5), placed(b, 1)},               // two are lost; the machine has started again
		{placed(b, 1), placed(a, 6), placed(b, 3)}, // both runs, by turns
		{placed(b, 2), placed(a, 4)},               // out of order: too late
	} {
		must(t, s.Events.AppendMachineEvents(t.Context(), "m1", batch))
	}
	// Another machine has places of its own, whatever it calls its spool.
	must(t, s.Events.AppendMachineEvents(t.Context(), "m2", []audit.Event{placed(a, 1)}))
	want := []string{"a1", "a2", "a5+2", "b1", "a6", "b3+1", "a1"}
	if got := placesOf(t, s); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// The number of runs that are remembered is bounded, whatever a machine sends.
func TestARememberedSpoolIsOneOfTheLast(t *testing.T) {
	t.Parallel()
	s := open(t)
	spool := func(i int) identity.InstanceID { return identity.InstanceID(fmt.Sprintf("%032x", i)) }
	for i := range 100 {
		must(t, s.Events.AppendMachineEvents(t.Context(), "m1", []audit.Event{placed(spool(i), 1)}))
	}
	again := []audit.Event{placed(spool(96), 1), placed(spool(99), 1)}
	must(t, s.Events.AppendMachineEvents(t.Context(), "m1", again))
	if got := placesOf(t, s); len(got) != 100 {
		t.Errorf("got %d events, want those of the last runs known", len(got))
	}
	got, err := spools.get(t.Context(), s.Reader, "m1")
	if err != nil || len(got.Value.Spools) != maxSpools {
		t.Errorf("got %+v and %v, want %d runs", got.Value, err, maxSpools)
	}
}

// openSmall is open with small segments, and with the clock that now points to.
func openSmall(t *testing.T, now *atomic.Pointer[time.Time]) *State {
	t.Helper()
	cfg := raftstoretest.Config(t.TempDir())
	cfg.Bounds.StreamSegment = 4 << 10
	cfg.Now = func() time.Time { return *now.Load() }
	store, stop := raftstoretest.Start(t, cfg)
	t.Cleanup(func() { must(t, stop()) })
	return New(store)
}

// By default every event is kept. With a retention, whole segments of older ones are removed, which is an
// event itself and names the digest of what is gone. Numbers go on.
func TestOldEventsAreRemovedAsTheSettingsSay(t *testing.T) {
	t.Parallel()
	var clock atomic.Pointer[time.Time]
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	clock.Store(&at)
	s := openSmall(t, &clock)
	appendEvents := func(n int) {
		t.Helper()
		for range n {
			e := audit.New(at, identity.Identity{}, audit.LoginRefusal{Reason: strings.Repeat("x", 500)})
			must(t, s.Events.AppendEvents(t.Context(), e))
		}
	}
	trim := func(after time.Duration) uint64 {
		t.Helper()
		first, err := s.Events.Trim(t.Context(), at.Add(after))
		must(t, err)
		return first
	}
	appendEvents(20)
	later := at.Add(48 * time.Hour)
	clock.Store(&later)
	appendEvents(20)
	if first := trim(10_000 * time.Hour); first != 0 {
		t.Errorf("got events before %d removed, want all kept by default", first)
	}
	old, err := s.Settings.Settings(t.Context())
	must(t, err)
	week := access.Settings{AuditRetention: access.Retention(168 * time.Hour)}
	must(t, s.Settings.PutSettings(t.Context(), old, week, later))
	if first := trim(167 * time.Hour); first != 0 {
		t.Errorf("got events before %d removed, want none older than the week", first)
	}
	first := trim(169 * time.Hour)
	if first < 10 || first > 21 {
		t.Fatalf("got events before %d removed, want those of the first day in whole segments", first)
	}
	events, err := s.ReadEvents(t.Context(), 1, 1000)
	must(t, err)
	last := events[len(events)-1]
	if events[0].Number != first || last.Number != 41 {
		t.Errorf("got events %d to %d, want %d to 41", events[0].Number, last.Number, first)
	}
	var e audit.Event
	must(t, json.Unmarshal(last.JSON, &e))
	body, err := audit.BodyOf[audit.LogTrim](e)
	if err != nil || body.Before != first || len(body.Digest) != 64 || body.Retention != "168h" {
		t.Errorf("got %+v and %v, want the removal recorded", body, err)
	}
	if again := trim(169 * time.Hour); again != 0 {
		t.Errorf("got events before %d removed again", again)
	}
	if first := trim(100_000 * time.Hour); first == 0 || first > 42 {
		t.Errorf("got %d, want all but the newest segment removed", first)
	}
}
