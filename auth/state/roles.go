package state

import (
	"context"
	"fmt"
	"time"

	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/rules"
)

// AdminRole is the built-in role of administrators. It cannot be removed, nor emptied.
const AdminRole = "admin"

// rulesVersion is written with every change of a kind of rules. Its revision is the document's, its time the
// document's time, so every replica that signs makes the same bytes.
type rulesVersion struct {
	Time time.Time `json:"time"`
}

const rolesVersionKey = "roles"

var (
	roles         = table[access.Role]{prefix: "role/", noun: "role", remedy: "run: tsh get roles"}
	rulesVersions = table[rulesVersion]{prefix: "mark/", noun: "mark of", remedy: bootstrapRemedy}
	authorities   = table[Authorities]{
		prefix: "authorities/",
		noun:   "authorities document",
		remedy: bootstrapRemedy,
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

// AuthoritiesChain returns the signed authorities documents, oldest first.
func (s *State) AuthoritiesChain(ctx context.Context) ([]Authorities, error) {
	got, err := authorities.all(ctx, s)
	if err != nil {
		return nil, err
	}
	out := make([]Authorities, len(got))
	for i, a := range got {
		out[i] = a.Value
	}
	return out, nil
}

// Role returns one role.
func (s *State) Role(ctx context.Context, name string) (Stored[access.Role], error) {
	return roles.get(ctx, s, name)
}

// ListRoles returns one page of roles.
func (s *State) ListRoles(ctx context.Context, p Page) (Listing[access.Role], error) {
	return roles.list(ctx, s, p)
}

// PutRole stores a role over old (Revision 0: it must not exist yet).
func (s *State) PutRole(
	ctx context.Context,
	old Stored[access.Role],
	r access.Role,
	now time.Time,
	events ...audit.Event,
) (uint64, error) {
	var c change
	old.Key = r.Name
	roles.replaceOrCreate(&c, old, r)
	return s.commitRoles(ctx, &c, now, events)
}

// RemoveRole removes a role.
func (s *State) RemoveRole(
	ctx context.Context,
	old Stored[access.Role],
	now time.Time,
	events ...audit.Event,
) error {
	var c change
	roles.remove(&c, old)
	_, err := s.commitRoles(ctx, &c, now, events)
	return err
}

func (s *State) commitRoles(
	ctx context.Context,
	c *change,
	now time.Time,
	events []audit.Event,
) (uint64, error) {
	rulesVersions.set(c, rolesVersionKey, rulesVersion{Time: now.UTC()})
	c.appendEvents(events...)
	r, err := s.commit(ctx, c)
	return r.Revision, err
}

// RoleSet is every role as of one revision.
type RoleSet struct {
	Roles    []access.Role // by name
	Policy   access.Policy
	Revision uint64    // of the last change of any role
	Time     time.Time // of that change
}

// RoleSet returns the roles as they are now. It is cheap while nothing changes.
func (s *State) RoleSet(ctx context.Context) (*RoleSet, error) {
	for {
		before, err := rulesVersions.get(ctx, s, rolesVersionKey)
		if err != nil {
			return nil, err
		}
		if held := s.roleSet.Load(); held != nil && held.Revision == before.Revision {
			return held, nil
		}
		made, err := s.readRoleSet(ctx, before)
		if err != nil || made != nil {
			return made, err
		}
	}
}

// readRoleSet reads all roles; nil when they changed meanwhile.
func (s *State) readRoleSet(ctx context.Context, at Stored[rulesVersion]) (*RoleSet, error) {
	all, err := roles.all(ctx, s)
	if err != nil {
		return nil, err
	}
	after, err := rulesVersions.get(ctx, s, rolesVersionKey)
	if err != nil || after.Revision != at.Revision {
		return nil, err
	}
	book := &RoleSet{Policy: access.Policy{}, Revision: at.Revision, Time: at.Value.Time}
	for _, r := range all {
		book.Roles = append(book.Roles, r.Value)
		book.Policy[r.Value.Name] = r.Value
	}
	s.roleSet.Store(book)
	return book, nil
}

// Policy returns the roles in the form decisions are made by.
func (s *State) Policy(ctx context.Context) (access.Policy, error) {
	book, err := s.RoleSet(ctx)
	if err != nil {
		return nil, err
	}
	return book.Policy, nil
}

// AwaitRules waits until a rule changes after the revision.
func (s *State) AwaitRules(ctx context.Context, after uint64) error {
	now, err := rulesVersions.list(
		ctx,
		s,
		Page{},
	) // with the revision of the whole store, which a watch can always go on from
	if err != nil {
		return err
	}
	for _, m := range now.Items {
		if m.Revision > after {
			return nil
		}
	}
	w, err := s.store.Watch(ctx, rulesVersions.prefix, now.revision)
	if err != nil {
		return err
	}
	_, err = w.Next(ctx)
	return err
}
