package resources

import (
	"fmt"
	"slices"

	"github.com/threshold-access/threshold/auth/oidc"
	"github.com/threshold-access/threshold/auth/state"
	"github.com/threshold-access/threshold/internal/access"
)

// locksOnMapping returns the locks on what the connector of that name gave by old, and does not give by next:
// a lock for each role that a rule more gave, and for each role that uses a trait which another claim gives
// now. Nobody knows here which users the rule was for, because that depends on their claims. So the role does
// not count for anybody who logged in by the connector before: who still has it logs in again. The other
// roles go on.
func (c caller) locksOnMapping(name string, old, next oidc.Spec) []access.Lock {
	taken := map[string]bool{}
	for _, rule := range old.Roles {
		for _, role := range rule.Roles {
			if !givesRole(next, rule.Claim, rule.Value, role) {
				taken[role] = true
			}
		}
	}
	for _, trait := range old.Traits {
		if slices.Contains(next.Traits, trait) {
			continue
		}
		for role, document := range c.policy.Roles {
			if document.UsesTrait(trait.Trait) {
				taken[role] = true
			}
		}
	}
	var locks []access.Lock
	for role := range taken {
		without := access.Effect{Kind: access.WithoutRole, Role: role}
		lock := state.LockOfIssuedBefore(access.Facts{Connector: name}, without, c.now)
		lock.Message = fmt.Sprintf("the connector %s gives the role %s to fewer: log in again", name, role)
		lock.Author = c.who.Name
		locks = append(locks, lock)
	}
	return locks
}

// givesRole reports whether a rule of the connector gives the role for this value of the claim.
func givesRole(spec oidc.Spec, claim, value, role string) bool {
	return slices.ContainsFunc(spec.Roles, func(r oidc.RoleRule) bool {
		return r.Claim == claim && r.Value == value && slices.Contains(r.Roles, role)
	})
}
