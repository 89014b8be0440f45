package state

import (
	"context"
	"time"

	"github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/identity"
)

// Factor is a user's second factor, with the count of wrong codes against it. A user who never entered a code
// has no record.
type Factor struct {
	Secret      string    `json:"-"`                     // base32; sealed when stored; empty: not enrolled
	LastStep    int64     `json:"last_step,omitempty"`   // the newest TOTP step that was used
	ReusedStep  int64     `json:"reused_step,omitempty"` // the newest used step that was tried again
	WrongCodes  int       `json:"wrong_codes,omitempty"` // since the last correct code
	LockedUntil time.Time `json:"locked_until,omitzero"` // no code is checked before
	Recovery    [][]byte  `json:"recovery,omitempty"`    // hashes of the recovery codes that are not used yet
	Enrolled    time.Time `json:"enrolled,omitzero"`     // when it was enrolled
	Proxy       string    `json:"proxy,omitempty"`       // the proxy through which it was enrolled
}

// factorRecord is a Factor as it is stored.
type factorRecord struct {
	Factor
	Sealed []byte `json:"sealed,omitempty"` // the secret, encrypted; empty: not enrolled
}

var factors = table[factorRecord]{
	prefix: "factors/", noun: "second factor of", remedy: "log in to enrol one: tsh login",
}

// StoredFactor is a Factor as it was read. PutFactor fails if the stored one has changed since.
type StoredFactor struct {
	Factor
	record Stored[factorRecord]
}

// HasFactor reports whether the user has enrolled a second factor. It opens no secret.
func (r *Reader) HasFactor(ctx context.Context, k identity.UserKey) (bool, error) {
	rec, err := factors.getOrNew(ctx, r, UserID(k))
	return len(rec.Value.Sealed) > 0, err
}

// Factors reads and changes second factors.
type Factors struct {
	writer  writer
	secrets secrets
}

// Factor returns the user's second factor. A user without a record gets an empty one, which PutFactor may
// write.
func (w *Factors) Factor(ctx context.Context, k identity.UserKey) (StoredFactor, error) {
	rec, err := factors.getOrNew(ctx, w.writer.Reader, UserID(k))
	if err != nil {
		return StoredFactor{}, err
	}
	out := StoredFactor{Factor: rec.Value.Factor, record: rec}
	out.Secret, err = w.secrets.openText(factors.prefix+rec.Key, rec.Value.Sealed)
	return out, err
}

// PutFactor writes next in the place of old, and the events, if the factor is unchanged since old was read;
// otherwise it returns fault Conflict and writes nothing. Because of this compare-and-set each TOTP step is
// used at most once in the whole cluster.
func (w *Factors) PutFactor(ctx context.Context, old StoredFactor, next Factor, events ...audit.Event) error {
	record := factorRecord{Factor: next, Sealed: old.record.Value.Sealed}
	if next.Secret != old.Secret {
		sealed, err := w.secrets.sealText(factors.prefix+old.record.Key, next.Secret)
		if err != nil {
			return err
		}
		record.Sealed = sealed
	}
	var c change
	c.appendEvents(events...)
	factors.replaceOrCreate(&c, old.record, record)
	_, err := w.writer.commit(ctx, &c)
	return err
}
