package state

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"

	"github.com/threshold-access/threshold/internal/audit"
)

const auditStream = "audit"

// NewID returns a random id for an event, a machine or a login: 32 lower-case hex digits.
func NewID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // crypto/rand never fails since Go 1.24
	return hex.EncodeToString(b[:])
}

// NumberedEvent is an event and its number in the audit log. Numbers begin at 1 and have no gaps.
type NumberedEvent struct {
	Number uint64
	Event  audit.Event
}

// ReadEvents returns up to limit events, beginning with number from.
func (r *Reader) ReadEvents(ctx context.Context, from uint64, limit int) ([]NumberedEvent, error) {
	got, err := r.store.Read(ctx, auditStream, from, limit)
	if err != nil {
		return nil, err
	}
	out := make([]NumberedEvent, 0, len(got))
	for _, rec := range got {
		e := NumberedEvent{Number: rec.Number}
		if err := json.Unmarshal(rec.Data, &e.Event); err != nil {
			e.Event = audit.Event{Time: rec.Time, Reason: "this release cannot read this event"}
		}
		out = append(out, e)
	}
	return out, nil
}

// Events appends to the audit log, and reads. No event is ever changed or removed.
type Events struct{ writer }

// AppendEvents stores events that belong to no other change, such as a refusal or a start.
func (w *Events) AppendEvents(ctx context.Context, events ...audit.Event) error {
	if len(events) == 0 {
		return nil
	}
	var c change
	c.appendEvents(events...)
	_, err := w.commit(ctx, &c)
	return err
}

// recentEvents holds the ids of the last events of a machine that were stored. A machine that got no answer
// sends its events again; by these ids they are stored once.
type recentEvents struct {
	IDs []string `json:"ids"` // newest last
}

// maxRecentEvents is how many ids are kept for a machine. It is twice audit's bound of 200 events for one
// call, and a machine has one call in flight.
const maxRecentEvents = 400

var recentEventIDs = table[recentEvents]{
	prefix: "recent-events/", noun: "ids of the last events of", remedy: "send them again",
}

// AppendMachineEvents stores events that a machine sent, each id once.
func (w *Events) AppendMachineEvents(ctx context.Context, sender string, events []audit.Event) error {
	return retryOnConflict(func() error {
		old, err := recentEventIDs.getOrNew(ctx, w.Reader, sender)
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
		_, err = w.commit(ctx, &c)
		return err
	})
}
