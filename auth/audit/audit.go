// Package audit answers: what happened, in order?
//
// The auth service commits its own events together with the changes that they describe, in the packages that
// make them. This package stores the events that machines send, and reads the log.
package audit

import (
	"context"
	"fmt"
	"slices"

	"github.com/threshold-access/threshold/auth/state"
	"github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

// Store holds the events. state.Events implements it.
type Store interface {
	AppendMachineEvents(ctx context.Context, sender string, events []audit.Event) error
	ReadEvents(ctx context.Context, from uint64, limit int) ([]state.NumberedEvent, error)
}

// Log is the cluster's audit log. It is safe for concurrent use.
type Log struct{ store Store }

// New makes a log.
func New(s Store) *Log { return &Log{s} }

// allowedCodes are the codes that each kind of machine may send: those of which only that machine knows. A
// stolen node, for example, cannot make the log say that a user logged in. Other kinds may send none.
var allowedCodes = map[identity.Kind][]audit.Code{
	identity.Node:  {audit.SessionStarted, audit.SessionEnded, audit.SessionRefused, audit.ForwardStarted},
	identity.Proxy: {audit.SessionRefused, audit.NodeConnected, audit.NodeDisconnected},
}

// AppendMachineEvents stores the events that a machine sends. from is the identity in the certificate of its
// connection. It stores all events or none; one whose id is stored already, because the machine sends it
// again after a lost answer, is stored only once. The whole call fails with fault Invalid if an event is
// malformed or not one that the machine may send, or if there are more than authrpc.MaxEvents.
func (l *Log) AppendMachineEvents(ctx context.Context, from identity.Identity, events []audit.Event) error {
	const op = "audit.AppendMachineEvents"
	if len(events) > authrpc.MaxEvents {
		msg := fmt.Sprintf("%d events in one call, more than %d", len(events), authrpc.MaxEvents)
		return fault.New(fault.Invalid, op, msg, "send fewer at once")
	}
	checked := make([]audit.Event, len(events))
	for i, e := range events {
		if err := checkMachineEvent(from, e); err != nil {
			return fault.Wrap(err, fault.Invalid, op, err.Error(),
				"update this machine: its version does not match that of the auth service")
		}
		// Whatever the event says, the sender is the one whose certificate was verified: a machine cannot
		// report in the name of another. A proxy's events may be about a node, so they keep its name.
		if from.Kind == identity.Node {
			e.Machine, e.MachineID = from.Name, from.ID
		} else {
			e.Proxy = from.Name
		}
		checked[i] = e
	}
	return l.store.AppendMachineEvents(ctx, string(from.ID), checked)
}

// checkMachineEvent returns an error for an event that is malformed, or whose code a machine of from's kind
// may not send.
func checkMachineEvent(from identity.Identity, e audit.Event) error {
	if err := e.Check(); err != nil {
		return err
	}
	if identity.CheckMachineID(identity.MachineID(e.ID)) != nil { // an event id has the form of a machine id
		return fmt.Errorf("event id %.40q is not 32 hex digits", e.ID)
	}
	if !slices.Contains(allowedCodes[from.Kind], e.Code) {
		return fmt.Errorf("a %s may not report %s", from.Kind, e.Code)
	}
	return nil
}

// Read returns up to limit events in the order of their numbers, beginning with number after+1. Numbers begin
// at 1, so an after of 0 reads from the beginning.
func (l *Log) Read(ctx context.Context, after uint64, limit int) ([]state.NumberedEvent, error) {
	return l.store.ReadEvents(ctx, after+1, limit)
}
