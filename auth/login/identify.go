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

// identifiedAttempt is an attempt whose person a provider vouched for. Only Identify makes one.
type identifiedAttempt struct {
	Client    clientRequest     `json:"client"`
	User      identity.Identity `json:"who"` // roles are the connector's
	Enrolment *totp.Enrolment   `json:"offer,omitempty"`
	Expires   time.Time         `json:"ends"`
}

func (i *identifiedAttempt) ends() time.Time { return i.Expires }

// Identify takes what the provider sent the browser back with.
func (s *Service) Identify(
	ctx context.Context,
	by identity.Identity,
	req authrpc.FinishOIDCRequest,
) (authrpc.FinishOIDCResponse, error) {
	vouched, client, err := s.finishProvider(ctx, by, req)
	if err != nil {
		s.refusals.record(identify, by, req.From, err)
		return authrpc.FinishOIDCResponse{}, err
	}
	res, err := s.identify(ctx, vouched, client)
	if err != nil {
		return res, s.recordRefusal(ctx, s.identityOf(vouched), by, req.From, err)
	}
	return res, nil
}

func (s *Service) finishProvider(
	ctx context.Context,
	by identity.Identity,
	req authrpc.FinishOIDCRequest,
) (oidc.VerifiedUser, clientRequest, error) {
	if err := checkProxy(opIdentify, by); err != nil {
		return oidc.VerifiedUser{}, clientRequest{}, err
	}
	var b begunAttempt
	if err := s.sealer.open(opIdentify, stageBegun, req.Attempt, s.cfg.Now(), &b); err != nil {
		return oidc.VerifiedUser{}, clientRequest{}, err
	}
	if req.Connector != b.Flow.Connector {
		return oidc.VerifiedUser{}, clientRequest{}, fault.New(
			fault.Denied,
			opIdentify,
			"the callback belongs to another identity provider than this login",
			startAgain,
		)
	}
	v, err := s.cfg.Providers.Finish(
		ctx,
		b.Flow,
		oidc.CallbackParams{
			State:            req.State,
			Code:             req.Code,
			Issuer:           req.Issuer,
			Error:            req.Error,
			ErrorDescription: req.ErrorDescription,
		},
	)
	return v, b.Client, err
}

func (s *Service) identify(
	ctx context.Context,
	v oidc.VerifiedUser,
	c clientRequest,
) (res authrpc.FinishOIDCResponse, err error) {
	i := identifiedAttempt{Client: c, User: s.identityOf(v), Expires: s.cfg.Now().Add(AttemptLife).UTC()}
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

// identityOf is the identity that the provider's word comes to: without a login id, for nobody has logged in
// yet.
func (s *Service) identityOf(v oidc.VerifiedUser) identity.Identity {
	return identity.Identity{
		V:         identity.Version,
		Kind:      identity.User,
		Cluster:   s.cfg.Cluster,
		Name:      v.Name(),
		Connector: v.Connector(),
		Subject:   v.Subject(),
		Roles:     v.Roles(),
		Traits:    v.Traits(),
	}
}

// recordRefusal records the refusal of a person for whom a provider vouched, and returns it. If it cannot be
// recorded, that is told too.
func (s *Service) recordRefusal(
	ctx context.Context,
	who, by identity.Identity,
	from string,
	why error,
) error {
	e := audit.NewEvent(audit.LoginRefused, who, s.cfg.Now())
	e.From, e.Proxy, e.Reason = audit.Truncate(from), by.Name, audit.Truncate(fault.Message(why))
	if err := s.cfg.Events.AppendEvents(ctx, e); err != nil {
		s.cfg.Log.Error("a refusal could not be recorded", "err", err, "user", who.Name, "refusal", why)
	}
	return why
}
