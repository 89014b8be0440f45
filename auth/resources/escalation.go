package resources

import (
	"fmt"
	"slices"

	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

// Whoever may apply roles can grant themselves anything: that is what the grant means. Other kinds of
// documents also decide what a user may do: a connector maps roles, a user document gives roles, and the
// labels of a machine select the grants that match it. A token adds a machine. The checks of this file keep a
// user who may change these, but not roles, from giving themselves more than they have. Each returns nil if
// the change is allowed, and fault Denied otherwise.

const askRoleAdmin = "ask someone who may apply roles"

// needsRoleAdminFault is the error for a change that needs the right to apply roles.
func needsRoleAdminFault(format string, args ...any) error {
	return roleEscalation.New("resources.Apply", fault.Args{"why": fmt.Sprintf(format, args...)})
}

// checkConnectorChange refuses every change of a connector by a caller without the right to apply roles:
// whoever writes a connector decides which user a person is, and so can become anyone.
func (c caller) checkConnectorChange() error {
	if c.may(access.Apply, access.Roles) {
		return nil
	}
	return needsRoleAdminFault("a connector decides who users are and which roles they get: " +
		"to change one you need apply on roles as well")
}

// checkToken refuses to create a join token for a proxy unless the caller may apply proxies: a proxy serves
// the logins of all users. A node that the caller adds gives no right on another one, with whatever labels.
func (c caller) checkToken(kind identity.Kind) error {
	if kind != identity.Proxy || c.may(access.Apply, access.Proxies) || c.may(access.Apply, access.Roles) {
		return nil
	}
	return needsRoleAdminFault("a proxy serves the logins of all users: " +
		"to create a token for one you need apply on proxies as well")
}

// checkKeepsRoleAdmin refuses a change by which the caller would lose the right to apply roles: they could
// not undo it, and might be the last one who had it. policy and roles are all roles in force and the names of
// the caller's own, as they would be after the change. A caller without the right has nothing to lose.
func (c caller) checkKeepsRoleAdmin(policy access.Policy, roles []string) error {
	after := c
	after.policy, after.who.Roles = policy, roles
	if !c.may(access.Apply, access.Roles) || after.may(access.Apply, access.Roles) {
		return nil
	}
	return roleSelfDenied.New("resources.Apply")
}

// checkRoleChange refuses to change the roles of a user from before to after unless the caller has every role
// that the user gains or loses, or the right to apply roles. A role that is lost counts like one that is
// gained, because a role may deny something: without it the user may do more.
func (c caller) checkRoleChange(before, after []string) error {
	if c.may(access.Apply, access.Roles) {
		return nil
	}
	for _, role := range slices.Concat(before, after) {
		changed := slices.Contains(before, role) != slices.Contains(after, role)
		if changed && !slices.Contains(c.who.Roles, role) {
			return needsRoleAdminFault(
				"to give or take the role %s you must have it yourself, or apply on roles",
				role,
			)
		}
	}
	return nil
}

// checkRelabel refuses a change of a machine's labels that would allow the caller anything on the machine
// that was not allowed before. It compares the decisions before and after for every action and every login
// that the caller's roles name, so it holds for denials too: a label may take a machine out of one.
func (c caller) checkRelabel(before, after access.Node) error {
	if c.may(access.Apply, access.Roles) {
		return nil
	}
	const noLogin = "" // for actions that need none, such as list
	for _, login := range append(access.Logins(c.policy, c.who), noLogin) {
		for _, action := range access.ActionsOn(access.OnNodes) {
			request := c.request()
			request.Login, request.Action = login, action
			request.Target = access.ToNode(before)
			allowedBefore := c.policy.Decide(request).Allow
			request.Target = access.ToNode(after)
			allowedAfter := c.policy.Decide(request).Allow
			if allowedAfter && !allowedBefore {
				return needsRoleAdminFault(
					"with these labels you could %s, which you could not before",
					request,
				)
			}
		}
	}
	return nil
}
