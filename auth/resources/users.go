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

type userKind struct{ *Service }

// userSpec is what an administrator may say of a person.
type userSpec struct {
	Roles []string `json:"roles,omitempty"` // on top of what the connector maps
}

// maxUserRoles bounds the roles given to one person; certificates have little room.
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

// userStatus is what is so.
type userStatus struct {
	Name         string    `json:"name"` // what the provider called them at their last login
	Connector    string    `json:"connector"`
	Subject      string    `json:"subject"`
	Created      time.Time `json:"created"`
	LastLogin    time.Time `json:"last_login,omitzero"`
	SecondFactor bool      `json:"second_factor"`
}

func (k userKind) document(ctx context.Context, u state.Stored[state.User]) (authrpc.Resource, error) {
	v := u.Value
	has, err := k.cfg.State.HasFactor(ctx, v.UserKey())
	if err != nil {
		return authrpc.Resource{}, err
	}
	return document(
		"user",
		u.Key,
		u.Revision,
		userSpec{v.Roles},
		userStatus{v.Name, v.Connector, v.Subject, v.Created, v.LastLogin, has},
	)
}

// find reads a person by connector/subject, or by name where only one has it.
func (k userKind) find(ctx context.Context, name string) (state.Stored[state.User], error) {
	u, err := k.cfg.State.UserByID(ctx, name)
	if !fault.Is(err, fault.NotFound) || strings.Contains(name, "/") {
		return u, err
	}
	var same []state.Stored[state.User]
	for p := (state.Page{}); ; {
		got, lerr := k.cfg.State.ListUsers(ctx, p)
		if lerr != nil {
			return u, lerr
		}
		for _, u := range got.Items {
			if strings.EqualFold(u.Value.Name, name) {
				same = append(same, u)
			}
		}
		if p.After = got.Next; p.After == "" {
			break
		}
	}
	switch len(same) {
	case 0:
		return u, err
	case 1:
		return same[0], nil
	}
	return u, fault.New(
		fault.Conflict,
		"resources",
		fmt.Sprintf("%d people are called %.80q", len(same), name),
		"name the one you mean by connector/subject: tsh get users",
	)
}

func (k userKind) get(ctx context.Context, name string) (authrpc.Resource, error) {
	u, err := k.find(ctx, name)
	if err != nil {
		return authrpc.Resource{}, err
	}
	return k.document(ctx, u)
}

func (k userKind) list(ctx context.Context, p state.Page) ([]authrpc.Resource, string, error) {
	got, err := k.cfg.State.ListUsers(ctx, p)
	return documents(
		got,
		err,
		func(u state.Stored[state.User]) (authrpc.Resource, error) { return k.document(ctx, u) },
	)
}

func (k userKind) apply(
	ctx context.Context,
	by caller,
	r authrpc.Resource,
) (out authrpc.ApplyResourceResponse, err error) {
	var spec userSpec
	if err := readSpec(r, &spec); err != nil {
		return out, err
	}
	old, err := k.find(ctx, r.Metadata.Name)
	if fault.Is(err, fault.NotFound) {
		return out, fault.Wrap(
			err,
			fault.NotFound,
			"resources.Apply",
			fmt.Sprintf(
				"there is no user %.80q: a person is known from their first login on",
				r.Metadata.Name,
			),
			"let them log in once, then see: tsh get users",
		)
	}
	if err != nil {
		return out, err
	}
	if err := checkRevision(r.Metadata.Revision, old.Revision); err != nil {
		return out, err
	}
	if err := by.mayChangeRoles(old.Value.Roles, spec.Roles); err != nil {
		return out, err
	}
	next := old.Value
	slices.Sort(spec.Roles)
	next.Roles = slices.Compact(spec.Roles)
	if err := by.mayChangeSelf(old.Value, next); err != nil {
		return out, err
	}
	if err := k.cfg.State.Users.PutUser(ctx, old, next, by.event(events.ResourceApplied, access.Users, old.Key)); err != nil {
		return out, err
	}
	out.Note = "what is given takes effect at the next login; what is taken counts at auth no more, and on nodes until the certificates issued before end"
	for _, role := range next.Roles {
		if _, known := by.policy[role]; !known {
			out.Note = fmt.Sprintf("there is no role %s yet; until there is, it gives nothing", role)
		}
	}
	out.Resource, err = k.get(ctx, old.Key)
	return out, err
}

// mayChangeSelf is keepsRoleAdmin where the record is the caller's own.
func (c caller) mayChangeSelf(old, next state.User) error {
	if old.UserKey() != c.who.UserKey() {
		return nil
	}
	return c.keepsRoleAdmin(c.policy, next.FilterRoles(c.who.Roles))
}

func (k userKind) remove(ctx context.Context, by caller, name string) error {
	old, err := k.find(ctx, name)
	if err != nil {
		return err
	}
	// Their second factor goes as well: whoever may remove an administrator may stand in for one at the next
	// enrolment.
	if err := by.mayChangeRoles(slices.Concat(old.Value.Roles, old.Value.Mapped), nil); err != nil {
		return err
	}
	if err := by.mayChangeSelf(old.Value, state.User{}); err != nil {
		return err
	}
	return k.cfg.State.Users.RemoveUser(ctx, old, by.event(events.ResourceRemoved, access.Users, old.Key))
}
