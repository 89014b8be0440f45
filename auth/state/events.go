package state

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"slices"
	"time"

	"github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/raftstore"
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

// ReadEvents returns up to limit events, beginning with number from, or with the first that was not removed.
// It returns fewer when they are large, and none when there are no more yet.
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

// Events appends to the audit log, and reads. No event is ever changed. Trim removes the oldest ones if the
// settings say so.
type Events struct{ writer }

// VerifyEvents checks one segment of the log against the digests of the store: that of event number from. See
// raftstore.Store.VerifySegment.
func (w *Events) VerifyEvents(ctx context.Context, from uint64) (next uint64, err error) {
	return w.store.VerifySegment(ctx, auditStream, from)
}

// Trim removes the events that are older than the settings allow, as far as they fill whole segments of the
// store, and records that as an event of its own. It returns the number of the first event that remains, or 0
// if it removed none. The newest segment always stays.
func (w *Events) Trim(ctx context.Context, now time.Time) (first uint64, err error) {
	settings, err := w.Settings(ctx)
	retention := settings.Value.AuditRetention
	if err != nil || retention == 0 {
		return 0, err
	}
	point, found, err := w.store.FindTrimPoint(ctx, auditStream, now.Add(-time.Duration(retention)))
	if err != nil || !found {
		return 0, err
	}
	text, err := retention.MarshalText()
	if err != nil {
		return 0, err
	}
	var c change
	settingsRecords.requireUnchanged(&c, settings) // somebody may be raising the retention just now
	c.appendEvents(audit.New(now, identity.Identity{}, audit.LogTrim{
		Before:    point.Before,
		Digest:    point.Digest.String(),
		Retention: string(text),
	}))
	c.txn.Trim = []raftstore.Trim{{Stream: auditStream, Before: point.Before}}
	_, err = w.commit(ctx, &c)
	return point.Before, err
}

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

// spoolPlace says that the events of one run of a machine's spool are stored up to a number.
type spoolPlace struct {
	Instance identity.InstanceID `json:"instance"` // audit.Event.Spool
	Number   uint64              `json:"number"`
}

// storedPlaces has the places up to which the events of a machine are stored, by the runs of its spool that
// sent last. A machine that got no answer sends its events again: they are known by their numbers.
type storedPlaces struct {
	Spools []spoolPlace `json:"spools"` // newest last
}

// maxSpools is how many runs of a spool are remembered for a machine. It sends its oldest events first, so
// only events of the last run that sent can be repeated. The others are for a machine that two processes run
// by mistake.
const maxSpools = 4

var spools = table[storedPlaces]{
	prefix: "spools/", noun: "stored events of", remedy: "send them again",
}

// skipStored returns the events that are not stored yet, with Lost set, and the places after them. The events
// of one run of a spool must be in the order of their numbers.
func (p storedPlaces) skipStored(events []audit.Event) (fresh []audit.Event, next storedPlaces) {
	next.Spools = slices.Clone(p.Spools)
	for _, e := range events {
		i := slices.IndexFunc(next.Spools, func(s spoolPlace) bool { return s.Instance == e.Spool })
		stored := uint64(0)
		if i >= 0 {
			stored = next.Spools[i].Number
		}
		if e.Number <= stored {
			continue
		}
		e.Lost = e.Number - stored - 1
		fresh = append(fresh, e)
		if i >= 0 {
			next.Spools = slices.Delete(next.Spools, i, i+1)
		}
		next.Spools = append(next.Spools, spoolPlace{Instance: e.Spool, Number: e.Number})
	}
	next.Spools = next.Spools[max(0, len(next.Spools)-maxSpools):]
	return fresh, next
}

// AppendMachineEvents stores the events that a machine sent, in one transaction. An event that was stored
// before is skipped: the machine may not have got the answer, and sends it again. Every event has a place in
// a spool, and those of one spool are in order. sender is the machine's id.
func (w *Events) AppendMachineEvents(ctx context.Context, sender string, events []audit.Event) error {
	return retryOnConflict(func() error {
		old, err := spools.getOrNew(ctx, w.Reader, sender)
		if err != nil {
			return err
		}
		fresh, next := old.Value.skipStored(events)
		if len(fresh) == 0 {
			return nil
		}
		var c change
		c.appendEvents(fresh...)
		// The places are stored with the events. Of two calls at the same time the second fails with a
		// conflict, reads the places of the first and tries again.
		spools.replaceOrCreate(&c, old, next)
		_, err = w.commit(ctx, &c)
		return err
	})
}
