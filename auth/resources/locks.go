package resources

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/threshold-access/threshold/auth/state"
	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
)

// lockKind reads, makes and removes locks. The name of a lock is the id that belongs to its facts and its
// effect, so these never change; message and end do.
type lockKind struct {
	locks      Locks
	users      userKind
	machines   Machines
	connectors Connectors
	now        func() time.Time
}

// lockSpec is a lock as an administrator asks for it.
type lockSpec struct {
	Match       lockMatch `json:"match"`
	WithoutRole string    `json:"without_role,omitempty"` // the effect; empty: deny
	Message     string    `json:"message,omitempty"`
	End         time.Time `json:"end,omitzero"`
	// For is how long the lock lasts from now on. Shown is End, which For sets.
	For access.Duration `json:"for,omitzero"`
	// Force makes a lock that is refused otherwise, because it hits nobody, the caller, or the last
	// administrator. It is not stored.
	Force bool `json:"force,omitempty"`
}

// Bounds of for.
const (
	minLockFor = time.Second
	maxLockFor = 8760 * time.Hour
)

// Check implements config.Checker. The rest is checked by access.Lock.Check, once names are ids.
func (s lockSpec) Check(report func(path, format string, args ...any)) {
	if s.For != 0 && (time.Duration(s.For) < minLockFor || time.Duration(s.For) > maxLockFor) {
		report("for", "%s is not between %s and %s", s.For,
			access.Duration(minLockFor), access.Duration(maxLockFor))
	}
	if s.For != 0 && !s.End.IsZero() {
		report("for", "write either for or end")
	}
}

// effect is the effect that the spec names.
func (s lockSpec) effect() access.Effect {
	if s.WithoutRole != "" {
		return access.Effect{Kind: access.WithoutRole, Role: s.WithoutRole}
	}
	return access.Effect{Kind: access.Deny}
}

// lockStatus is the part of a lock that the cluster itself writes.
type lockStatus struct {
	Author  string    `json:"author,omitempty"` // who made the lock, or changed it last
	Created time.Time `json:"created,omitzero"` // when
	Hits    string    `json:"hits"`             // the facts, for people
	Ended   bool      `json:"ended"`            // it has no effect any more
}

// document turns a stored lock into a document. It reads the names of the user and the machines in it.
func (k lockKind) document(ctx context.Context, l state.Stored[access.Lock]) (authrpc.Resource, error) {
	lock := l.Value
	spec := lockSpec{Match: matchOf(lock.Match), Message: lock.Message, End: lock.End}
	if lock.Effect.Kind == access.WithoutRole {
		spec.WithoutRole = lock.Effect.Role
	}
	hits, err := k.describe(ctx, lock.Match)
	if err != nil {
		return authrpc.Resource{}, err
	}
	status := lockStatus{
		Author:  lock.Author,
		Created: lock.Created,
		Hits:    hits,
		Ended:   !lock.End.IsZero() && !k.now().Before(lock.End),
	}
	return document("lock", lock.ID, l.Revision, spec, status)
}

// toDocument is document with the context bound to it.
func (k lockKind) toDocument(ctx context.Context) func(state.Stored[access.Lock]) (authrpc.Resource, error) {
	return func(l state.Stored[access.Lock]) (authrpc.Resource, error) { return k.document(ctx, l) }
}

func (k lockKind) get(ctx context.Context, name string) (authrpc.Resource, error) {
	got, err := k.locks.Lock(ctx, name)
	return oneDocument(got, err, k.toDocument(ctx))
}

func (k lockKind) list(ctx context.Context, p state.Page) ([]authrpc.Resource, string, error) {
	got, err := k.locks.ListLocks(ctx, p)
	return documents(got, err, k.toDocument(ctx))
}

