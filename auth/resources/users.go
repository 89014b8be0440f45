package resources

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/threshold-access/threshold/auth/state"
	"github.com/threshold-access/threshold/internal/access"
	events "github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

// userKind shows users. An administrator can change the roles given to a user, and nothing else.
type userKind struct{ users Users }

// userSpec is the part of a user that an administrator sets.
type userSpec struct {
	Roles []string `json:"roles,omitempty"` // in addition to those that the connector maps
}

// maxUserRoles bounds the roles given to one user, because all of them must fit into certificates.
const maxUserRoles = 64

// Check implements config.Checker.
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

// document reads also whether the user has a second factor, but not the factor itself.
func (k userKind) document(ctx context.Context, u state.Stored[state.User]) (authrpc.Resource, error) {
	v := u.Value
	has, err := k.users.HasFactor(ctx, v.UserKey())
	if err != nil {
		return authrpc.Resource{}, err
	}
	status := userStatus{v.Name, v.Connector, v.Subject, v.Created, v.LastLogin, has}
	return document("user", u.Key, u.Revision, userSpec{v.Roles}, status)
}

// find reads a user by connector/subject, or by name if only one user has it.
func (k userKind) find(ctx context.Context, name string) (state.Stored[state.User], error) {
	u, err := k.users.UserByID(ctx, name)
	if !fault.Is(err, fault.NotFound) || strings.Contains(name, "/") {
		return u, err
	}
	same, listErr := k.withName(ctx, name)
	switch {
	case listErr != nil:
		return u, listErr
	case len(same) == 0:
		return u, err
	case len(same) == 1:
		return same[0], nil
	}
	msg := fmt.Sprintf("%d users have the name %.80q", len(same), name)
	return u, fault.New(fault.Conflict, "resources", msg,
		"name the one you mean by connector/subject: tsh get users")
}

// withName lists the users of that name.
func (k userKind) withName(ctx context.Context, name string) (same []state.Stored[state.User], err error) {
	for p := (state.Page{}); ; {
		got, err := k.users.ListUsers(ctx, p)
		if err != nil {
			return nil, err
		}
		for _, u := range got.Items {
			if strings.EqualFold(u.Value.Name, name) {
				same = append(same, u)
			}
		}
		if p.After = got.Next; p.After == "" {
			return same, nil
		}
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
	return documents(got, err, func(u state.Stored[state.User]) (authrpc.Resource, error) {
		return k.document(ctx, u)
	})
}

// apply changes the roles given to a user. It creates none: a user exists from their first login on.
func (k userKind) apply(
	ctx context.Context, by caller, r authrpc.Resource,
) (out authrpc.ApplyResourceResponse, err error) {
	var spec userSpec
	if err := decodeSpec(r, &spec); err != nil {
		return out, err
	}
	old, err := k.find(ctx, r.Metadata.Name)
	if fault.Is(err, fault.NotFound) {
		msg := fmt.Sprintf("there is no user %.80q: a user exists from their first login on", r.Metadata.Name)
		return out, fault.Wrap(err, fault.NotFound, "resources.Apply", msg,
			"let them log in once, then see: tsh get users")
	}
	if err != nil {
		return out, err
	}
	if err := checkRevision(r.Metadata.Revision, old.Revision); err != nil {
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
	e := by.event(events.ResourceApplied, access.Users, old.Key)
	if err := k.users.PutUser(ctx, old, next, e); err != nil {
		return out, err
	}
	out.Note = "added roles take effect at the next login; removed roles no longer count " +
		"at the auth service, but nodes accept them until the certificates issued before expire"
	for _, role := range next.Roles {
		if _, known := by.policy[role]; !known {
			out.Note = noteUnknownRole(role)
		}
	}
	out.Resource, err = k.get(ctx, old.Key)
	return out, err
}

// checkSelfChange is checkKeepsRoleAdmin for a change of the caller's own record. It allows changes of others.
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
	// The second factor is removed too, and whoever logs in to the provider next enrols a new one. So
	// removing a user needs the user's roles, as if they were given away.
	if err := by.checkRoleChange(slices.Concat(old.Value.Roles, old.Value.Mapped), nil); err != nil {
		return err
	}
	if err := by.checkSelfChange(old.Value, state.User{}); err != nil {
		return err
	}
	return k.users.RemoveUser(ctx, old, by.event(events.ResourceRemoved, access.Users, old.Key))
}
