package resources

import (
	"fmt"
	"slices"

	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/fault"
)

// Whoever may apply roles can grant themselves anything: that is what the grant means. The checks of this
// file stop the other kinds of documents from giving the same right.

const askRoleAdmin = "ask someone who may apply roles"

// needsRoleAdminFault is the error for a change that needs the right to apply roles.
func needsRoleAdminFault(format string, args ...any) error {
	return fault.New(fault.Denied, "resources.Apply", fmt.Sprintf(format, args...), askRoleAdmin)
}

// checkConnectorChange demands the right to apply roles: whoever writes a connector decides which user a
// person is, and so can become anyone.
func (c caller) checkConnectorChange() error {
	if c.may(access.Apply, access.Roles) {
		return nil
	}
	return needsRoleAdminFault("a connector decides who users are and which roles they get: " +
		"to change one you need apply on roles as well")
}

// checkKeepsRoleAdmin refuses a change by which the caller loses the right to apply roles: they could not undo it.
// policy and roles are the rules and the caller's roles after the change.
func (c caller) checkKeepsRoleAdmin(policy access.Policy, roles []string) error {
	after := c
	after.policy, after.who.Roles = policy, roles
	if !c.may(access.Apply, access.Roles) || after.may(access.Apply, access.Roles) {
		return nil
	}
	return fault.New(fault.Denied, "resources.Apply",
		"after this you could no longer apply roles, not even to undo it",
		"ask another administrator to do it")
}

// checkRoleChange checks a user's roles before and after a change. The caller must have every role that the
// user gains or loses, or the right to apply roles. Losing a role counts, because roles may deny.
func (c caller) checkRoleChange(before, after []string) error {
	if c.may(access.Apply, access.Roles) {
		return nil
	}
	for _, r := range slices.Concat(before, after) {
		changed := slices.Contains(before, r) != slices.Contains(after, r)
		if changed && !slices.Contains(c.who.Roles, r) {
			return needsRoleAdminFault("to give or take the role %s you must have it yourself, or apply on roles", r)
		}
	}
	return nil
}

// checkRelabel checks a machine before and after a change of its labels, which decide the grants that match it.
// The change must not allow the caller anything on the machine that was not allowed before.
func (c caller) checkRelabel(before, after access.Node) error {
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
				return needsRoleAdminFault("with these labels you could %s, which you could not before", ask)
			}
		}
	}
	return nil
}
