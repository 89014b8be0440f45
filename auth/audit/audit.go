// Package audit answers: what happened, in order?
//
// The auth service commits its own events together with the changes that they describe, in the packages that
// make them. This package stores the events that machines send, and reads the log.
package audit

import (
	"context"
	"log/slog"
	"slices"
	"time"

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
	Trim(ctx context.Context, now time.Time) (first uint64, err error)
	VerifyEvents(ctx context.Context, from uint64) (next uint64, err error)
}

// Config says what the log needs. All of it is required.
type Config struct {
	Store Store
	Now   func() time.Time // when an event is received, and how old it is
	Log   *slog.Logger
}

// Log is the cluster's audit log. It is safe for concurrent use.
type Log struct {
	cfg Config
}

// New makes a log. Run removes old events from it.
func New(cfg Config) *Log { return &Log{cfg} }

const (
	// trimInterval is how often Run looks for events that are too old. Retention is counted in days.
	trimInterval = time.Hour
	// verifyInterval is how often Run checks one segment of the log, some megabytes.
	verifyInterval = time.Minute
)

// Run removes events that are older than the settings of the cluster allow, at once and then every hour. It
// also checks the log against its digests, one segment a minute, again and again. It runs until ctx ends and
// always returns nil: what fails is logged.
func (l *Log) Run(ctx context.Context) error {
	trim, verify := time.NewTicker(trimInterval), time.NewTicker(verifyInterval)
	defer trim.Stop()
	defer verify.Stop()
	l.trim(ctx)
	next := uint64(0) // from here on the log is checked next
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-trim.C:
			l.trim(ctx)
		case <-verify.C:
			next = l.verify(ctx, next)
		}
	}
}

// trim removes events that are too old.
func (l *Log) trim(ctx context.Context) {
	first, err := l.cfg.Store.Trim(ctx, l.cfg.Now())
	switch {
	case err != nil && ctx.Err() == nil:
		l.cfg.Log.Warn("old audit events could not be removed", "err", err, "retry_in", trimInterval)
	case first > 0:
		l.cfg.Log.Info("old audit events were removed", "first", first)
	}
}

// verify checks the segment of event number from, and returns the number with which the next one begins.
func (l *Log) verify(ctx context.Context, from uint64) (next uint64) {
	next, err := l.cfg.Store.VerifyEvents(ctx, from)
	if err != nil && ctx.Err() == nil {
		l.cfg.Log.Error("the audit log is not as it was written", "err", err, "remedy", fault.Remedy(err))
	}
	return next
}

// lateAfter is how long an event may take from the machine to here without being called late.
const lateAfter = time.Minute

// allowedCodes are the codes that each kind of machine may send: those of which only that machine knows. A
// stolen node, for example, cannot make the log say that a user logged in. Other kinds may send none.
var allowedCodes = map[identity.Kind][]audit.Code{
	identity.Node: {audit.SessionStarted, audit.SessionEnded, audit.SessionRefused, audit.ForwardStarted},
}

// AppendMachineEvents stores the events that a machine sends. from is the identity in the certificate of its
// connection. It stores all events or none; one whose place in the machine's spool is stored already, because
// the machine sends it again after a lost answer, is skipped. The whole call fails with fault Invalid if an
// event is malformed or not one that the machine may send, or if there are more than authrpc.MaxEvents.
func (l *Log) AppendMachineEvents(ctx context.Context, from identity.Identity, events []audit.Event) error {
	const op = "audit.AppendMachineEvents"
	if len(events) > authrpc.MaxEvents {
		return tooManyEvents.New(op, fault.Args{"count": len(events), "most": authrpc.MaxEvents})
	}
	checked := make([]audit.Event, len(events))
	now := l.cfg.Now().UTC()
	for i, e := range events {
		e = stamp(e, from, now)
		if err := checkMachineEvent(from, e); err != nil {
			return err
		}
		checked[i] = e
	}
	return l.cfg.Store.AppendMachineEvents(ctx, string(from.ID), checked)
}

// stamp returns the event with what this service knows better than the machine. Whatever the event says, the
// sender is the one whose certificate was verified: a machine cannot report in the name of another. The time
// at which it was received is that of this service's clock.
func stamp(e audit.Event, from identity.Identity, now time.Time) audit.Event {
	e.SaidBy, e.Machine = audit.MachineOf(from), audit.MachineOf(from)
	e.Received, e.Lost = now, 0
	e.Late = now.Sub(e.Time).Abs() > lateAfter
	return e
}

// checkMachineEvent returns a fault of kind Invalid for an event that is malformed or too large, that has a
// code which a machine of from's kind may not send, that is not about a user, or that has no place in a
// spool. A fault of another kind would make the machine send it again and again.
func checkMachineEvent(from identity.Identity, e audit.Event) error {
	const op = "audit.AppendMachineEvents"
	if _, err := e.Encode(); err != nil {
		return err
	}
	if !slices.Contains(allowedCodes[from.Kind], e.Code) {
		return eventNotAllowed.New(op, fault.Args{"kind": from.Kind, "code": e.Code})
	}
	if e.Actor.Kind != identity.User {
		return eventWithoutUser.New(op, fault.Args{"code": e.Code})
	}
	if e.Spool == "" {
		return eventWithoutPlace.New(op, fault.Args{"code": e.Code})
	}
	return nil
}

// Read returns up to limit events in the order of their numbers, beginning with number after+1, or with the
// first that was not removed. Numbers begin at 1, so an after of 0 reads from the beginning.
func (l *Log) Read(ctx context.Context, after uint64, limit int) ([]state.NumberedEvent, error) {
	return l.cfg.Store.ReadEvents(ctx, after+1, limit)
}
