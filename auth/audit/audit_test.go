package audit_test

import (
	"strings"
	"testing"
	"time"

	"github.com/threshold-access/threshold/auth/audit"
	"github.com/threshold-access/threshold/auth/state"
	"github.com/threshold-access/threshold/auth/state/statetest"
	events "github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

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

func event(code events.Code) events.Event {
	return events.Event{V: 1, Code: code, ID: state.NewID(), Time: time.Now()}
}

func TestNodeEventsCarryTheNodesOwnIdentity(t *testing.T) {
	st, _ := statetest.NewCluster(t)
	log := audit.New(st)
	e := event(events.SessionStarted)
	e.Machine, e.MachineID = "another", "00000000000000000000000000000009"
	for range 2 { // sending it twice is harmless
		if err := log.AppendMachineEvents(t.Context(), nodeWeb, []events.Event{e}); err != nil {
			t.Fatal(err)
		}
	}
	got, err := log.Read(t.Context(), 0, 10)
	if err != nil || len(got) != 1 || got[0].Event.Machine != "web" || got[0].Event.MachineID != nodeWeb.ID ||
		got[0].Number != 1 {
		t.Errorf("got %+v and %v, want the event once, as of web", got, err)
	}
}

func TestMachinesReportOnlyTheirEventCodes(t *testing.T) {
	st, _ := statetest.NewCluster(t)
	log := audit.New(st)
	may := map[events.Code]string{
		events.SessionStarted: "n", events.SessionEnded: "n", events.SessionRefused: "np", events.ForwardStarted: "n", events.NodeConnected: "p", events.NodeDisconnected: "p",
	}
	for code := range events.Descriptions {
		for _, from := range []identity.Identity{nodeWeb, proxyEdge} {
			err := log.AppendMachineEvents(t.Context(), from, []events.Event{event(code)})
			want := strings.Contains(may[code], string(from.Kind[0]))
			if (err == nil) != want ||
				err != nil && (!fault.Is(err, fault.Invalid) || fault.Remedy(err) == "") {
				t.Errorf("%s by a %s: got %v, want taken %v", code, from.Kind, err, want)
			}
		}
	}
}

func TestMalformedEventsAreRefusedTogether(t *testing.T) {
	st, _ := statetest.NewCluster(t)
	log := audit.New(st)
	long := event(events.SessionStarted)
	long.Reason = strings.Repeat("x", 2000)
	odd := event(events.SessionStarted)
	odd.ID = strings.Repeat("Z", 32)
	many := make([]events.Event, authrpc.MaxEvents+1)
	for i := range many {
		many[i] = event(events.SessionStarted)
	}
	for name, list := range map[string][]events.Event{
		"no id": {event(events.SessionStarted), {Code: events.SessionStarted, Time: time.Now()}}, "an odd id": {odd}, "too long": {long},
		"an unknown code": {event("TH9999")}, "too many": many,
	} {
		if err := log.AppendMachineEvents(t.Context(), nodeWeb, list); !fault.Is(err, fault.Invalid) ||
			fault.Remedy(err) == "" {
			t.Errorf("%s: got %v, want invalid with a remedy", name, err)
		}
	}
	if got, err := log.Read(t.Context(), 0, 10); err != nil || len(got) != 0 {
		t.Errorf("got %d events and %v, want none of a refused batch", len(got), err)
	}
	if err := log.AppendMachineEvents(t.Context(), nodeWeb, many[:authrpc.MaxEvents]); err != nil {
		t.Errorf("as many as may be: got %v", err)
	}
}
