package login

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"net/netip"
	"time"

	"github.com/threshold-access/threshold/auth/factor"
	"github.com/threshold-access/threshold/auth/oidc"
	"github.com/threshold-access/threshold/auth/state"
	"github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

const opIdentify = "login.Identify"

// maxStoredAttempt bounds an identified attempt, in bytes. An identity that a certificate can carry is
// smaller.
const maxStoredAttempt = 32 << 10

// identifiedAttempt is an attempt whose user a provider has identified. Only Identify makes one, and it is
// stored encrypted.
type identifiedAttempt struct {
	format
	Client clientRequest `json:"client"`
	// User has the roles that the connector maps, and the id of the login that the attempt will make.
	User       identity.Identity  `json:"user"`
	Challenges []factor.Challenge `json:"challenges"`
	// ConnectorRevision is that of the connector that mapped the roles.
	ConnectorRevision uint64 `json:"connector_revision"`

	stored state.StoredAttempt // as it was read; set by openIdentified
}

// attemptRef is what the browser's cookie has of an identified attempt: where it is stored.
type attemptRef struct {
	format
	ID      string    `json:"id"` // as in the begunAttempt
	Expires time.Time `json:"expires"`
}

func (r *attemptRef) expiresAt() time.Time { return r.Expires }

// hashAttemptID returns the hash under which an identified attempt is stored. Whoever reads the store cannot
// make a cookie of it.
func hashAttemptID(id string) state.AttemptID {
	return sha256.Sum256([]byte("threshold login attempt v1\x00" + id))
}

// Identify takes the parameters with which the provider sent the browser back, stores the identified attempt,
// and returns the sealed reference to it. The attempt counts once: another answer of a provider to the same
// attempt gets fault Expired, also after the login is finished. The caller must be a proxy.
//
// Until the provider has identified the user, a refusal is only counted and logged; after that it is an audit
// event.
func (s *Service) Identify(
	ctx context.Context, by identity.Identity, req authrpc.FinishOIDCRequest,
) (authrpc.FinishOIDCResponse, error) {
	// A change of the connector from now on may be a change of what the user gets by this login.
	at := s.cfg.Now()
	user, begun, err := s.verifyCallback(ctx, by, req)
	if err != nil {
		s.refusals.record(stepIdentify, by, addrText(req.From), err)
		return authrpc.FinishOIDCResponse{}, err
	}
	res, err := s.storeIdentified(ctx, by, at, user, begun)
	if err != nil {
		return res, s.recordRefusal(ctx, s.identityOf(user), by, req.From, err)
	}
	return res, nil
}

// verifyCallback opens the begun attempt in the request and lets the identity provider's flow finish. It
// returns the verified user, and the attempt. An attempt whose callback was loaded too often gets fault
// Exhausted, and the provider is not asked.
func (s *Service) verifyCallback(
	ctx context.Context, by identity.Identity, req authrpc.FinishOIDCRequest,
) (user oidc.VerifiedUser, attempt begunAttempt, err error) {
	if err := checkProxy(opIdentify, by); err != nil {
		return user, attempt, err
	}
	if err := s.sealer.open(opIdentify, stageBegun, req.Attempt, s.cfg.Now(), &attempt); err != nil {
		return user, attempt, err
	}
	// Each connector has a callback path of its own. A response on another path comes from another provider
	// than the one that was asked: a mix-up attack.
	if req.Connector != attempt.Flow.Connector {
		return user, attempt, callbackOfOtherProvider.New(opIdentify)
	}
	if !s.callbacks.take(attempt.ID, attempt.Expires, s.cfg.Now()) {
		return user, attempt, callbackRepeated.New(opIdentify)
	}
	user, err = s.cfg.Providers.Finish(ctx, attempt.Flow, oidc.CallbackParams{
		State:            req.State,
		Code:             req.Code,
		Issuer:           req.Issuer,
		Error:            req.Error,
		ErrorDescription: req.ErrorDescription,
	})
	return user, attempt, err
}

// storeIdentified stores the identified attempt, with the challenges of the user, and returns the sealed
// reference to it. A user who would get no certificate, because of a lock, is refused here already. at is
// when the provider was asked.
func (s *Service) storeIdentified(
	ctx context.Context, by identity.Identity, at time.Time, user oidc.VerifiedUser, begun begunAttempt,
) (res authrpc.FinishOIDCResponse, err error) {
	attempt := identifiedAttempt{
		format:            currentFormat,
		Client:            begun.Client,
		User:              s.identityOf(user),
		ConnectorRevision: user.Revision(),
	}
	attempt.User.LoginID = identity.LoginID(state.NewID())
	attempt.User.AuthTime = at.UTC().Truncate(time.Second)
	if err := s.checkLocks(ctx, by, attempt.User); err != nil {
		return res, err
	}
	// Refused before the user is asked for the factor, and again with all roles in assuredIdentity.
	if _, err := attempt.User.Encode(); err != nil {
		return res, identityTooLarge.Wrap(err, opIdentify, fault.Args{"why": err.Error()})
	}
	if attempt.Challenges, err = s.cfg.Factors.Challenges(ctx, attempt.User); err != nil {
		return res, err
	}
	content, err := json.Marshal(attempt)
	if err != nil {
		return res, attemptNotSealed.Wrap(err, opIdentify)
	}
	if len(content) > maxStoredAttempt {
		return res, attemptTooLarge.New(opIdentify)
	}
	now := s.cfg.Now().UTC()
	ref := attemptRef{format: currentFormat, ID: begun.ID, Expires: now.Add(AttemptLife)}
	err = s.cfg.Attempts.AddAttempt(ctx, hashAttemptID(ref.ID), content, ref.Expires, now)
	if err != nil {
		return res, err
	}
	res.Expires = ref.Expires
	res.Attempt, err = s.sealer.seal(opIdentify, stageIdentified, ref)
	return res, err
}

// identityOf returns the identity of a user whom a provider has verified. Its roles are only those that the
// connector maps. It has no login id, because the login is not finished.
func (s *Service) identityOf(user oidc.VerifiedUser) identity.Identity {
	return identity.Identity{
		V:         identity.Version,
		Kind:      identity.User,
		Cluster:   s.cfg.Cluster,
		Name:      user.Name(),
		Connector: user.Connector(),
		Subject:   user.Subject(),
		Roles:     user.Roles(),
		Traits:    user.Traits(),
		Profile:   identity.UserProfile,
	}
}

// recordRefusal stores an audit event: the user who, at the proxy by, was refused for the reason. It returns
// reason in any case, so that the caller can pass it on. If the event cannot be stored, it is logged instead.
// who must be identified by a provider: otherwise anyone could fill the audit log.
func (s *Service) recordRefusal(
	ctx context.Context, who, by identity.Identity, from netip.Addr, reason error,
) error {
	why := audit.LoginRefusal{Reason: audit.Truncate(fault.Message(reason))}
	e := audit.New(s.cfg.Now(), who, why).Via(by.Name, from)
	if err := s.cfg.Events.AppendEvents(ctx, e); err != nil {
		s.cfg.Log.Error("a refusal could not be recorded", "err", err, "user", who.Name, "refusal", reason)
	}
	return reason
}
