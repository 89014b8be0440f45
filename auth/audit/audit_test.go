package audit_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/threshold-access/threshold/auth/audit"
	"github.com/threshold-access/threshold/auth/state"
	"github.com/threshold-access/threshold/auth/state/statetest"
	events "github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/fault/faulttest"
	"github.com/threshold-access/threshold/internal/identity"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	nodeWeb = identity.Identity{
		Kind:    identity.Node,
		Cluster: statetest.Cluster,
		Name:    "web",
		ID:      "00000000000000000000000000000001",
	}
	proxyEdge = identity.Identity{
		Kind:    identity.Proxy,
		Cluster: statetest.Cluster,
		Name:    "edge",
		ID:      "00000000000000000000000000000002",
	}
)

// noon is when events are received.
var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func newLog(t *testing.T) (*audit.Log, *state.State) {
	t.Helper()
	st, _ := statetest.NewCluster(t)
	return audit.New(audit.Config{
		Store: st.Events,
		Now:   func() time.Time { return noon },
		Log:   slog.New(slog.DiscardHandler),
	}), st
}

// event is an event about alice with a body, which has happened just now.
func event(body events.Body) events.Event {
	e := events.New(noon, statetest.User("alice@example.com"), body)
	e.ID, e.Spool, e.Number = state.NewID(), spool, number.Add(1)
	return e
}

// spool and number are the place of the last event that event made.
const spool identity.InstanceID = "0000000000000000000000000000000a"

var number atomic.Uint64

var refusal = events.SessionRefusal{Reason: "not allowed"}

// Whatever an event says, the log names the machine whose certificate was verified, and when it was received.
func TestEventsNameTheMachineThatSentThem(t *testing.T) {
	t.Parallel()
	log, st := newLog(t)
	e := event(refusal)
	e.SaidBy = events.Machine{Kind: identity.Auth, ID: nodeWeb.ID, Name: "another"}
	e.Machine, e.Received, e.Lost = e.SaidBy, noon.Add(-time.Hour), 7
	for range 2 { // as after a lost answer
		if err := log.AppendMachineEvents(t.Context(), nodeWeb, []events.Event{e}); err != nil {
			t.Fatal(err)
		}
	}
	got := statetest.Events(t, st)
	if len(got) != 1 {
		t.Fatalf("got %+v, want the event once", got)
	}
	if e, web := got[0], events.MachineOf(nodeWeb); e.SaidBy != web || e.Machine != web {
		t.Errorf("got said by %v about %v, want the sender web", e.SaidBy, e.Machine)
	}
	if e := got[0]; !e.Received.Equal(noon) || e.Lost == 7 || e.Late {
		t.Errorf("got received %s, %d lost, late %t, not what the node says", e.Received, e.Lost, e.Late)
	}
}

// An event that waited on its machine, or whose machine has another time, says that it came late.
func TestLateEventsSaySo(t *testing.T) {
	t.Parallel()
	log, st := newLog(t)
	offsets := []time.Duration{0, -time.Minute, -61 * time.Second, 61 * time.Second, -72 * time.Hour}
	for _, offset := range offsets {
		e := event(refusal)
		e.Time = noon.Add(offset)
		if err := log.AppendMachineEvents(t.Context(), nodeWeb, []events.Event{e}); err != nil {
			t.Fatal(err)
		}
	}
	for i, e := range statetest.Events(t, st) {
		if want := offsets[i].Abs() > time.Minute; e.Late != want {
			t.Errorf("an event of %s ago: got late %t, want %t", -offsets[i], e.Late, want)
		}
	}
}

// For every registered code: a node and a proxy may send it only if it is about what that kind of machine
// knows.
func TestMachinesReportOnlyTheirEventCodes(t *testing.T) {
	t.Parallel()
	log, _ := newLog(t)
	fromNodes := map[events.Code]events.Body{
		events.SessionStarted: events.SessionStart{Session: "s", Login: "root", Program: "shell"},
		events.SessionEnded:   events.SessionEnd{Session: "s", Login: "root", Program: "shell"},
		events.SessionRefused: refusal,
		events.ForwardStarted: events.ForwardStart{Login: "root", Forward: "agent"},
	}
	for _, entry := range events.Registry() {
		code := entry.Code
		for _, from := range []identity.Identity{nodeWeb, proxyEdge} {
			body, want := fromNodes[code]
			if want = want && from.Kind == identity.Node; body == nil {
				body = entry.Body
			}
			err := log.AppendMachineEvents(t.Context(), from, []events.Event{event(body)})
			if (err == nil) != want {
				t.Errorf("%s from a %s: got %v, want accepted %v", code, from.Kind, err, want)
			}
			if err != nil && (!fault.Is(err, fault.Invalid) || fault.Remedy(err) == "") {
				t.Errorf("%s from a %s: got %v, want invalid with a remedy", code, from.Kind, err)
			}
		}
	}
}

