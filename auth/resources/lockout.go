package resources

import (
	"context"
	"slices"
	"time"

	"github.com/threshold-access/threshold/auth/state"
	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

// checkLockout returns fault Denied for a lock that is probably a mistake, because the caller could not undo
// it: it hits the caller or the proxy by which they are connected, takes the caller's right to apply roles,
// or leaves nobody who has that right.
func (k lockKind) checkLockout(ctx context.Context, by caller, lock access.Lock) error {
	if lock.OfMachine() && lock.Match.Machine == by.proxy {
		return lockHitsOwnProxy.New("resources.Apply")
	}
	if _, hit := access.NewLocks([]access.Lock{lock}).Denying(by.request()); hit {
		return lockHitsSelf.New("resources.Apply")
	}
	after := by
	after.policy.Locks = by.policy.Locks.Change(nil, []*access.Lock{&lock})
	if by.may(access.Apply, access.Roles) && !after.may(access.Apply, access.Roles) {
		return lockTakesOwnRoleAdmin.New("resources.Apply")
	}
	return k.checkRoleAdminRemains(ctx, by, after.policy)
}

// checkRoleAdminRemains returns fault Denied if somebody may apply roles now, and nobody under the policy
// after, not even by a new login. It reads users until it finds one.
func (k lockKind) checkRoleAdminRemains(ctx context.Context, by caller, after access.Policy) error {
	connectors, err := k.connectors.ListConnectors(ctx)
	if err != nil {
		return err
	}
	canLogIn := func(u state.User) bool {
		isOf := func(c state.StoredConnector) bool { return c.Name == u.Connector }
		return slices.ContainsFunc(connectors, isOf)
	}
	isAdmin, wasAdmin := by, false
	for page := (state.Page{}); ; {
		users, err := k.users.users.ListUsers(ctx, page)
		if err != nil {
			return err
		}
		for _, u := range users.Items {
			if !canLogIn(u.Value) {
				continue
			}
			isAdmin.who, isAdmin.serial, isAdmin.proxy = afterNewLogin(u.Value, by.now), 0, ""
			isAdmin.policy = by.policy
			if !isAdmin.may(access.Apply, access.Roles) {
				continue
			}
			wasAdmin = true
			isAdmin.policy = after
			if isAdmin.may(access.Apply, access.Roles) {
				return nil
			}
		}
		if users.Next == "" {
			break
		}
		page.After = users.Next
	}
	if wasAdmin {
		return lockTakesLastRoleAdmin.New("resources.Apply")
	}
	return nil
}

// afterNewLogin is the user as a certificate says who is issued in the next second, which no lock on what was
// issued before hits.
func afterNewLogin(u state.User, now time.Time) identity.Identity {
	return identity.Identity{
		Kind:      identity.User,
		Name:      u.Name,
		Connector: u.Connector,
		Subject:   u.Subject,
		Roles:     slices.Concat(u.Roles, u.Mapped),
		IssuedAt:  now.Add(time.Second).Truncate(time.Second),
	}
}

// checkFreesOther returns fault Denied if the caller would give themselves access by ending the lock.
func (c caller) checkFreesOther(lock access.Lock) error {
	if !c.isFreedBy(lock) {
		return nil
	}
	hint := "somebody else who may change locks"
	if lock.Author != "" && lock.Author != c.who.Name {
		hint = lock.Author
	}
	return lockOfSelf.New("resources", fault.Args{"id": lock.ID, "hint": hint})
}

// isFreedBy reports whether the caller would have more access without the lock. A lock that is only about a
// machine or an account hits everybody, and is not counted: otherwise nobody could end it.
func (c caller) isFreedBy(lock access.Lock) bool {
	m := lock.Match
	if m.User != (access.UserFact{}) {
		// Also where it hits only another certificate of the caller: they may still have that one.
		return m.User == access.UserFact(c.who.UserKey())
	}
	ofTarget := access.Facts{Serial: m.Serial, Account: m.Account, Machine: m.Machine, ViaProxy: m.ViaProxy}
	if m == ofTarget {
		return false
	}
	// What is left says who is hit. The caller may use another account, machine or proxy.
	m.Serial, m.Account, m.Machine, m.ViaProxy = 0, "", "", ""
	of := access.NewLock(m, access.Effect{Kind: access.Deny})
	_, hit := access.NewLocks([]access.Lock{of}).Denying(c.request())
	if hit && (lock.Effect.Kind != access.WithoutRole || slices.Contains(c.who.Roles, lock.Effect.Role)) {
		return true
	}
	// A certificate that the caller has from before may be hit. Who may apply roles gains nothing by it.
	mayHitOlder := !m.IssuedBefore.IsZero() && (m.Connector == "" || m.Connector == c.who.Connector)
	return mayHitOlder && !c.may(access.Apply, access.Roles)
}
