// Package audit answers: what happened, in order?
//
// Auth's own events are committed with what they tell of, by the rooms that do it. Here arrive those of
// machines, and here they are read.
package audit

import (
	"context"
	"fmt"

	"github.com/threshold-access/threshold/auth/state"
	"github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

// Log is the cluster's audit log. It is safe for concurrent use.
type Log struct{ state *state.State }

// New makes a log.
func New(s *state.State) *Log { return &Log{s} }

// allowedCodes are the codes each kind of machine may send: what it alone can know. No node can say that
// somebody logged in.
var allowedCodes = map[identity.Kind][]audit.Code{
	identity.Node:  {audit.SessionStarted, audit.SessionEnded, audit.SessionRefused, audit.ForwardStarted},
	identity.Proxy: {audit.SessionRefused, audit.NodeConnected, audit.NodeDisconnected},
}

// AppendMachineEvents stores a machine's events, each id once. A node's are stored as its own, whatever they
// claim; a proxy's as having come by it.
func (l *Log) AppendMachineEvents(ctx context.Context, from identity.Identity, events []audit.Event) error {
	if len(events) > authrpc.MaxEvents {
		return fault.New(
			fault.Invalid,
			"audit.Take",
			fmt.Sprintf("%d events at once, more than %d", len(events), authrpc.MaxEvents),
			"send fewer at once",
		)
	}
	checked := make([]audit.Event, len(events))
	for i, e := range events {
		if err := check(from, e); err != nil {
			return fault.Wrap(
				err,
				fault.Invalid,
				"audit.Take",
				err.Error(),
				"update the agent: its version does not match auth's",
			)
		}
		if from.Kind == identity.Node {
			e.Machine, e.MachineID = from.Name, from.ID
		} else {
			e.Proxy = from.Name
		}
		checked[i] = e
	}
	return l.state.Events.AppendMachineEvents(ctx, string(from.ID), checked)
}

func check(from identity.Identity, e audit.Event) error {
	if err := e.Check(); err != nil {
		return err
	}
	if identity.CheckMachineID(identity.MachineID(e.ID)) != nil { // 32 hex digits, as a machine's id
		return fmt.Errorf("event id %.40q is not 32 hex digits", e.ID)
	}
	for _, code := range allowedCodes[from.Kind] {
		if code == e.Code {
			return nil
		}
	}
	return fmt.Errorf("a %s does not report %s", from.Kind, e.Code)
}

// Read returns a page of the log from number after+1 on.
func (l *Log) Read(ctx context.Context, after uint64, limit int) ([]state.NumberedEvent, error) {
	return l.state.ReadEvents(ctx, after+1, limit)
}
