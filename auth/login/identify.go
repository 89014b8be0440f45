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

// identified is an attempt whose person a provider vouched for. Only Identify makes one.
type identified struct {
	Client client            `json:"client"`
	Who    identity.Identity `json:"who"` // roles are the connector's
	Offer  *totp.Offer       `json:"offer,omitempty"`
	Ends   time.Time         `json:"ends"`
}

func (i *identified) ends() time.Time { return i.Ends }

// Identify takes what the provider sent the browser back with.
func (s *Service) Identify(ctx context.Context, by identity.Identity, req authrpc.FinishOIDCRequest) (authrpc.FinishOIDCResponse, error) {
	vouched, client, err := s.vouch(ctx, by, req)
	if err != nil {
		s.refusals.note(identify, by, req.From, err)
		return authrpc.FinishOIDCResponse{}, err
	}
	res, err := s.identify(ctx, vouched, client)
	if err != nil {
		return res, s.refuse(ctx, s.who(vouched), by, req.From, err)
	}
	return res, nil
}

func (s *Service) vouch(ctx context.Context, by identity.Identity, req authrpc.FinishOIDCRequest) (oidc.Vouched, client, error) {
	if err := checkProxy(opIdentify, by); err != nil {
		return oidc.Vouched{}, client{}, err
	}
	var b begun
	if err := s.sealer.open(opIdentify, stageBegun, req.Attempt, s.cfg.Now(), &b); err != nil {
		return oidc.Vouched{}, client{}, err
	}
	if req.Connector != b.Flow.Connector {
		return oidc.Vouched{}, client{}, fault.New(fault.Denied, opIdentify, "the answer came to another provider's address than this login's", startAgain)
	}
	v, err := s.cfg.Providers.Vouch(ctx, b.Flow, oidc.Return{State: req.State, Code: req.Code, Issuer: req.Issuer, Error: req.Error, ErrorDescription: req.ErrorDescription})
	return v, b.Client, err
}

func (s *Service) identify(ctx context.Context, v oidc.Vouched, c client) (res authrpc.FinishOIDCResponse, err error) {
	i := identified{Client: c, Who: s.who(v), Ends: s.cfg.Now().Add(AttemptLife).UTC()}
	if i.Offer, err = s.cfg.Factor.Offer(ctx, i.Who); err != nil {
		return res, err
	}
	res = authrpc.FinishOIDCResponse{Name: i.Who.Name, Expires: i.Ends, Headless: c.ask()}
	if i.Offer != nil {
		res.Enrol = &authrpc.Enrolment{URI: i.Offer.URI, Secret: i.Offer.Secret}
	}
	res.Attempt, err = s.sealer.seal(opIdentify, stageIdentified, i)
	return res, err
}

// who is the identity that the provider's word comes to: without a login id, for nobody has logged in yet.
func (s *Service) who(v oidc.Vouched) identity.Identity {
	return identity.Identity{V: identity.Version, Kind: identity.User, Cluster: s.cfg.Cluster, Name: v.Name(), Connector: v.Connector(), Subject: v.Subject(),
		Roles: v.Roles(), Traits: v.Traits()}
}

// refuse records the refusal of a person for whom a provider vouched, and returns it. If it cannot be recorded, that is told too.
func (s *Service) refuse(ctx context.Context, who, by identity.Identity, from string, why error) error {
	e := audit.Of(audit.LoginRefused, who, s.cfg.Now())
	e.From, e.Proxy, e.Reason = audit.Cut(from), by.Name, audit.Cut(fault.Message(why))
	if err := s.cfg.Store.AppendEvents(ctx, e); err != nil {
		s.cfg.Log.Error("a refusal could not be recorded", "err", err, "user", who.Name, "refusal", why)
	}
	return why
}
