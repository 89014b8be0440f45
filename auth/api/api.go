// Package api answers: what does auth do when it is asked?
//
// It serves every route of internal/authrpc: it makes sure that a calling machine is still on record, hands
// the request to the room whose question it is, and puts the answer into the words of the contract. Who may
// call what stands in the contract's table.
package api

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/threshold-access/threshold/auth/attachments"
	"github.com/threshold-access/threshold/auth/audit"
	"github.com/threshold-access/threshold/auth/issue"
	"github.com/threshold-access/threshold/auth/join"
	"github.com/threshold-access/threshold/auth/login"
	"github.com/threshold-access/threshold/auth/resources"
	"github.com/threshold-access/threshold/auth/rules"
	"github.com/threshold-access/threshold/auth/state"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	signed "github.com/threshold-access/threshold/internal/rules"
)

// Config holds the rooms that answer; all of it is required.
type Config struct {
	Caller      func(*http.Request) (authrpc.Caller, error) // who asks, as the port saw
	State       *state.State
	Login       *login.Service
	Join        *join.Service
	Issuer      *issue.Issuer
	Rules       *rules.Publisher
	Attachments *attachments.Registry
	Resources   *resources.Service
	Log         *audit.Log
	Now         func() time.Time
	Logger      *slog.Logger
}

// handlers are the routes' handlers.
type handlers struct{ Config }

// New makes the handler of the API.
func New(cfg Config) http.Handler {
	c := handlers{cfg}
	s := authrpc.NewServer(c.caller, cfg.Logger)

	authrpc.Handle(s, authrpc.BeginLogin, c.beginLogin)
	authrpc.Handle(s, authrpc.FinishOIDC, c.finishOIDC)
	authrpc.Handle(s, authrpc.ProveFactor, c.proveFactor)
	authrpc.Handle(s, authrpc.RedeemLogin, c.redeemLogin)
	authrpc.Handle(s, authrpc.BeginHeadless, c.beginHeadless)
	authrpc.Handle(s, authrpc.RedeemHeadless, c.redeemHeadless)

	authrpc.Handle(s, authrpc.Join, c.join)
	authrpc.Handle(s, authrpc.Renew, c.renew)
	authrpc.HandleStream(s, authrpc.WatchRules, c.watchRules)
	authrpc.Handle(s, authrpc.GetRules, c.getRules)
	authrpc.Handle(s, authrpc.ReportNodes, c.reportNodes)
	authrpc.Handle(s, authrpc.LocateNode, c.locateNode)
	authrpc.Handle(s, authrpc.SendEvents, c.sendEvents)

	authrpc.Handle(s, authrpc.WhoAmI, c.whoAmI)
	authrpc.Handle(s, authrpc.GetAuthorities, c.getAuthorities)
	authrpc.Handle(s, authrpc.ListNodes, c.listNodes)
	authrpc.Handle(s, authrpc.GetResources, c.getResources)
	authrpc.Handle(s, authrpc.ApplyResource, c.applyResource)
	authrpc.Handle(s, authrpc.RemoveResource, c.removeResource)
	return s
}

// caller holds everyone to what is on record now: their certificates say what was, and are good for hours
// more; those that are pinned to a network, from there alone.
func (c handlers) caller(r *http.Request) (authrpc.Caller, error) {
	who, err := c.Caller(r)
	switch {
	case err != nil:
	case who.Kind == identity.Node || who.Kind == identity.Proxy:
		var known join.Admitted
		known, err = c.Join.VerifyMember(r.Context(), who)
		who.Name = known.Machine().Name
	case who.Kind == identity.User && r.URL.Path != authrpc.RedeemLogin.Path(): // a new login stands for itself
		if err := who.CheckSourceAddress(who.Addr); err != nil {
			return who, fault.Wrap(
				err,
				fault.Denied,
				"auth",
				err.Error(),
				"log in where you are now: tsh login",
			)
		}
		who.Roles, err = c.currentRoles(r.Context(), who.Identity)
	}
	return who, err
}

// currentRoles are those of the person's roles that nobody has taken from them since their certificate was
// issued.
func (c handlers) currentRoles(ctx context.Context, who identity.Identity) ([]string, error) {
	gone := fault.New(
		fault.Denied,
		"auth",
		fmt.Sprintf("%s is no user of this cluster any more", who.Name),
		"run: tsh login",
	)
	u, err := c.State.User(ctx, who.UserKey())
	if fault.Is(err, fault.NotFound) {
		return nil, gone
	}
	if err != nil {
		return nil, err
	}
	has, err := c.State.HasConnector(ctx, who.Connector)
	if err == nil && !has {
		err = gone
	}
	return u.Value.FilterRoles(who.Roles), err
}

func (c handlers) beginLogin(
	ctx context.Context,
	by authrpc.Caller,
	r authrpc.BeginLoginRequest,
) (authrpc.BeginLoginResponse, error) {
	return c.Login.Begin(ctx, by.Identity, r)
}

func (c handlers) finishOIDC(
	ctx context.Context,
	by authrpc.Caller,
	r authrpc.FinishOIDCRequest,
) (authrpc.FinishOIDCResponse, error) {
	return c.Login.Identify(ctx, by.Identity, r)
}

func (c handlers) proveFactor(
	ctx context.Context,
	by authrpc.Caller,
	r authrpc.ProveFactorRequest,
) (authrpc.ProveFactorResponse, error) {
	return c.Login.Prove(ctx, by.Identity, r)
}

