package resources

import (
	"fmt"
	"slices"

	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/fault"
)

// Who may apply roles can give themselves anything; that is what the grant says. The other documents must not
// say so by a side door.

const askRoleAdmin = "ask someone who may apply roles"

// mayChangeConnectors: who writes a connector decides who is whom, and so can become anyone. It therefore
// takes the right to apply roles as well.
func (c caller) mayChangeConnectors() error {
	if c.may(access.Apply, access.Roles) {
		return nil
	}
	return fault.New(
		fault.Denied,
		"resources.Apply",
		"a connector decides who people are and which roles they have: to change one takes apply on roles as well",
		askRoleAdmin,
	)
}

// keepsRoleAdmin refuses a change after which the one who makes it could no longer mend the roles: nobody
// shall lock themselves out by mistake. after is the rules, roles the caller's, as they would be.
func (c caller) keepsRoleAdmin(after access.Policy, roles []string) error {
	next := c
	next.policy, next.who.Roles = after, roles
	if !c.may(access.Apply, access.Roles) || next.may(access.Apply, access.Roles) {
		return nil
	}
	return fault.New(
		fault.Denied,
		"resources.Apply",
		"after this you could not apply roles any more, not even to undo it",
		"ask another administrator to do it",
	)
}

// mayChangeRoles: roles that someone gets or loses must be among one's own, unless one may apply roles.
// Losing counts, since roles may deny.
func (c caller) mayChangeRoles(before, after []string) error {
	if c.may(access.Apply, access.Roles) {
		return nil
	}
	for _, r := range slices.Concat(before, after) {
		if slices.Contains(before, r) != slices.Contains(after, r) && !slices.Contains(c.who.Roles, r) {
			return fault.New(
				fault.Denied,
				"resources.Apply",
				fmt.Sprintf("to give or take the role %s takes having it, or apply on roles", r),
				askRoleAdmin,
			)
		}
	}
	return nil
}

// mayRelabel: labels decide which rules match a node. A change must not let the one who makes it do more
// there than before.
func (c caller) mayRelabel(before, after access.Node) error {
	if c.may(access.Apply, access.Roles) {
		return nil
	}
	for _, l := range append(c.policy.Logins(c.who), "") {
		for _, a := range access.NodeActions() {
			ask := access.Request{Who: c.who, Login: l, Action: a, Now: c.now}
			ask.Node = before
			had := access.Decide(c.policy, ask).Allow
			ask.Node = after
			if !had && access.Decide(c.policy, ask).Allow {
				return fault.New(
					fault.Denied,
					"resources.Apply",
					fmt.Sprintf("with these labels you could %s, which you could not before", ask),
					askRoleAdmin,
				)
			}
		}
	}
	return nil
}
