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
	User      identity.Identity `json:"user"` // with the roles that the connector maps
	Enrolment *totp.Enrolment   `json:"enrolment,omitempty"`
	Expires   time.Time         `json:"expires"`
}

func (i *identifiedAttempt) expiresAt() time.Time { return i.Expires }

// Identify takes the parameters that the provider sent the browser back with, and returns the sealed attempt
// for the page that asks for the second factor.
func (s *Service) Identify(
	ctx context.Context, by identity.Identity, req authrpc.FinishOIDCRequest,
) (authrpc.FinishOIDCResponse, error) {
	user, client, err := s.finishProvider(ctx, by, req)
	if err != nil {
		s.refusals.record(identify, by, req.From, err)
		return authrpc.FinishOIDCResponse{}, err
	}
	res, err := s.identify(ctx, user, client)
	if err != nil {
		return res, s.recordRefusal(ctx, s.identityOf(user), by, req.From, err)
	}
	return res, nil
}

// finishProvider opens the begun attempt and lets the provider's flow end.
func (s *Service) finishProvider(
	ctx context.Context, by identity.Identity, req authrpc.FinishOIDCRequest,
) (oidc.VerifiedUser, clientRequest, error) {
	if err := checkProxy(opIdentify, by); err != nil {
		return oidc.VerifiedUser{}, clientRequest{}, err
	}
	var b begunAttempt
	if err := s.sealer.open(opIdentify, stageBegun, req.Attempt, s.cfg.Now(), &b); err != nil {
		return oidc.VerifiedUser{}, clientRequest{}, err
	}
	if req.Connector != b.Flow.Connector {
		return oidc.VerifiedUser{}, clientRequest{}, fault.New(fault.Denied, opIdentify,
			"the callback belongs to another identity provider than this login", startAgain)
	}
	user, err := s.cfg.Providers.Finish(ctx, b.Flow, oidc.CallbackParams{
		State:            req.State,
		Code:             req.Code,
		Issuer:           req.Issuer,
		Error:            req.Error,
		ErrorDescription: req.ErrorDescription,
	})
	return user, b.Client, err
}

// identify seals the identified attempt. A user without a second factor gets an enrolment with it.
func (s *Service) identify(
	ctx context.Context, user oidc.VerifiedUser, c clientRequest,
) (res authrpc.FinishOIDCResponse, err error) {
	i := identifiedAttempt{Client: c, User: s.identityOf(user), Expires: s.cfg.Now().Add(AttemptLife).UTC()}
	if i.Enrolment, err = s.cfg.Factor.OfferEnrolment(ctx, i.User); err != nil {
		return res, err
	}
	res = authrpc.FinishOIDCResponse{Name: i.User.Name, Expires: i.Expires, Headless: c.headlessPrompt()}
	if i.Enrolment != nil {
		res.Enrol = &authrpc.Enrolment{URI: i.Enrolment.URI, Secret: i.Enrolment.Secret}
	}
	res.Attempt, err = s.sealer.seal(opIdentify, stageIdentified, i)
	return res, err
}

// identityOf is the identity of a user whom a provider has verified. It has no login id, because the login is
// not finished.
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

// recordRefusal stores an audit event about the refusal of a user whom a provider has identified, and returns
// the reason of the refusal. If the event cannot be stored, it is logged instead.
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
