package state

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"

	"github.com/threshold-access/threshold/internal/audit"
)

const auditStream = "audit"

// NewID draws what identifies an event, a machine or a login: 32 lower-case hex digits.
func NewID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // crypto/rand never fails since Go 1.24
	return hex.EncodeToString(b[:])
}

// appendEvents appends audit events in the same transaction. One without an id gets one.
func (c *change) appendEvents(events ...audit.Event) {
	for _, e := range events {
		if e.V == 0 {
			e.V = audit.Version
		}
		if e.ID == "" {
			e.ID = NewID()
		}
		c.setErr(e.Check())
		c.appendRecord(auditStream, e)
	}
}

// AppendEvents stores events that belong to no other change: a refusal, a start.
func (s *State) AppendEvents(ctx context.Context, events ...audit.Event) error {
	if len(events) == 0 {
		return nil
	}
	var c change
	c.appendEvents(events...)
	_, err := s.commit(ctx, &c)
	return err
}

// NumberedEvent is an event and its place in the audit log, counted from 1 without gaps.
type NumberedEvent struct {
	Number uint64
	Event  audit.Event
}

// ReadEvents returns up to limit events from number from on.
func (s *State) ReadEvents(ctx context.Context, from uint64, limit int) ([]NumberedEvent, error) {
	got, err := s.store.Read(ctx, auditStream, from, limit)
	if err != nil {
		return nil, err
	}
	out := make([]NumberedEvent, 0, len(got))
	for _, r := range got {
		e := NumberedEvent{Number: r.Number}
		if err := json.Unmarshal(r.Data, &e.Event); err != nil {
			e.Event = audit.Event{Time: r.Time, Reason: "this event cannot be read by this release"}
		}
		out = append(out, e)
	}
	return out, nil
}

// recentEvents remembers which events of a machine were stored last, so that sending them again after a lost
// answer is harmless.
type recentEvents struct {
	IDs []string `json:"ids"` // newest last
}

// maxRecentEvents is how many ids are remembered: a machine has one call in flight, of at most audit's 200
// events.
const maxRecentEvents = 400

var recentEventIDs = table[recentEvents]{
	prefix: "sent/",
	noun:   "record of sent events of",
	remedy: "send them again",
}

// AppendMachineEvents stores events that a machine sent, each id once.
func (s *State) AppendMachineEvents(ctx context.Context, sender string, events []audit.Event) error {
	return retryOnConflict(func() error {
		old, err := recentEventIDs.getOrNew(ctx, s, sender)
		if err != nil {
			return err
		}
		known := make(map[string]bool, len(old.Value.IDs))
		for _, id := range old.Value.IDs {
			known[id] = true
		}
		var c change
		ids := old.Value.IDs
		for _, e := range events {
			if !known[e.ID] {
				known[e.ID] = true
				ids = append(ids, e.ID)
				c.appendEvents(e)
			}
		}
		if len(c.txn.Append) == 0 {
			return c.err
		}
		recentEventIDs.replaceOrCreate(&c, old, recentEvents{IDs: ids[max(0, len(ids)-maxRecentEvents):]})
		_, err = s.commit(ctx, &c)
		return err
	})
}

const issuanceStream = "issued"

// AppendIssuance stores the record of one issuance and the events it is part of. Concurrent calls share log
// entries.
func (s *State) AppendIssuance(ctx context.Context, record json.RawMessage, events ...audit.Event) error {
	var c change
	c.appendRecord(issuanceStream, record)
	c.appendEvents(events...)
	_, err := s.commit(ctx, &c)
	return err
}

// ReadIssuances returns up to limit issuance records from number from on.
func (s *State) ReadIssuances(ctx context.Context, from uint64, limit int) ([]json.RawMessage, error) {
	got, err := s.store.Read(ctx, issuanceStream, from, limit)
	if err != nil {
		return nil, err
	}
	out := make([]json.RawMessage, len(got))
	for i, r := range got {
		out[i] = r.Data
	}
	return out, nil
}
