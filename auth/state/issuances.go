package state

import (
	"context"
	"encoding/json"

	"github.com/threshold-access/threshold/internal/audit"
)

const issuanceStream = "issued"

// appendIssuances adds the records of certificates that are issued for what the change does.
func (c *change) appendIssuances(records []json.RawMessage) {
	for _, record := range records {
		c.appendRecord(issuanceStream, record)
	}
}

// ReadIssuances returns up to limit issuance records, beginning with number from.
func (r *Reader) ReadIssuances(ctx context.Context, from uint64, limit int) ([]json.RawMessage, error) {
	got, err := r.store.Read(ctx, issuanceStream, from, limit)
	if err != nil {
		return nil, err
	}
	out := make([]json.RawMessage, len(got))
	for i, rec := range got {
		out[i] = rec.Data
	}
	return out, nil
}

// Issuances appends issuance records, and reads.
type Issuances struct{ writer }

// AppendIssuances stores the records of certificates that are issued together, and their events. Concurrent
// calls share log entries.
func (w *Issuances) AppendIssuances(
	ctx context.Context, records []json.RawMessage, events ...audit.Event,
) error {
	var c change
	c.appendIssuances(records)
	c.appendEvents(events...)
	_, err := w.commit(ctx, &c)
	return err
}
