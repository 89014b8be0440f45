package resources

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/threshold-access/threshold/auth/state"
	"github.com/threshold-access/threshold/internal/access"
	events "github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

type roleKind struct{ *Service }

// roleSpec is a role without its name, which is the document's.
type roleSpec struct {
	Allow   []access.Grant `json:"allow,omitempty"`
	Deny    []access.Grant `json:"deny,omitempty"`
	Options access.Options `json:"options,omitzero"`
}

// BuiltInAdmin is the role that a cluster is born with. It may do everything with documents and nothing on
// nodes.
func BuiltInAdmin() access.Role {
	return access.Role{Name: state.AdminRole, Allow: []access.Grant{
		{
			Resources: access.Strings{"*"},
			Actions:   access.Strings{string(access.Get), string(access.Apply), string(access.Remove)},
		},
		{Nodes: map[string]access.Strings{"*": {"*"}}, Actions: access.Strings{string(access.List)}},
	}}
}

func (k roleKind) document(r state.Stored[access.Role]) (authrpc.Resource, error) {
	return document("role", r.Key, r.Revision, roleSpec{r.Value.Allow, r.Value.Deny, r.Value.Options}, nil)
}

func (k roleKind) get(ctx context.Context, name string) (authrpc.Resource, error) {
	got, err := k.cfg.State.Role(ctx, name)
	return oneDocument(got, err, k.document)
}

func (k roleKind) list(ctx context.Context, p state.Page) ([]authrpc.Resource, string, error) {
	got, err := k.cfg.State.ListRoles(ctx, p)
	return documents(got, err, k.document)
}

func (k roleKind) apply(
	ctx context.Context,
	by caller,
	r authrpc.Resource,
) (out authrpc.ApplyResourceResponse, err error) {
	if err := identity.CheckWord("role", r.Metadata.Name); err != nil {
		return out, invalidName("role", err)
	}
	var role access.Role
	if err := readSpec(r, &role); err != nil {
		return out, err
	}
	role.Name = r.Metadata.Name
	if err := checkAdminRole(role); err != nil {
		return out, err
	}
	old, err := k.cfg.State.Role(ctx, role.Name)
	if err != nil && !fault.Is(err, fault.NotFound) {
		return out, err
	}
	if err := checkRevision(r.Metadata.Revision, old.Revision); err != nil {
		return out, err
	}
	after := maps.Clone(by.policy)
	after[role.Name] = role
	if err := by.keepsRoleAdmin(after, by.who.Roles); err != nil {
		return out, err
	}
	if err := CheckSize(slices.Collect(maps.Values(after))); err != nil {
		return out, err
	}
	if _, err := k.cfg.State.Roles.PutRole(ctx, old, role, by.now, by.event(events.ResourceApplied, access.Roles, role.Name)); err != nil {
		return out, err
	}
	out.Created = old.Revision == 0
	out.Resource, err = k.get(ctx, role.Name)
	return out, err
}

func (k roleKind) remove(ctx context.Context, by caller, name string) error {
	if name == state.AdminRole {
		return fault.New(
			fault.Denied,
			"resources.Remove",
			"the role admin cannot be removed: nobody could put it back",
			"take the role from people instead, in their connector or user document",
		)
	}
	old, err := k.cfg.State.Role(ctx, name)
	if err != nil {
		return err
	}
	after := maps.Clone(by.policy)
	delete(after, name)
	if err := by.keepsRoleAdmin(after, by.who.Roles); err != nil {
		return err
	}
	return k.cfg.State.Roles.RemoveRole(ctx, old, by.now, by.event(events.ResourceRemoved, access.Roles, name))
}

// maxRolesBytes bounds all roles together, as JSON. Signed, and encoded for the wire twice, they stay well
// under rules.MaxSetBytes: beyond it no machine would get any.
const maxRolesBytes = 3 << 19

// CheckSize refuses more roles than can be published.
func CheckSize(roles []access.Role) error {
	b, err := json.Marshal(roles)
	if err != nil {
		return fmt.Errorf("encode roles: %w", err)
	}
	if len(b) > maxRolesBytes {
		return fault.New(
			fault.Exhausted,
			"resources",
			fmt.Sprintf("all roles together would have %d bytes, more than %d", len(b), maxRolesBytes),
			"remove roles that are not used, or write shorter ones",
		)
	}
	return nil
}

// checkAdminRole refuses an admin role that could no longer mend the roles: a cluster must never lock
// everyone out for good.
func checkAdminRole(r access.Role) error {
	if r.Name != state.AdminRole {
		return nil
	}
	who := identity.Identity{Kind: identity.User, Name: "an administrator", Roles: []string{r.Name}}
	for _, a := range []access.Action{access.Get, access.Apply, access.Remove} {
		for _, on := range access.Resources {
			may := access.Decide(
				access.Policy{r.Name: r},
				access.Request{Who: who, Action: a, Resource: on},
			).Allow
			if !may && !(on == access.Events && a != access.Get) {
				return fault.New(
					fault.Denied,
					"resources.Apply",
					"the role admin must keep "+string(a)+" on "+string(on)+": nobody could give it back",
					"leave the grant on resources in the role admin, and make another role for less",
				)
			}
		}
	}
	return nil
}

// oneDocument turns the one record that was asked for into a document.
func oneDocument[T any](
	got T,
	err error,
	document func(T) (authrpc.Resource, error),
) (authrpc.Resource, error) {
	if err != nil {
		return authrpc.Resource{}, err
	}
	return document(got)
}

// documents turns a page of records into documents.
func documents[T any](
	got state.Listing[T],
	err error,
	document func(state.Stored[T]) (authrpc.Resource, error),
) ([]authrpc.Resource, string, error) {
	if err != nil {
		return nil, "", err
	}
	out := make([]authrpc.Resource, 0, len(got.Items))
	for _, item := range got.Items {
		r, err := document(item)
		if err != nil {
			return nil, "", err
		}
		out = append(out, r)
	}
	return slices.Clip(out), got.Next, nil
}
