package state

import (
	"context"
	"encoding/json"

	"github.com/threshold-access/threshold/internal/audit"
)

const issuanceStream = "issued"

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

// AppendIssuance stores the record of one issuance together with its events. Concurrent calls share log
// entries.
func (w *Issuances) AppendIssuance(ctx context.Context, record json.RawMessage, events ...audit.Event) error {
	var c change
	c.appendRecord(issuanceStream, record)
	c.appendEvents(events...)
	_, err := w.commit(ctx, &c)
	return err
}
