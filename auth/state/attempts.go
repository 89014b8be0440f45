package state

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"time"
)

// AttemptID is the SHA-256 of the identifier of a login attempt.
type AttemptID [sha256.Size]byte

func (id AttemptID) key() string { return hex.EncodeToString(id[:]) }

// attemptRecord is a login attempt whose user a provider has identified. It stays after the login is
// finished, without its content, until it expires: an attempt is used once.
type attemptRecord struct {
	Sealed  []byte    `json:"sealed,omitempty"` // what auth/login keeps of it, encrypted; empty: it was used
	Expires time.Time `json:"expires"`
}

var attempts = table[attemptRecord]{prefix: "attempts/", noun: "login attempt", remedy: "run: tsh login"}

// StoredAttempt is a login attempt as it was read.
type StoredAttempt struct {
	Content []byte // what AddAttempt was given
	record  Stored[attemptRecord]
}

// Attempts stores login attempts and reads them. Only attempts whose user a provider has identified are
// stored: otherwise a stranger could fill the store.
type Attempts struct {
	writer  writer
	secrets secrets
}

// AddAttempt stores the content of an attempt, encrypted, until it expires. An attempt that is stored already
// gets fault Expired, also after it was used: a provider's answer counts once. now is for the removal of
// attempts that have expired, of which each new one removes some.
func (w *Attempts) AddAttempt(
	ctx context.Context, id AttemptID, content []byte, expires, now time.Time,
) error {
	sealed, err := w.secrets.sealText(attempts.prefix+id.key(), string(content))
	if err != nil {
		return err
	}
	c := change{conflict: attemptUsed.New("state.AddAttempt")}
	if err := sweepAttempts(ctx, w.writer.Reader, &c, now); err != nil {
		return err
	}
	attempts.create(&c, id.key(), attemptRecord{Sealed: sealed, Expires: expires})
	_, err = w.writer.commit(ctx, &c)
	return err
}

// sweepAttempts adds to c the removal of attempts that have expired. It looks at sweepLimit attempts only, in
// the order of their ids, which is random: in time it meets every attempt.
func sweepAttempts(ctx context.Context, r *Reader, c *change, now time.Time) error {
	got, err := attempts.list(ctx, r, Page{Limit: sweepLimit})
	if err != nil {
		return err
	}
	for _, a := range got.Items {
		if now.After(a.Value.Expires) {
			attempts.deleteKey(c, a.Key)
		}
	}
	return nil
}

// Attempt returns a stored attempt. One that was used, and one that is not stored any more, get fault
// Expired.
func (w *Attempts) Attempt(ctx context.Context, id AttemptID) (StoredAttempt, error) {
	rec, err := attempts.getOrNew(ctx, w.writer.Reader, id.key())
	if err != nil {
		return StoredAttempt{}, err
	}
	if len(rec.Value.Sealed) == 0 {
		return StoredAttempt{}, attemptUsed.New("state.Attempt")
	}
	content, err := w.secrets.openText(attempts.prefix+id.key(), rec.Value.Sealed)
	return StoredAttempt{Content: []byte(content), record: rec}, err
}

// markUsed adds to c that the attempt is used. If it was used since it was read, the whole change fails.
func (a StoredAttempt) markUsed(c *change) {
	attempts.replace(c, a.record, attemptRecord{Expires: a.record.Value.Expires})
}
