package state

import (
	"context"
	"time"

	"github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/identity"
)

// Factor is a person's second factor and the count of wrong codes against it. A person who never gave a code
// has none.
type Factor struct {
	Secret      string    `json:"-"`                  // base32; empty: none is enrolled. Sealed at rest
	LastStep    int64     `json:"step,omitempty"`     // the last time step that was burned: it and those before it are used up
	ReusedStep  int64     `json:"reused,omitempty"`   // the last burned step that was tried again
	WrongCodes  int       `json:"wrong,omitempty"`    // wrong codes since the last right one
	LockedUntil time.Time `json:"until,omitzero"`     // no code is looked at before
	Recovery    [][]byte  `json:"recovery,omitempty"` // hashes of the recovery codes not yet used
	Enrolled    time.Time `json:"enrolled,omitzero"`
	Proxy       string    `json:"proxy,omitempty"` // the proxy the enrolment came by
}

// factorRecord is a Factor as it is stored.
type factorRecord struct {
	Factor
	Sealed []byte `json:"sealed,omitempty"`
}

var factors = table[factorRecord]{
	prefix: "factors/",
	noun:   "second factor of",
	remedy: "log in to enrol one: tsh login",
}

// StoredFactor is a Factor as it was read, for PutFactor to compare with.
type StoredFactor struct {
	Factor
	record Stored[factorRecord]
}

// Factor returns the person's second factor. One who has no record gets an empty one, which PutFactor may
// write.
func (v *Vault) Factor(ctx context.Context, k identity.UserKey) (StoredFactor, error) {
	rec, err := factors.getOrNew(ctx, v.state, UserID(k))
	if err != nil {
		return StoredFactor{}, err
	}
	out := StoredFactor{Factor: rec.Value.Factor, record: rec}
	out.Secret, err = v.openText(factors.prefix+rec.Key, rec.Value.Sealed)
	return out, err
}

// PutFactor writes f, with its events, if nobody wrote since old was read; else it is fault Conflict. This
// compare-and-set is what burns a time step once in the whole cluster.
func (v *Vault) PutFactor(ctx context.Context, old StoredFactor, f Factor, events ...audit.Event) error {
	next := factorRecord{Factor: f, Sealed: old.record.Value.Sealed}
	if f.Secret != old.Secret {
		sealed, err := v.sealText(factors.prefix+old.record.Key, f.Secret)
		if err != nil {
			return err
		}
		next.Sealed = sealed
	}
	var c change
	c.appendEvents(events...)
	return write(ctx, v.state, factors, old.record, &c, next)
}

// HasFactor reports whether the person has enrolled a second factor. It opens no secret.
func (s *State) HasFactor(ctx context.Context, k identity.UserKey) (bool, error) {
	rec, err := factors.getOrNew(ctx, s, UserID(k))
	return len(rec.Value.Sealed) > 0, err
}
