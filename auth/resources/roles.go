package resources

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/threshold-access/threshold/auth/state"
	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

// roleKind reads and changes roles. All roles together are published as one signed document, so a change of
// one role is checked with all others.
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
	var all access.Strings
	for _, action := range access.ActionsOn(access.OnResources) {
		all = append(all, string(action))
	}
	return access.Role{Name: state.AdminRole, Allow: []access.Grant{
		{Resources: access.Strings{"*"}, Actions: all},
		{Nodes: map[string]access.Strings{"*": {"*"}}, Actions: access.Strings{string(access.List)}},
	}}
}

// document turns a stored role into a document.
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

// apply creates or replaces a role. The name is in the metadata. A spec that contains a name is
// refused, as for any unknown key.
//
// There is no check of what the role grants: whoever may apply roles may grant anything. The checks keep the
// cluster administrable and the rules small enough to publish.
func (k roleKind) apply(
	ctx context.Context, by caller, doc authrpc.Resource,
) (out authrpc.ApplyResourceResponse, err error) {
	if err := identity.CheckWord("role", doc.Metadata.Name); err != nil {
		return out, invalidNameFault("role", err)
	}
	var role access.Role
	if err := decodeSpec(doc, &role); err != nil {
		return out, err
	}
	role.Name = doc.Metadata.Name
	if err := checkAdminRole(role); err != nil {
		return out, err
	}
	old, err := k.roles.Role(ctx, role.Name)
	if err != nil && !fault.Is(err, fault.NotFound) { // NotFound: the role is new
		return out, err
	}
	if err := checkRevision(doc.Metadata.Revision, old.Revision); err != nil {
		return out, err
	}
	// The policy after the change is checked as a whole: a new deny in any role could take away the caller's
	// own right to apply roles.
	after := by.policy
	after.Roles = maps.Clone(after.Roles)
	after.Roles[role.Name] = role
	if err := by.checkKeepsRoleAdmin(after, by.who.Roles); err != nil {
		return out, err
	}
	if err := CheckSize(slices.Collect(maps.Values(after.Roles))); err != nil {
		return out, err
	}
	next := state.Stored[access.Role]{Key: role.Name, Value: role}
	e, err := changeEvent(by, access.Roles, ifStored(old), next, k.document)
	if err != nil {
		return out, err
	}
	// A compare-and-set: fault Conflict if the role was changed since it was read above.
	if _, err := k.roles.PutRole(ctx, old, role, by.now, e); err != nil {
		return out, err
	}
	out.Created = old.Revision == 0
	out.Resource, err = k.get(ctx, role.Name)
	return out, err
}

// remove removes a role. Users and connectors that name it keep the name, which grants nothing from then on.
func (k roleKind) remove(ctx context.Context, by caller, name string) error {
	if name == state.AdminRole {
		return roleAdminKept.New("resources.Remove")
	}
	old, err := k.roles.Role(ctx, name)
	if err != nil {
		return err
	}
	// The caller may have the right to apply roles from this very role.
	after := by.policy
	after.Roles = maps.Clone(after.Roles)
	delete(after.Roles, name)
	if err := by.checkKeepsRoleAdmin(after, by.who.Roles); err != nil {
		return err
	}
	e, err := removalEvent(by, access.Roles, old, k.document)
	if err != nil {
		return err
	}
	return k.roles.RemoveRole(ctx, old, by.now, e)
}

// maxRolesBytes bounds all roles together, as JSON. Signing and encoding make them larger, but they stay well
// under rules.MaxDocumentBytes, beyond which no machine accepts a document.
const maxRolesBytes = 3 << 19

// CheckSize returns fault Exhausted for roles that are together too large to be published.
func CheckSize(roles []access.Role) error {
	b, err := json.Marshal(roles)
	if err != nil {
		return fmt.Errorf("encode roles: %w", err)
	}
	if len(b) > maxRolesBytes {
		return rolesTooLarge.New("resources", fault.Args{"bytes": len(b), "most": maxRolesBytes})
	}
	return nil
}

// checkAdminRole returns fault Denied for a role admin that does not allow everything on every kind of
// document: with it a cluster could lock out everyone for good. Other roles pass. Events need only the action
// get, because nobody can change them.
func checkAdminRole(role access.Role) error {
	if role.Name != state.AdminRole {
		return nil
	}
	// Someone who has only this role: other roles may be removed.
	who := identity.Identity{Kind: identity.User, Name: "an administrator", Roles: []string{role.Name}}
	policy := access.Policy{Roles: map[string]access.Role{role.Name: role}}
	for _, action := range access.ActionsOn(access.OnResources) {
		for _, plural := range access.Resources {
			if plural == access.Events && action != access.Get {
				continue
			}
			request := access.Request{Who: who, Action: action, Resource: plural}
			if !policy.Decide(request).Allow {
				return roleAdminGrantKept.New("resources.Apply", fault.Args{
					"action": action,
					"plural": plural,
				})
			}
		}
	}
	return nil
}