// apply makes a lock, or changes message and end of the one with the same facts and effect.
func (k lockKind) apply(
	ctx context.Context, by caller, doc authrpc.Resource,
) (out authrpc.ApplyResourceResponse, err error) {
	var spec lockSpec
	if err := decodeSpec(doc, &spec); err != nil {
		return out, err
	}
	match, unknown, err := k.resolve(ctx, by, spec)
	if err != nil {
		return out, err
	}
	lock, err := newLock(by, doc, spec, match)
	if err != nil {
		return out, err
	}
	old, err := k.locks.Lock(ctx, lock.ID)
	isNew := fault.Is(err, fault.NotFound)
	if err != nil && !isNew {
		return out, err
	}
	if err := checkRevision(doc.Metadata.Revision, old.Revision); err != nil {
		return out, err
	}
	if isNew && unknown != nil && !spec.Force {
		return out, unknown
	}
	if !isNew && endsBefore(lock, old.Value) {
		if err := by.checkFreesOther(old.Value); err != nil {
			return out, err
		}
	}
	if !spec.Force {
		if err := k.checkLockout(ctx, by, lock); err != nil {
			return out, err
		}
	}
	e, err := changeEvent(by, access.ClusterLocks, ifStored(old), state.Stored[access.Lock]{Value: lock},
		k.toDocument(ctx))
	if err != nil {
		return out, err
	}
	// A compare-and-set: fault Conflict if the lock was changed since it was read above.
	if err := k.locks.PutLock(ctx, old, lock, by.now, e); err != nil {
		return out, err
	}
	out.Created = isNew
	out.Resource, err = k.get(ctx, lock.ID)
	return out, err
}

// newLock returns the lock of a document, of which match are the facts. It returns fault Invalid for a lock
// that cannot be, and for a name that is not its id.
func newLock(by caller, doc authrpc.Resource, spec lockSpec, match access.Facts) (access.Lock, error) {
	lock := access.NewLock(match, spec.effect())
	lock.Message, lock.Author = spec.Message, by.who.Name
	lock.Created = by.now.UTC().Truncate(time.Second)
	if lock.End = spec.End.UTC(); spec.For != 0 {
		lock.End = by.now.UTC().Add(time.Duration(spec.For)).Truncate(time.Second)
	}
	var faults []string
	if before := match.IssuedBefore; lock.End.IsZero() && !before.IsZero() {
		lock.End = state.EndOfIssuedBefore(before) // and it is removed some time later
		if !by.now.Before(lock.End) {
			faults = append(faults, "match.issued_before: every certificate that was issued before has ended")
		}
	}
	lock.Check(func(path, format string, args ...any) {
		if strings.HasPrefix(path, "effect") {
			path = "without_role"
		}
		faults = append(faults, strings.TrimPrefix(path+": "+fmt.Sprintf(format, args...), ": "))
	})
	if !spec.End.IsZero() && !by.now.Before(lock.End) {
		faults = append(faults, "end: is not in the future")
	}
	if len(faults) > 0 {
		return lock, specFault(doc, nil, faults)
	}
	if name := doc.Metadata.Name; name != "" && name != lock.ID {
		return lock, lockNameForeign.New("resources.Apply", fault.Args{"id": lock.ID, "name": name})
	}
	return lock, nil
}

// endsBefore reports whether the lock ends before the other does.
func endsBefore(lock, other access.Lock) bool {
	if lock.End.IsZero() {
		return false
	}
	return other.End.IsZero() || lock.End.Before(other.End)
}

// remove removes a lock. Nobody removes one that takes access away from themselves.
func (k lockKind) remove(ctx context.Context, by caller, name string) error {
	old, err := k.locks.Lock(ctx, name)
	if err != nil {
		return err
	}
	if err := by.checkFreesOther(old.Value); err != nil {
		return err
	}
	e, err := removalEvent(by, access.ClusterLocks, old, k.toDocument(ctx))
	if err != nil {
		return err
	}
	return k.locks.RemoveLock(ctx, old, by.now, e)
}
