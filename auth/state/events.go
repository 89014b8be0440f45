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

// NumberedEvent is an event and its number in the audit log. Numbers begin at 1 and have no gaps. The event
// is as it was stored, with fields that only a newer release knows.
type NumberedEvent struct {
	Number uint64
	JSON   json.RawMessage
}

// ReadEvents returns up to limit events, beginning with number from. It returns fewer when they are large,
// and none when there are no more yet.
func (r *Reader) ReadEvents(ctx context.Context, from uint64, limit int) ([]NumberedEvent, error) {
	got, err := r.store.Read(ctx, auditStream, from, limit)
	if err != nil {
		return nil, err
	}
	out := make([]NumberedEvent, 0, len(got))
	for _, rec := range got {
		out = append(out, NumberedEvent{Number: rec.Number, JSON: rec.Data})
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

// recentEvents has the ids of the events of a machine that were stored last. A machine that got no answer
// sends its events again; those whose ids are here are not stored a second time.
type recentEvents struct {
	IDs []string `json:"ids"` // newest last
}

// maxRecentEvents is how many ids are kept for a machine. It is twice audit's bound of 200 events for one
// call, and a machine has one call in flight.
const maxRecentEvents = 400

var recentEventIDs = table[recentEvents]{
	prefix: "recent-events/", noun: "ids of the last events of", remedy: "send them again",
}

// AppendMachineEvents stores the events that a machine sent, in one transaction. An event that was stored
// before is skipped: the machine may not have got the answer, and sends it again. sender is the machine's id.
func (w *Events) AppendMachineEvents(ctx context.Context, sender string, events []audit.Event) error {
	return retryOnConflict(func() error {
		old, err := recentEventIDs.getOrNew(ctx, w.Reader, sender)
		if err != nil {
			return err
		}
		ids := old.Value.IDs
		known := make(map[string]bool, len(ids))
		for _, id := range ids {
			known[id] = true
		}
		var c change
		for _, e := range events {
			if known[e.ID] {
				continue
			}
			known[e.ID] = true // an id may also be twice in events
			ids = append(ids, e.ID)
			c.appendEvents(e)
		}
		if nothingNew := len(c.events) == 0; nothingNew {
			return c.err
		}
		// The ids are stored with the events. Of two calls at the same time the second fails with a conflict,
		// reads the ids of the first and tries again.
		newest := ids[max(0, len(ids)-maxRecentEvents):]
		recentEventIDs.replaceOrCreate(&c, old, recentEvents{IDs: newest})
		_, err = w.commit(ctx, &c)
		return err
	})
}