func (c handlers) redeemLogin(
	ctx context.Context,
	_ authrpc.Caller,
	r authrpc.RedeemLoginRequest,
) (authrpc.RedeemLoginResponse, error) {
	assured, err := c.Login.Redeem(ctx, r)
	if err != nil {
		return authrpc.RedeemLoginResponse{}, err
	}
	return c.Issuer.ForLogin(ctx, assured)
}

func (c handlers) beginHeadless(
	_ context.Context,
	by authrpc.Caller,
	r authrpc.BeginHeadlessRequest,
) (authrpc.BeginHeadlessResponse, error) {
	return c.Login.BeginHeadless(by, r)
}

func (c handlers) redeemHeadless(
	ctx context.Context,
	by authrpc.Caller,
	r authrpc.RedeemHeadlessRequest,
) (authrpc.RedeemHeadlessResponse, error) {
	assured, approved, err := c.Login.RedeemHeadless(ctx, by, r)
	if err != nil || !approved {
		return authrpc.RedeemHeadlessResponse{}, err
	}
	res, err := c.Issuer.ForLogin(ctx, assured)
	return authrpc.RedeemHeadlessResponse{Login: &res}, err
}

func (c handlers) join(
	ctx context.Context,
	_ authrpc.Caller,
	r authrpc.JoinRequest,
) (authrpc.JoinResponse, error) {
	if _, _, err := c.Rules.Current(); err != nil { // before the token is spent
		return authrpc.JoinResponse{}, err
	}
	admitted, err := c.Join.Admit(ctx, r)
	if err != nil {
		return authrpc.JoinResponse{}, err
	}
	return c.Issuer.ForMachine(ctx, admitted)
}

func (c handlers) renew(
	ctx context.Context,
	by authrpc.Caller,
	r authrpc.RenewRequest,
) (authrpc.RenewResponse, error) {
	admitted, err := c.Join.Renew(ctx, by, r)
	if err != nil {
		return authrpc.RenewResponse{}, err
	}
	return c.Issuer.ForMachine(ctx, admitted)
}

// watchRules lasts for as long as the machine is a member, which is asked with every head.
func (c handlers) watchRules(
	ctx context.Context,
	by authrpc.Caller,
	_ authrpc.WatchRulesRequest,
	send func(authrpc.RulesUpdate) error,
) error {
	return c.Rules.Watch(ctx, func(s signed.Set) error {
		if _, err := c.Join.VerifyMember(ctx, by); err != nil {
			return err
		}
		return send(authrpc.RulesUpdate{Set: s})
	})
}

func (c handlers) getRules(
	_ context.Context,
	_ authrpc.Caller,
	_ authrpc.WatchRulesRequest,
) (authrpc.RulesUpdate, error) {
	set, _, err := c.Rules.Current()
	return authrpc.RulesUpdate{Set: set}, err
}

func (c handlers) reportNodes(
	ctx context.Context,
	by authrpc.Caller,
	r authrpc.ReportNodesRequest,
) (authrpc.ReportNodesResponse, error) {
	return c.Attachments.Report(ctx, by.Identity, r)
}

func (c handlers) locateNode(
	ctx context.Context,
	_ authrpc.Caller,
	r authrpc.LocateNodeRequest,
) (authrpc.LocateNodeResponse, error) {
	return c.Attachments.Locate(ctx, r.Node)
}

func (c handlers) sendEvents(
	ctx context.Context,
	by authrpc.Caller,
	r authrpc.SendEventsRequest,
) (authrpc.SendEventsResponse, error) {
	return authrpc.SendEventsResponse{}, c.Log.AppendMachineEvents(ctx, by.Identity, r.Events)
}

func (c handlers) whoAmI(
	ctx context.Context,
	by authrpc.Caller,
	_ authrpc.WhoAmIRequest,
) (authrpc.WhoAmIResponse, error) {
	policy, err := c.State.Policy(ctx)
	if err != nil {
		return authrpc.WhoAmIResponse{}, err
	}
	return authrpc.WhoAmIResponse{
		Identity: by.Identity,
		Logins:   policy.Logins(by.Identity),
		Time:     c.Now().UTC(),
	}, nil
}

func (c handlers) getAuthorities(
	ctx context.Context,
	_ authrpc.Caller,
	_ authrpc.GetAuthoritiesRequest,
) (authrpc.GetAuthoritiesResponse, error) {
	chain, err := c.Rules.Authorities(ctx)
	return authrpc.GetAuthoritiesResponse{Authorities: chain}, err
}

func (c handlers) listNodes(
	ctx context.Context,
	by authrpc.Caller,
	r authrpc.ListNodesRequest,
) (authrpc.ListNodesResponse, error) {
	return c.Attachments.List(ctx, by.Identity, r)
}

func (c handlers) getResources(
	ctx context.Context,
	by authrpc.Caller,
	r authrpc.GetResourcesRequest,
) (authrpc.GetResourcesResponse, error) {
	return c.Resources.Get(ctx, by.Identity, r)
}

func (c handlers) applyResource(
	ctx context.Context,
	by authrpc.Caller,
	r authrpc.ApplyResourceRequest,
) (authrpc.ApplyResourceResponse, error) {
	return c.Resources.Apply(ctx, by.Identity, r.Resource)
}

func (c handlers) removeResource(
	ctx context.Context,
	by authrpc.Caller,
	r authrpc.RemoveResourceRequest,
) (authrpc.RemoveResourceResponse, error) {
	return authrpc.RemoveResourceResponse{}, c.Resources.Remove(ctx, by.Identity, r)
}
