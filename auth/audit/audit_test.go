package audit_test

import (
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/threshold-access/threshold/auth/audit"
	"github.com/threshold-access/threshold/auth/state"
	"github.com/threshold-access/threshold/auth/state/statetest"
	events "github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
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

func newLog(t *testing.T) *audit.Log {
	t.Helper()
	st, _ := statetest.NewCluster(t)
	return audit.New(st.Events)
}

func event(code events.Code) events.Event {
	return events.Event{V: 1, Code: code, ID: state.NewID(), Time: time.Now()}
}

func TestNodeEventsNameTheNodeThatSentThem(t *testing.T) {
	t.Parallel()
	log := newLog(t)
	e := event(events.SessionStarted)
	e.Machine, e.MachineID = "another", "00000000000000000000000000000009"
	for range 2 { // as after a lost answer
		if err := log.AppendMachineEvents(t.Context(), nodeWeb, []events.Event{e}); err != nil {
			t.Fatal(err)
		}
	}
	got, err := log.Read(t.Context(), 0, 10)
	if err != nil || len(got) != 1 || got[0].Number != 1 {
		t.Fatalf("got %+v and %v, want the event once", got, err)
	}
	if e := got[0].Event; e.Machine != "web" || e.MachineID != nodeWeb.ID {
		t.Errorf("got %s (%s), want the sender web", e.Machine, e.MachineID)
	}
}

// For every registered code: a node and a proxy may send it only if it is about what that kind of machine
// knows.
func TestMachinesReportOnlyTheirEventCodes(t *testing.T) {
	t.Parallel()
	log := newLog(t)
	senders := map[events.Code][]identity.Kind{
		events.SessionStarted:   {identity.Node},
		events.SessionEnded:     {identity.Node},
		events.SessionRefused:   {identity.Node, identity.Proxy},
		events.ForwardStarted:   {identity.Node},
		events.NodeConnected:    {identity.Proxy},
		events.NodeDisconnected: {identity.Proxy},
	}
	for code := range events.Descriptions {
		for _, from := range []identity.Identity{nodeWeb, proxyEdge} {
			want := false
			for _, kind := range senders[code] {
				want = want || kind == from.Kind
			}
			err := log.AppendMachineEvents(t.Context(), from, []events.Event{event(code)})
			if (err == nil) != want {
				t.Errorf("%s from a %s: got %v, want accepted %v", code, from.Kind, err, want)
			}
			if err != nil && (!fault.Is(err, fault.Invalid) || fault.Remedy(err) == "") {
				t.Errorf("%s from a %s: got %v, want invalid with a remedy", code, from.Kind, err)
			}
		}
	}
}

// One malformed event makes the whole call fail, and none of its events is stored. The largest allowed call
// succeeds.
func TestMalformedEventsAreRefusedTogether(t *testing.T) {
	t.Parallel()
	log := newLog(t)
	long := event(events.SessionStarted)
	long.Reason = strings.Repeat("x", 2000)
	malformedID := event(events.SessionStarted)
	malformedID.ID = strings.Repeat("Z", 32)
	withoutID := events.Event{Code: events.SessionStarted, Time: time.Now()}
	many := make([]events.Event, authrpc.MaxEvents+1)
	for i := range many {
		many[i] = event(events.SessionStarted)
	}
	for name, list := range map[string][]events.Event{
		"one without an id": {event(events.SessionStarted), withoutID},
		"a malformed id":    {malformedID},
		"a text too long":   {long},
		"an unknown code":   {event("TH9999")},
		"too many":          many,
	} {
		err := log.AppendMachineEvents(t.Context(), nodeWeb, list)
		if !fault.Is(err, fault.Invalid) || fault.Remedy(err) == "" {
			t.Errorf("%s: got %v, want invalid with a remedy", name, err)
		}
	}
	if got, err := log.Read(t.Context(), 0, 10); err != nil || len(got) != 0 {
		t.Errorf("got %d events and %v, want none of a refused batch", len(got), err)
	}
	if err := log.AppendMachineEvents(t.Context(), nodeWeb, many[:authrpc.MaxEvents]); err != nil {
		t.Errorf("the largest batch: got %v", err)
	}
}