// An event of a node is about a user: a node cannot make the log say that an auth replica did something.
func TestMachineEventsAreAboutUsers(t *testing.T) {
	t.Parallel()
	log, _ := newLog(t)
	e := event(refusal)
	e.Actor = events.Actor{Kind: identity.Auth, Name: "auth-1"}
	err := log.AppendMachineEvents(t.Context(), nodeWeb, []events.Event{e})
	if !fault.Is(err, fault.Invalid) || fault.Remedy(err) == "" {
		t.Errorf("got %v, want it invalid with a remedy", err)
	}
}

// One malformed event makes the whole call fail, and none of its events is stored. The largest allowed call
// succeeds.
func TestMalformedEventsAreRefusedTogether(t *testing.T) {
	t.Parallel()
	log, st := newLog(t)
	long := event(events.SessionRefusal{Reason: strings.Repeat("x", 2000)})
	malformedID, withoutID, unknown, newer := event(refusal), event(refusal), event(refusal), event(refusal)
	malformedID.ID, withoutID.ID, unknown.Code, newer.V = strings.Repeat("Z", 32), "", "TH9999", 2
	withoutPlace := event(refusal)
	withoutPlace.Spool, withoutPlace.Number = "", 0
	large := event(refusal)
	large.Body = json.RawMessage(`{"x":"` + strings.Repeat("x", events.MaxBytes) + `"}`)
	many := make([]events.Event, authrpc.MaxEvents+1)
	for i := range many {
		many[i] = event(refusal)
	}
	for name, list := range map[string][]events.Event{
		"one without an id": {event(refusal), withoutID},
		"a malformed id":    {malformedID},
		"a text too long":   {long},
		"an unknown code":   {unknown},
		"a newer version":   {newer},
		"too large":         {large},
		"without a place":   {withoutPlace},
		"too many":          many,
	} {
		err := log.AppendMachineEvents(t.Context(), nodeWeb, list)
		if !fault.Is(err, fault.Invalid) || fault.Remedy(err) == "" {
			t.Errorf("%s: got %v, want invalid with a remedy", name, err)
		}
	}
	if got := statetest.Events(t, st); len(got) != 0 {
		t.Errorf("got %d events, want none of a refused batch", len(got))
	}
	if err := log.AppendMachineEvents(t.Context(), nodeWeb, many[:authrpc.MaxEvents]); err != nil {
		t.Errorf("the largest batch: got %v", err)
	}
}

// trimmer is a Store whose Trim fails at first, and whose second segment of three is damaged.
type trimmer struct {
	audit.Store
	calls   []time.Time
	checked []uint64
}

func (s *trimmer) VerifyEvents(_ context.Context, from uint64) (next uint64, err error) {
	s.checked = append(s.checked, from)
	switch from {
	case 0:
		return 100, nil
	case 100:
		return 200, faulttest.New(fault.Internal, "store", "it was changed", "compare it with a backup")
	}
	return 0, nil
}

func (s *trimmer) Trim(_ context.Context, now time.Time) (uint64, error) {
	s.calls = append(s.calls, now)
	if len(s.calls) == 1 {
		return 0, errors.New("not the leader")
	}
	return 7, nil
}

// Old events are removed at once and then every hour, also after a failure.
func TestOldEventsAreRemovedEveryHour(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var logged bytes.Buffer
		store := &trimmer{}
		log := audit.New(audit.Config{
			Store: store,
			Now:   time.Now,
			Log:   slog.New(slog.NewTextHandler(&logged, nil)),
		})
		ctx, cancel := context.WithTimeout(t.Context(), 150*time.Minute)
		defer cancel()
		start := time.Now()
		if err := log.Run(ctx); err != nil {
			t.Errorf("got %v, want nil", err)
		}
		want := []time.Time{start, start.Add(time.Hour), start.Add(2 * time.Hour)}
		if !slices.Equal(store.calls, want) {
			t.Errorf("got calls at %v, want %v", store.calls, want)
		}
		for _, text := range []string{"not the leader", "first=7"} {
			if !strings.Contains(logged.String(), text) {
				t.Errorf("got %q logged, want %q in it", logged.String(), text)
			}
		}
	})
}

// The log is checked segment by segment, from the end on again from the beginning, also behind a damaged one.
func TestTheLogIsCheckedAgainAndAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var logged bytes.Buffer
		store := &trimmer{}
		log := audit.New(audit.Config{
			Store: store,
			Now:   time.Now,
			Log:   slog.New(slog.NewTextHandler(&logged, nil)),
		})
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute+time.Second)
		defer cancel()
		if err := log.Run(ctx); err != nil {
			t.Errorf("got %v, want nil", err)
		}
		if want := []uint64{0, 100, 200, 0, 100}; !slices.Equal(store.checked, want) {
			t.Errorf("got segments %v checked, want %v", store.checked, want)
		}
		if n := strings.Count(logged.String(), "compare it with a backup"); n != 2 {
			t.Errorf("got %q logged, want the damage with its remedy each time", logged.String())
		}
	})
}
