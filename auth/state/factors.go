package state

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/identity"
)

// UserFactors is the second factors of one user, with the count of wrong answers against them. A user who
// never answered a challenge has no record.
type UserFactors struct {
	List         []Factor  `json:"-"`                     // in the order of their enrolment
	Recovery     [][]byte  `json:"recovery,omitempty"`    // hashes of those that are not used yet
	WrongAnswers int       `json:"wrong,omitempty"`       // since the last correct answer
	LockedUntil  time.Time `json:"locked_until,omitzero"` // no answer is judged before
}

// Factor is one second factor: an authenticator app, or another device.
type Factor struct {
	ID   string `json:"id"`
	Kind string `json:"kind"` // which auth/factor.Method judges its answers, such as "totp"
	// Secret is what only the method may read, such as the key of a TOTP app. It is sealed when stored.
	Secret string `json:"-"`
	// Data is what else the method keeps, such as the last step that was used.
	Data     json.RawMessage `json:"data,omitempty"`
	Enrolled time.Time       `json:"enrolled,omitzero"`
	Proxy    string          `json:"proxy,omitempty"` // the proxy through which it was enrolled
}

// factorsRecord is a UserFactors as it is stored.
type factorsRecord struct {
	UserFactors
	Sealed []sealedFactor `json:"list,omitempty"`
}

// sealedFactor is a Factor as it is stored, with its secret encrypted.
type sealedFactor struct {
	Factor
	Sealed []byte `json:"sealed,omitempty"`
}

var factors = table[factorsRecord]{
	prefix: "factors/", noun: "second factors of", remedy: "log in to enrol one: tsh login",
}

// StoredFactors is the UserFactors as they were read. PutFactors fails if the stored ones have changed since.
type StoredFactors struct {
	UserFactors
	record Stored[factorsRecord]
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

// Factors returns the user's second factors. A user without a record gets an empty UserFactors, which
// PutFactors may write.
func (w *Factors) Factors(ctx context.Context, k identity.UserKey) (StoredFactors, error) {
	rec, err := factors.getOrNew(ctx, w.writer.Reader, UserID(k))
	if err != nil {
		return StoredFactors{}, err
	}
	out := StoredFactors{UserFactors: rec.Value.UserFactors, record: rec}
	for _, sealed := range rec.Value.Sealed {
		f := sealed.Factor
		if f.Secret, err = w.secrets.openText(factorSeal(rec.Key, f.ID), sealed.Sealed); err != nil {
			return StoredFactors{}, err
		}
		out.List = append(out.List, f)
	}
	return out, nil
}

// factorSeal is the name under which the secret of one factor is sealed.
func factorSeal(user, id string) string { return factors.prefix + user + "/" + id }

// PutFactors writes next in the place of old, and the events, if nothing has changed since old was read;
// otherwise it returns fault Conflict and writes nothing. Because of this compare-and-set each answer is used
// at most once in the whole cluster.
func (w *Factors) PutFactors(
	ctx context.Context, old StoredFactors, next UserFactors, events ...audit.Event,
) error {
	record := factorsRecord{UserFactors: next}
	for _, f := range next.List {
		sealed, err := w.sealFactor(old, f)
		if err != nil {
			return err
		}
		record.Sealed = append(record.Sealed, sealed)
	}
	var c change
	c.appendEvents(events...)
	factors.replaceOrCreate(&c, old.record, record)
	_, err := w.writer.commit(ctx, &c)
	return err
}

// sealFactor seals the secret of a factor. The secret of one that old has too never changes, so its stored
// form is kept.
func (w *Factors) sealFactor(old StoredFactors, f Factor) (sealedFactor, error) {
	stored := old.record.Value.Sealed
	same := func(s sealedFactor) bool { return s.ID == f.ID }
	if at := slices.IndexFunc(stored, same); at >= 0 {
		return sealedFactor{f, stored[at].Sealed}, nil
	}
	sealed, err := w.secrets.sealText(factorSeal(old.record.Key, f.ID), f.Secret)
	return sealedFactor{f, sealed}, err
}
