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

// roleKind shows roles. All roles together are published as one signed document, so a change of one role is
// checked with all others.
type roleKind struct{ roles Roles }

// roleSpec is a role without its name, which is the name of the document.
type roleSpec struct {
	Allow   []access.Grant `json:"allow,omitempty"`
	Deny    []access.Grant `json:"deny,omitempty"`
	Options access.Options `json:"options,omitzero"`
}

// BuiltInAdmin is the role admin of a new cluster. It may do everything with documents, and on nodes only
// list them.
func BuiltInAdmin() access.Role {
	all := access.Strings{string(access.Get), string(access.Apply), string(access.Remove)}
	return access.Role{Name: state.AdminRole, Allow: []access.Grant{
		{Resources: access.Strings{"*"}, Actions: all},
		{Nodes: map[string]access.Strings{"*": {"*"}}, Actions: access.Strings{string(access.List)}},
	}}
}

func (k roleKind) document(r state.Stored[access.Role]) (authrpc.Resource, error) {
	return document("role", r.Key, r.Revision, roleSpec{r.Value.Allow, r.Value.Deny, r.Value.Options}, nil)
}

func (k roleKind) get(ctx context.Context, name string) (authrpc.Resource, error) {
	got, err := k.roles.Role(ctx, name)
	return oneDocument(got, err, k.document)
}

func (k roleKind) list(ctx context.Context, p state.Page) ([]authrpc.Resource, string, error) {
	got, err := k.roles.ListRoles(ctx, p)
	return documents(got, err, k.document)
}

// apply creates or replaces a role. The name is in the metadata; a name in the spec is an unknown key.
func (k roleKind) apply(
	ctx context.Context, by caller, r authrpc.Resource,
) (out authrpc.ApplyResourceResponse, err error) {
	if err := identity.CheckWord("role", r.Metadata.Name); err != nil {
		return out, invalidNameFault("role", err)
	}
	var role access.Role
	if err := decodeSpec(r, &role); err != nil {
		return out, err
	}
	role.Name = r.Metadata.Name
	if err := checkAdminRole(role); err != nil {
		return out, err
	}
	old, err := k.roles.Role(ctx, role.Name)
	if err != nil && !fault.Is(err, fault.NotFound) {
		return out, err
	}
	if err := checkRevision(r.Metadata.Revision, old.Revision); err != nil {
		return out, err
	}
	after := maps.Clone(by.policy)
	after[role.Name] = role
	if err := by.checkKeepsRoleAdmin(after, by.who.Roles); err != nil {
		return out, err
	}
	if err := CheckSize(slices.Collect(maps.Values(after))); err != nil {
		return out, err
	}
	e := by.event(events.ResourceApplied, access.Roles, role.Name)
	if _, err := k.roles.PutRole(ctx, old, role, by.now, e); err != nil {
		return out, err
	}
	out.Created = old.Revision == 0
	out.Resource, err = k.get(ctx, role.Name)
	return out, err
}

// remove removes a role. Users and connectors that name it keep it without effect.
func (k roleKind) remove(ctx context.Context, by caller, name string) error {
	if name == state.AdminRole {
		return fault.New(fault.Denied, "resources.Remove",
			"the role admin cannot be removed: nobody could create it again",
			"take the role from users instead, in their connector or user document")
	}
	old, err := k.roles.Role(ctx, name)
	if err != nil {
		return err
	}
	after := maps.Clone(by.policy)
	delete(after, name)
	if err := by.checkKeepsRoleAdmin(after, by.who.Roles); err != nil {
		return err
	}
	e := by.event(events.ResourceRemoved, access.Roles, name)
	return k.roles.RemoveRole(ctx, old, by.now, e)
}

// maxRolesBytes bounds all roles together, as JSON. Once signed and twice encoded for the wire they stay well
// under rules.MaxSetBytes; a set beyond that no machine would accept.
const maxRolesBytes = 3 << 19

// CheckSize refuses roles that are together too large to be published.
func CheckSize(roles []access.Role) error {
	b, err := json.Marshal(roles)
	if err != nil {
		return fmt.Errorf("encode roles: %w", err)
	}
	if len(b) > maxRolesBytes {
		msg := fmt.Sprintf("all roles together would have %d bytes, more than %d", len(b), maxRolesBytes)
		return fault.New(fault.Exhausted, "resources", msg,
			"remove roles that are not used, or write shorter ones")
	}
	return nil
}

// checkAdminRole refuses a role admin that could not manage every kind of document: with it a cluster could
// lock out everyone for good.
func checkAdminRole(r access.Role) error {
	if r.Name != state.AdminRole {
		return nil
	}
	who := identity.Identity{Kind: identity.User, Name: "an administrator", Roles: []string{r.Name}}
	policy := access.Policy{r.Name: r}
	for _, a := range []access.Action{access.Get, access.Apply, access.Remove} {
		for _, on := range access.Resources {
			may := access.Decide(policy, access.Request{Who: who, Action: a, Resource: on}).Allow
			if !may && !(on == access.Events && a != access.Get) {
				return fault.New(fault.Denied, "resources.Apply",
					fmt.Sprintf("the role admin must keep %s on %s: nobody could restore it", a, on),
					"leave the grant on resources in the role admin, and make another role for less")
			}
		}
	}
	return nil
}
