package state

import (
	"context"
	"fmt"
	"time"

	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/rules"
)

// AdminRole is the built-in role of administrators. It can be neither removed nor weakened.
const AdminRole = "admin"

// rulesVersion is written with every change of one kind of rules. Its revision is the revision of the signed
// document and its time is the document's time, so every replica that signs makes the same bytes.
type rulesVersion struct {
	Time time.Time `json:"time"`
}

// rolesVersionKey is the key of the rulesVersion of all roles together.
const rolesVersionKey = "roles"

var (
	roles         = table[access.Role]{prefix: "role/", noun: "role", remedy: "run: tsh get roles"}
	rulesVersions = table[rulesVersion]{
		prefix: "rules-version/", noun: "version of", remedy: bootstrapRemedy,
	}
	authorities = table[Authorities]{
		prefix: "authorities/", noun: "authorities document", remedy: bootstrapRemedy,
	}
)

// Authorities is one signed authorities document of the chain.
type Authorities struct {
	Revision rules.Revision `json:"revision"`
	Signed   rules.Signed   `json:"signed"`
}

// key orders the chain by epoch and index.
func (a Authorities) key() string {
	return fmt.Sprintf("%020d.%020d", a.Revision.Epoch, a.Revision.Index)
}

// AuthoritiesChain returns all signed authorities documents, oldest first. It is empty before the cluster is
// created.
func (r *Reader) AuthoritiesChain(ctx context.Context) ([]Authorities, error) {
	got, err := authorities.all(ctx, r)
	if err != nil {
		return nil, err
	}
	return values(got), nil
}

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
}

// RoleSet returns the roles as they are now. It decodes them only after a change: otherwise it reads the
// record with the version of the roles and returns the same pointer as the last time. If roles change while
// it reads them, it starts again.
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
	all, err := roles.all(ctx, r)
	if err != nil {
		return nil, err
	}
	after, err := rulesVersions.get(ctx, r, rolesVersionKey)
	if err != nil || after.Revision != at.Revision {
		return nil, err
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

// Policy returns the roles in the form that decisions need.
func (r *Reader) Policy(ctx context.Context) (access.Policy, error) {
	set, err := r.RoleSet(ctx)
	if err != nil {
		return access.Policy{}, err
	}
	return set.Policy, nil
}

// AwaitRules returns nil when any rules have changed after the revision, at once if they have already. It
// returns an error when ctx or the store ends before.
func (r *Reader) AwaitRules(ctx context.Context, after uint64) error {
	now, err := rulesVersions.list(ctx, r, Page{})
	if err != nil {
		return err
	}
	for _, v := range now.Items {
		if v.Revision > after {
			return nil
		}
	}
	// The watch begins at the revision of the whole store in the list. A change after the list is not missed,
	// and the store keeps the events after a revision that is this new.
	w, err := r.store.Watch(ctx, rulesVersions.prefix, now.revision)
	if err != nil {
		return err
	}
	_, err = w.Next(ctx)
	return err
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
