package login

import (
	"context"
	"slices"
	"time"

	"github.com/threshold-access/threshold/auth/state"
	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

// checkLocks returns fault Denied, which says why, if a user whom a provider has identified would get no
// certificate. by is the proxy that serves the login.
func (s *Service) checkLocks(ctx context.Context, by, who identity.Identity) (err error) {
	set, err := s.cfg.Logins.LockSet(ctx)
	if err != nil {
		return err
	}
	who.Proxy = by.ID
	if who.Roles, err = s.currentRoles(ctx, who); err != nil {
		return err
	}
	if lock, denies := set.Locks.Denying(s.issuedNext(who)); denies {
		return lockedFault(lock, lock.Denial("the login of "+who.Name).Remedy, who)
	}
	return nil
}

// issuedNext is the request of a user to whom a certificate is issued in the next second. In the present one
// a lock on what was issued before may be made.
func (s *Service) issuedNext(who identity.Identity) access.Request {
	now := s.cfg.Now()
	who.IssuedAt = now.UTC().Truncate(time.Second).Add(time.Second)
	return access.Request{Who: who, Now: now}
}

// decide returns the roles that the certificates of a finished login may have. A user whom a lock denies is
// refused with fault Denied, and the login is used up.
//
// A lock on what was issued before a time is for what the user had then. It also counts for a login if the
// provider identified the user before that time: otherwise a login that was under way would keep what was
// taken. If the connector was changed since, it is not known which of the two was first, so every such lock
// counts. revision is the one that the connector has now.
func (s *Service) decide(
	ctx context.Context, stored state.Stored[state.PendingLogin], who identity.Identity, revision uint64,
	locks access.Locks,
) (roles []string, err error) {
	issued := s.issuedNext(who)
	if lock, denies := locks.Denying(issued); denies {
		return nil, s.refuse(ctx, stored, lockedFault(lock, lock.Denial("").Remedy, who))
	}
	identified := issued
	identified.Who.IssuedAt = who.AuthTime
	if revision != stored.Value.ConnectorRevision {
		identified.Who.IssuedAt = time.Time{} // every lock on what was issued before hits this
	}
	if lock, denies := locks.Denying(identified); denies {
		return nil, s.refuse(ctx, stored, lockedFault(lock, "log in again: tsh login", who))
	}
	return slices.DeleteFunc(slices.Clone(who.Roles), func(role string) bool {
		_, taken := locks.TakingRole(role, identified)
		_, takenLater := locks.TakingRole(role, issued) // then the lock hits the certificates themselves
		return taken && !takenLater
	}), nil
}

// lockedFault is the refusal of a login by a lock.
func lockedFault(lock access.Lock, remedy string, who identity.Identity) error {
	reason := lock.Denial("the login of " + who.Name).Reason
	return loginLocked.New("login", fault.Args{"reason": reason, "hint": remedy})
}

// refuse uses up a login for which nothing is issued, together with the audit event of the refusal, and
// returns the reason.
func (s *Service) refuse(
	ctx context.Context, stored state.Stored[state.PendingLogin], reason error,
) error {
	pending := stored.Value
	why := audit.LoginRefusal{Reason: audit.Truncate(fault.Message(reason))}
	e := audit.New(s.cfg.Now(), pending.Who, why).Via(pending.Proxy.Name, pending.From)
	err := s.cfg.Logins.RefuseLogin(ctx, stored, e)
	if fault.Is(err, fault.Expired) {
		return unredeemableFault(err)
	}
	if err != nil {
		return err
	}
	return reason
}
