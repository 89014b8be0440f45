package resources

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/threshold-access/threshold/auth/state"
	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

// userKind reads, changes and removes users. Of a user only the roles that administrators gave can be
// changed.
type userKind struct{ users Users }

// userSpec is the part of a user that an administrator sets.
type userSpec struct {
	Roles []string `json:"roles,omitempty"` // in addition to those that the connector maps
}

// maxUserRoles bounds the roles given to one user, because all of them must fit into certificates.
const maxUserRoles = 64

// Check implements config.Checker. It reports too many roles, and names that no role can have.
func (s userSpec) Check(report func(path, format string, args ...any)) {
	if len(s.Roles) > maxUserRoles {
		report("roles", "there are %d, more than %d", len(s.Roles), maxUserRoles)
	}
	for i, r := range s.Roles {
		if err := identity.CheckWord("role", r); err != nil {
			report(fmt.Sprintf("roles[%d]", i), "%v", err)
		}
	}
}

// userStatus is the part of a user that the cluster itself observes.
type userStatus struct {
	Name         string    `json:"name"` // as the provider said at the last login
	Connector    string    `json:"connector"`
	Subject      string    `json:"subject"`
	Created      time.Time `json:"created"`
	LastLogin    time.Time `json:"last_login,omitzero"`
	SecondFactor bool      `json:"second_factor"`
}

// document turns a stored user into a document. It also reads whether the user has a second factor, but not
// the factor itself.
func (k userKind) document(ctx context.Context, u state.Stored[state.User]) (authrpc.Resource, error) {
	user := u.Value
	hasFactor, err := k.users.HasFactor(ctx, user.UserKey())
	if err != nil {
		return authrpc.Resource{}, err
	}
	status := userStatus{
		Name:         user.Name,
		Connector:    user.Connector,
		Subject:      user.Subject,
		Created:      user.Created,
		LastLogin:    user.LastLogin,
		SecondFactor: hasFactor,
	}
	return document("user", u.Key, u.Revision, userSpec{user.Roles}, status)
}

// toDocument is document with the context bound to it.
func (k userKind) toDocument(ctx context.Context) func(state.Stored[state.User]) (authrpc.Resource, error) {
	return func(u state.Stored[state.User]) (authrpc.Resource, error) { return k.document(ctx, u) }
}

// find returns the user with that key, which is connector/subject, or else the only user with that name.
// Names are not unique: providers choose them. If several users have the name, the error is fault Conflict,
// because a change must not reach the wrong one; if none has it, fault NotFound.
func (k userKind) find(ctx context.Context, name string) (state.Stored[state.User], error) {
	user, err := k.users.UserByID(ctx, name)
	isKey := strings.Contains(name, "/")
	if !fault.Is(err, fault.NotFound) || isKey {
		return user, err
	}
	same, listErr := k.withName(ctx, name)
	switch {
	case listErr != nil:
		return user, listErr
	case len(same) == 0:
		return user, err
	case len(same) == 1:
		return same[0], nil
	}
	return user, userNameAmbiguous.New("resources", fault.Args{"count": len(same), "name": name})
}

// withName returns the users of that name, upper or lower case. It reads all users, page by page.
func (k userKind) withName(ctx context.Context, name string) (same []state.Stored[state.User], err error) {
	var page state.Page
	for {
		got, err := k.users.ListUsers(ctx, page)
		if err != nil {
			return nil, err
		}
		for _, u := range got.Items {
			if strings.EqualFold(u.Value.Name, name) {
				same = append(same, u)
			}
		}
		if got.Next == "" {
			return same, nil
		}
		page.After = got.Next
	}
}

func (k userKind) get(ctx context.Context, name string) (authrpc.Resource, error) {
	u, err := k.find(ctx, name)
	if err != nil {
		return authrpc.Resource{}, err
	}
	return k.document(ctx, u)
}

func (k userKind) list(ctx context.Context, p state.Page) ([]authrpc.Resource, string, error) {
	got, err := k.users.ListUsers(ctx, p)
	return documents(got, err, k.toDocument(ctx))
}

// apply changes the roles that administrators gave to a user. It creates none: a user exists from their first
// login on.
func (k userKind) apply(
	ctx context.Context, by caller, doc authrpc.Resource,
) (out authrpc.ApplyResourceResponse, err error) {
	var spec userSpec
	if err := decodeSpec(doc, &spec); err != nil {
		return out, err
	}
	name := doc.Metadata.Name
	old, err := k.find(ctx, name)
	if fault.Is(err, fault.NotFound) {
		return out, userUnknown.Wrap(err, "resources.Apply", fault.Args{"name": name})
	}
	if err != nil {
		return out, err
	}
	if err := checkRevision(doc.Metadata.Revision, old.Revision); err != nil {
		return out, err
	}
	if err := by.checkRoleChange(old.Value.Roles, spec.Roles); err != nil {
		return out, err
	}
	next := old.Value
	slices.Sort(spec.Roles)
	next.Roles = slices.Compact(spec.Roles)
	if err := by.checkSelfChange(old.Value, next); err != nil {
		return out, err
	}
	changed := state.Stored[state.User]{Key: old.Key, Value: next}
	e, err := changeEvent(by, access.Users, &old, changed, k.toDocument(ctx))
	if err != nil {
		return out, err
	}
	// A compare-and-set: fault Conflict if the user logged in or was changed since the read above.
	if err := k.users.PutUser(ctx, old, next, by.by(), e); err != nil {
		return out, err
	}
	out.Note = "added roles take effect at the next login; " +
		"removed roles stop counting everywhere within seconds"
	for _, role := range next.Roles {
		if _, known := by.policy.Roles[role]; !known {
			out.Note = noteUnknownRole(role)
		}
	}
	out.Resource, err = k.get(ctx, old.Key)
	return out, err
}

// checkSelfChange refuses a change from old to next of the caller's own record by which the caller would lose
// the right to apply roles. Changes of other users pass. The caller keeps those of their roles that next
// still gives: see state.User.FilterRoles.
func (c caller) checkSelfChange(old, next state.User) error {
	if old.UserKey() != c.who.UserKey() {
		return nil
	}
	return c.checkKeepsRoleAdmin(c.policy, next.FilterRoles(c.who.Roles))
}

// remove removes a user and their second factor. A user who logs in again is a new one.
func (k userKind) remove(ctx context.Context, by caller, name string) error {
	old, err := k.find(ctx, name)
	if err != nil {
		return err
	}
	// The second factor is removed too, and whoever logs in to the provider next enrols a new one. So a
	// caller who also knows the user's password could take over the account with all its roles. Therefore the
	// caller needs the user's roles, as if they gave them away.
	allRoles := slices.Concat(old.Value.Roles, old.Value.Mapped)
	if err := by.checkRoleChange(allRoles, nil); err != nil {
		return err
	}
	if err := by.checkSelfChange(old.Value, state.User{}); err != nil {
		return err
	}
	e, err := removalEvent(by, access.Users, old, k.toDocument(ctx))
	if err != nil {
		return err
	}
	return k.users.RemoveUser(ctx, old, by.by(), e)
}
