package login

import (
	"context"
	"time"

	"github.com/threshold-access/threshold/auth/oidc"
	"github.com/threshold-access/threshold/auth/totp"
	"github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

const opIdentify = "login.Identify"

// identifiedAttempt is an attempt whose user a provider has identified. Only Identify makes one.
type identifiedAttempt struct {
	Client    clientRequest     `json:"client"`
	User      identity.Identity `json:"user"`                // with the roles that the connector maps
	Enrolment *totp.Enrolment   `json:"enrolment,omitempty"` // nil: the user has a second factor
	Expires   time.Time         `json:"expires"`
}

func (a *identifiedAttempt) expiresAt() time.Time { return a.Expires }

// Identify takes the parameters with which the provider sent the browser back, and returns the sealed attempt
// for the page that asks for the second factor, with an enrolment for a user who has no factor yet. The
// caller must be a proxy.
//
// Until the provider has identified the user, a refusal is only counted and logged; after that it is an audit
// event.
func (s *Service) Identify(
	ctx context.Context, by identity.Identity, req authrpc.FinishOIDCRequest,
) (authrpc.FinishOIDCResponse, error) {
	user, client, err := s.verifyCallback(ctx, by, req)
	if err != nil {
		s.refusals.record(stepIdentify, by, req.From, err)
		return authrpc.FinishOIDCResponse{}, err
	}
	res, err := s.sealIdentified(ctx, user, client)
	if err != nil {
		return res, s.recordRefusal(ctx, s.identityOf(user), by, req.From, err)
	}
	return res, nil
}

// verifyCallback opens the begun attempt in the request and lets the identity provider's flow finish. It
// returns the verified user, and what tsh asked for when the attempt began.
func (s *Service) verifyCallback(
	ctx context.Context, by identity.Identity, req authrpc.FinishOIDCRequest,
) (oidc.VerifiedUser, clientRequest, error) {
	if err := checkProxy(opIdentify, by); err != nil {
		return oidc.VerifiedUser{}, clientRequest{}, err
	}
	var attempt begunAttempt
	if err := s.sealer.open(opIdentify, stageBegun, req.Attempt, s.cfg.Now(), &attempt); err != nil {
		return oidc.VerifiedUser{}, clientRequest{}, err
	}
	// Each connector has a callback path of its own. A response on another path comes from another provider
	// than the one that was asked: a mix-up attack.
	if req.Connector != attempt.Flow.Connector {
		return oidc.VerifiedUser{}, clientRequest{}, callbackOfOtherProvider.New(opIdentify)
	}
	user, err := s.cfg.Providers.Finish(ctx, attempt.Flow, oidc.CallbackParams{
		State:            req.State,
		Code:             req.Code,
		Issuer:           req.Issuer,
		Error:            req.Error,
		ErrorDescription: req.ErrorDescription,
	})
	return user, attempt.Client, err
}

// sealIdentified makes the identified attempt and returns it sealed, with what the page shows. For a user
// without a second factor both contain a new enrolment.
func (s *Service) sealIdentified(
	ctx context.Context, user oidc.VerifiedUser, client clientRequest,
) (res authrpc.FinishOIDCResponse, err error) {
	attempt := identifiedAttempt{
		Client:  client,
		User:    s.identityOf(user),
		Expires: s.cfg.Now().Add(AttemptLife).UTC(),
	}
	if attempt.Enrolment, err = s.cfg.Factor.OfferEnrolment(ctx, attempt.User); err != nil {
		return res, err
	}
	res = authrpc.FinishOIDCResponse{
		Name:     attempt.User.Name,
		Expires:  attempt.Expires,
		Headless: client.headlessPrompt(),
	}
	if e := attempt.Enrolment; e != nil {
		res.Enrol = &authrpc.Enrolment{URI: e.URI, Secret: e.Secret}
	}
	res.Attempt, err = s.sealer.seal(opIdentify, stageIdentified, attempt)
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
	}
}

// recordRefusal stores an audit event: the user who, at the proxy by, was refused for the reason. It returns
// reason in any case, so that the caller can pass it on. If the event cannot be stored, it is logged instead.
// who must be identified by a provider: otherwise anyone could fill the audit log.
func (s *Service) recordRefusal(
	ctx context.Context, who, by identity.Identity, from string, reason error,
) error {
	e := audit.NewEvent(audit.LoginRefused, who, s.cfg.Now())
	e.From, e.Proxy, e.Reason = audit.Truncate(from), by.Name, audit.Truncate(fault.Message(reason))
	if err := s.cfg.Events.AppendEvents(ctx, e); err != nil {
		s.cfg.Log.Error("a refusal could not be recorded", "err", err, "user", who.Name, "refusal", reason)
	}
	return reason
}
