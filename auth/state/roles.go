package state

import (
	"context"
	"time"

	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/fault"
)

// AdminRole is the built-in role of administrators. It can be neither removed nor weakened.
const AdminRole = "admin"

// rolesVersionKey is the key of the rulesVersion of all roles together.
const rolesVersionKey = "roles"

var roles = table[access.Role]{prefix: "role/", noun: "role", remedy: "run: tsh get roles"}

// Role returns one role, or fault NotFound.
func (r *Reader) Role(ctx context.Context, name string) (Stored[access.Role], error) {
	return roles.get(ctx, r, name)
}

// ListRoles returns one page of the roles, ordered by name.
func (r *Reader) ListRoles(ctx context.Context, p Page) (Listing[access.Role], error) {
	return roles.list(ctx, r, p)
}

// RoleSet has every role as of one revision. It is shared by all callers and must not be changed.
type RoleSet struct {
	Roles    []access.Role // ordered by name
	Policy   access.Policy
	Revision uint64    // of the last change of any role
	Time     time.Time // of that change
	// Unreadable are the names of roles that this release cannot read. While there are any, the set is the
	// last one without: a role that is left out may be one that denies.
	Unreadable []string
}

// RoleSet returns the roles as they are now. It decodes them only after a change: otherwise it reads the
// record with the version of the roles and returns the same pointer as the last time. If roles change while
// it reads them, it starts again. If a role cannot be read, it returns the last set, or without one fault
// Internal.
func (r *Reader) RoleSet(ctx context.Context) (*RoleSet, error) {
	for {
		before, err := rulesVersions.get(ctx, r, rolesVersionKey)
		if err != nil {
			return nil, err
		}
		if have := r.roleSet.Load(); have != nil && have.Revision == before.Revision {
			return have, nil
		}
		set, err := r.readRoleSet(ctx, before)
		if changed := set == nil; err != nil || !changed {
			return set, err
		}
	}
}

// readRoleSet reads all roles and keeps the set for RoleSet. at is the version that was read before. It
// returns nil and no error when the version is another one after the roles were read: the roles may then be
// of different revisions.
func (r *Reader) readRoleSet(ctx context.Context, at Stored[rulesVersion]) (*RoleSet, error) {
	all, unreadable, err := roles.readAll(ctx, r)
	if err != nil {
		return nil, err
	}
	after, err := rulesVersions.get(ctx, r, rolesVersionKey)
	if err != nil || after.Revision != at.Revision {
		return nil, err
	}
	if len(unreadable) > 0 {
		last := r.roleSet.Load()
		if last == nil {
			return nil, rolesUnreadable.New("state.RoleSet", fault.Args{"names": unreadable})
		}
		kept := *last
		kept.Unreadable = unreadable
		return &kept, nil
	}
	policy := access.Policy{Roles: map[string]access.Role{}}
	set := &RoleSet{Policy: policy, Revision: at.Revision, Time: at.Value.Time}
	for _, role := range all {
		set.Roles = append(set.Roles, role.Value)
		set.Policy.Roles[role.Value.Name] = role.Value
	}
	r.roleSet.Store(set)
	return set, nil
}

// Policy returns the roles, locks and settings in the form that decisions need.
func (r *Reader) Policy(ctx context.Context) (access.Policy, error) {
	set, err := r.RoleSet(ctx)
	if err != nil {
		return access.Policy{}, err
	}
	settings, err := r.PublishedSettings(ctx)
	if err != nil {
		return access.Policy{}, err
	}
	locks, err := r.LockSet(ctx)
	if err != nil {
		return access.Policy{}, err
	}
	policy := set.Policy
	policy.Locks = locks.Locks
	policy.Settings = settings.Settings.WithDefaults()
	return policy, nil
}

// Roles changes roles, and reads.
type Roles struct{ writer }

// PutRole writes role in the place of old and returns the new revision. It returns fault Conflict if old is
// no longer what is stored. The zero value as old creates the role, and fails with the same fault if there is
// one of that name.
func (w *Roles) PutRole(
	ctx context.Context, old Stored[access.Role], role access.Role, now time.Time, events ...audit.Event,
) (uint64, error) {
	var c change
	old.Key = role.Name
	roles.replaceOrCreate(&c, old, role)
	return w.commitRoles(ctx, &c, now, events)
}

// RemoveRole removes a role. It returns fault Conflict if old is no longer what is stored.
func (w *Roles) RemoveRole(
	ctx context.Context, old Stored[access.Role], now time.Time, events ...audit.Event,
) error {
	var c change
	roles.remove(&c, old)
	_, err := w.commitRoles(ctx, &c, now, events)
	return err
}

// commitRoles commits a change of roles together with their new version. Readers compare that version to see
// whether a RoleSet is current.
func (w *Roles) commitRoles(
	ctx context.Context, c *change, now time.Time, events []audit.Event,
) (uint64, error) {
	rulesVersions.set(c, rolesVersionKey, rulesVersion{Time: now.UTC()})
	c.appendEvents(events...)
	r, err := w.commit(ctx, c)
	return r.Revision, err
}
