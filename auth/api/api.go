// Package api answers: what does auth do when it is called?
//
// It serves every route of internal/authrpc. It verifies that the caller is still on record, calls the
// package that the route belongs to, and returns its result in the types of authrpc. Which kinds of
// callers a route accepts stands in the route itself.
package api

import (
	"context"
	"errors"
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
	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

// State is what the API itself reads; it writes nothing. state.Reader is one.
type State interface {
	User(ctx context.Context, k identity.UserKey) (state.Stored[state.User], error)
	HasConnector(ctx context.Context, name string) (bool, error)
	LockSet(ctx context.Context) (*state.LockSet, error)
	Policy(ctx context.Context) (access.Policy, error)
}

// Config holds the services that the routes call; all of it is required.
type Config struct {
	Caller           func(*http.Request) (authrpc.Caller, error) // who calls, as the port verified
	State            State
	Login            *login.Service
	Join             *join.Service
	Issuer           *issue.Issuer
	Rules            *rules.Publisher
	Acknowledgements *rules.Acknowledgements
	Nodes            *attachments.Directory
	Attachments      *attachments.Updater
	Resources        *resources.Service
	Log              *audit.Log // the audit log
	Now              func() time.Time
	Logger           *slog.Logger
}

// handlers has one method for each route.
type handlers struct{ Config }

// New makes the handler of the API.
func New(cfg Config) http.Handler {
	h := handlers{cfg}
	server := authrpc.NewServer(h.verifyCaller, cfg.Logger)

	// Logins: proxies call for the browser, tsh calls for itself.
	authrpc.Handle(server, authrpc.BeginLogin, h.beginLogin)
	authrpc.Handle(server, authrpc.FinishOIDC, h.finishOIDC)
	authrpc.Handle(server, authrpc.ShowFactor, h.showFactor)
	authrpc.Handle(server, authrpc.ProveFactor, h.proveFactor)
	authrpc.Handle(server, authrpc.RedeemLogin, h.redeemLogin)
	authrpc.Handle(server, authrpc.BeginHeadless, h.beginHeadless)
	authrpc.Handle(server, authrpc.RedeemHeadless, h.redeemHeadless)

	// Machines.
	authrpc.Handle(server, authrpc.Join, h.join)
	authrpc.Handle(server, authrpc.Renew, h.renew)
	authrpc.HandleStream(server, authrpc.WatchRules, h.watchRules)
	authrpc.Handle(server, authrpc.GetRules, h.getRules)
	authrpc.Handle(server, authrpc.ReportNodes, h.reportNodes)
	authrpc.Handle(server, authrpc.ReportAcknowledgements, h.reportAcknowledgements)
	authrpc.Handle(server, authrpc.LocateNode, h.locateNode)
	authrpc.Handle(server, authrpc.SendEvents, h.sendEvents)

	// Users.
	authrpc.Handle(server, authrpc.WhoAmI, h.whoAmI)
	authrpc.Handle(server, authrpc.GetAuthorities, h.getAuthorities)
	authrpc.Handle(server, authrpc.GetMachineLocks, h.getMachineLocks)
	authrpc.Handle(server, authrpc.ListNodes, h.listNodes)
	authrpc.Handle(server, authrpc.GetResources, h.getResources)
	authrpc.Handle(server, authrpc.ApplyResource, h.applyResource)
	authrpc.Handle(server, authrpc.RemoveResource, h.removeResource)
	authrpc.Handle(server, authrpc.LockConfirmations, h.lockConfirmations)
	return server
}

// verifyCaller returns who sent the request, as the records say now. The port has verified the certificate,
// but a certificate says what was true when it was issued, and is valid for hours. So that a change by an
// administrator takes effect at once, a machine must still be a member, and a user keeps only the roles that
// are not taken away. Whoever is locked, or connected by a proxy that is, gets fault Denied, which says why.
// A certificate that is bound to networks is fault Denied from any other network. A caller without a
// certificate, or an auth replica, has no record and is returned as it is.
func (h handlers) verifyCaller(r *http.Request) (authrpc.Caller, error) {
	caller, err := h.Caller(r)
	if err != nil {
		return caller, err
	}
	if err := h.checkProxy(r.Context(), caller); err != nil {
		return caller, err
	}
	switch caller.Kind {
	case identity.Node, identity.Proxy:
		member, err := h.Join.VerifyMember(r.Context(), caller)
		caller.Name = member.Machine().Name
		return caller, err
	case identity.User:
		if r.URL.Path == authrpc.RedeemLogin.Path() {
			// What counts is the new login. The certificate of the last one must not get in the way.
			return caller, nil
		}
		if err := caller.CheckSourceAddress(caller.Addr); err != nil {
			return caller, loginAddressChanged.Wrap(err, "auth", fault.Args{"why": err.Error()})
		}
		if caller.Roles, err = h.currentRoles(r.Context(), caller.Identity); err != nil {
			return caller, err
		}
		return caller, h.checkLocks(r.Context(), caller)
	}
	return caller, err
}

// checkProxy returns fault Denied if the proxy by which the caller is connected is locked.
func (h handlers) checkProxy(ctx context.Context, caller authrpc.Caller) error {
	if caller.ProxyID == "" {
		return nil
	}
	set, err := h.State.LockSet(ctx)
	if err != nil {
		return err
	}
	if lock, locked := set.Locks.MachineDenied(caller.ProxyID, h.Now()); locked {
		denial := lock.Denial("connections by the proxy " + caller.Proxy)
		return connectionProxyLocked.New("auth", fault.Args{"reason": denial.Reason, "hint": denial.Remedy})
	}
	return nil
}

// checkLocks returns fault Denied if a lock denies the user everything. Locks that name what the user does
// are for whoever decides that.
func (h handlers) checkLocks(ctx context.Context, caller authrpc.Caller) error {
	set, err := h.State.LockSet(ctx)
	if err != nil {
		return err
	}
	request := access.Request{
		Who:    caller.Identity,
		Serial: caller.Serial,
		Proxy:  caller.ProxyID,
		Now:    h.Now(),
	}
	if lock, denies := set.Locks.Denying(request); denies {
		denial := lock.Denial("access to the cluster")
		return accessLocked.New("auth", fault.Args{"reason": denial.Reason, "hint": denial.Remedy})
	}
	return nil
}

// currentRoles returns those roles of the certificate that the user still has. It returns fault Denied if the
// user or the connector of their login was removed.
func (h handlers) currentRoles(ctx context.Context, who identity.Identity) ([]string, error) {
	removed := userRemoved.New("auth", fault.Args{"user": who.Name})
	user, err := h.State.User(ctx, who.UserKey())
	if fault.Is(err, fault.NotFound) {
		return nil, removed
	}
	if err != nil {
		return nil, err
	}
	has, err := h.State.HasConnector(ctx, who.Connector)
	if err == nil && !has {
		err = removed
	}
	return user.Value.FilterRoles(who.Roles), err
}

// beginLogin, finishOIDC, showFactor and proveFactor are the steps of a login in the browser. The caller is
// the proxy that shows the pages.
func (h handlers) beginLogin(
	ctx context.Context,
	caller authrpc.Caller,
	r authrpc.BeginLoginRequest,
) (authrpc.BeginLoginResponse, error) {
	return h.Login.Begin(ctx, caller.Identity, r)
}

func (h handlers) finishOIDC(
	ctx context.Context,
	caller authrpc.Caller,
	r authrpc.FinishOIDCRequest,
) (authrpc.FinishOIDCResponse, error) {
	return h.Login.Identify(ctx, caller.Identity, r)
}

func (h handlers) showFactor(
	ctx context.Context,
	caller authrpc.Caller,
	r authrpc.ShowFactorRequest,
) (authrpc.ShowFactorResponse, error) {
	return h.Login.ShowFactor(ctx, caller.Identity, r)
}

func (h handlers) proveFactor(
	ctx context.Context,
	caller authrpc.Caller,
	r authrpc.ProveFactorRequest,
) (authrpc.ProveFactorResponse, error) {
	return h.Login.Prove(ctx, caller.Identity, r)
}

// redeemLogin gives certificates for a finished login. It does not look at the caller. The request alone
// proves the right to them: it has the login's one-time code, and the verifier and keys that were fixed when
// the login began.
func (h handlers) redeemLogin(
	ctx context.Context,
	_ authrpc.Caller,
	r authrpc.RedeemLoginRequest,
) (authrpc.RedeemLoginResponse, error) {
	return h.issueForLogin(ctx, func() (login.Assured, error) { return h.Login.Redeem(ctx, r) })
}

// maxDecisions bounds how often a login is decided, because a lock or the user was changed meanwhile.
const maxDecisions = 8

// issueForLogin issues the certificates of a login that redeem decides. It decides again if what the login
// was decided by has changed before the certificates are released.
func (h handlers) issueForLogin(
	ctx context.Context, redeem func() (login.Assured, error),
) (res authrpc.RedeemLoginResponse, err error) {
	for range maxDecisions {
		var assured login.Assured
		if assured, err = redeem(); err != nil {
			return res, err
		}
		if res, err = h.Issuer.ForLogin(ctx, assured); !fault.Is(err, fault.Conflict) {
			return res, err
		}
	}
	return res, err
}

// errNotApproved ends issueForLogin for a headless login that nobody has approved yet.
var errNotApproved = errors.New("the login is not approved yet")

// beginHeadless begins a login whose browser runs on another machine.
func (h handlers) beginHeadless(
	_ context.Context,
	caller authrpc.Caller,
	r authrpc.BeginHeadlessRequest,
) (authrpc.BeginHeadlessResponse, error) {
	return h.Login.BeginHeadless(caller, r)
}

// redeemHeadless gives certificates if the login has been approved in a browser. Before that, the response is
// empty and there is no error: tsh asks again.
func (h handlers) redeemHeadless(
	ctx context.Context,
	caller authrpc.Caller,
	r authrpc.RedeemHeadlessRequest,
) (authrpc.RedeemHeadlessResponse, error) {
	res, err := h.issueForLogin(ctx, func() (login.Assured, error) {
		assured, approved, err := h.Login.RedeemHeadless(ctx, caller, r)
		if err == nil && !approved {
			err = errNotApproved
		}
		return assured, err
	})
	if errors.Is(err, errNotApproved) {
		return authrpc.RedeemHeadlessResponse{}, nil
	}
	return authrpc.RedeemHeadlessResponse{Login: &res}, err
}

// join admits a machine that shows a join token, and returns its certificates and the rules.
func (h handlers) join(
	ctx context.Context,
	_ authrpc.Caller,
	r authrpc.JoinRequest,
) (authrpc.JoinResponse, error) {
	// ForMachine needs the rules. If there are none yet, the token must stay unused, for the next try.
	if _, _, err := h.Rules.Current(); err != nil {
		return authrpc.JoinResponse{}, err
	}
	admitted, err := h.Join.Admit(ctx, r)
	if err != nil {
		return authrpc.JoinResponse{}, err
	}
	return h.Issuer.ForMachine(ctx, admitted)
}

// renew gives a member new certificates for its keys on record. Its certificate may have expired.
func (h handlers) renew(
	ctx context.Context,
	caller authrpc.Caller,
	r authrpc.RenewRequest,
) (authrpc.RenewResponse, error) {
	admitted, err := h.Join.Renew(ctx, caller, r)
	if err != nil {
		return authrpc.RenewResponse{}, err
	}
	return h.Issuer.ForMachine(ctx, admitted)
}

// lastRules is how long a stream of rules goes on after its machine was removed: until the lock of the
// machine has passed, by which it and the machines behind it learn of the removal. A node may have its rules
// from the proxy that was removed alone.
const lastRules = time.Second

// watchRules sends what the machine lacks of the current rules and then what changes, until the machine
// disconnects or is no longer a member. Membership is checked before each send, because the stream may last
// for weeks.
func (h handlers) watchRules(
	ctx context.Context,
	caller authrpc.Caller,
	req authrpc.WatchRulesRequest,
	send func(authrpc.RulesUpdate) error,
) error {
	var removed time.Time
	return h.Rules.Watch(ctx, req.Have, func(piece []byte) error {
		if _, err := h.Join.VerifyMember(ctx, caller); err != nil {
			if removed.IsZero() {
				removed = time.Now()
			}
			if !fault.Is(err, fault.Denied) || time.Since(removed) > lastRules {
				return err
			}
		}
		return send(authrpc.RulesUpdate{Piece: piece})
	})
}

// getRules gives once what a machine lacks of the rules, which has no stream of them.
func (h handlers) getRules(
	_ context.Context,
	_ authrpc.Caller,
	req authrpc.WatchRulesRequest,
) (res authrpc.GetRulesResponse, err error) {
	pieces, err := h.Rules.Pieces(req.Have)
	for _, piece := range pieces {
		res.Pieces = append(res.Pieces, piece)
	}
	return res, err
}

// reportNodes takes the list of the nodes that are attached to the calling proxy.
func (h handlers) reportNodes(
	ctx context.Context,
	caller authrpc.Caller,
	r authrpc.ReportNodesRequest,
) (authrpc.ReportNodesResponse, error) {
	return h.Attachments.Report(ctx, caller.Identity, r)
}

// reportAcknowledgements takes by which rules the machines decide whose proxy calls.
func (h handlers) reportAcknowledgements(
	ctx context.Context,
	caller authrpc.Caller,
	r authrpc.ReportAcknowledgementsRequest,
) (authrpc.ReportAcknowledgementsResponse, error) {
	return h.Acknowledgements.Report(ctx, caller.Identity, r)
}

// locateNode tells a proxy to which proxies a node is attached.
func (h handlers) locateNode(
	ctx context.Context,
	_ authrpc.Caller,
	r authrpc.LocateNodeRequest,
) (authrpc.LocateNodeResponse, error) {
	return h.Nodes.Locate(ctx, r.Node)
}

// sendEvents stores audit events of a machine. It returns when they are durable.
func (h handlers) sendEvents(
	ctx context.Context,
	caller authrpc.Caller,
	r authrpc.SendEventsRequest,
) (authrpc.SendEventsResponse, error) {
	return authrpc.SendEventsResponse{}, h.Log.AppendMachineEvents(ctx, caller.Identity, r.Events)
}

// whoAmI gives the caller's identity with the roles that the caller has now (see verifyCaller), and the
// logins that these roles grant.
func (h handlers) whoAmI(
	ctx context.Context,
	caller authrpc.Caller,
	_ authrpc.WhoAmIRequest,
) (authrpc.WhoAmIResponse, error) {
	policy, err := h.State.Policy(ctx)
	if err != nil {
		return authrpc.WhoAmIResponse{}, err
	}
	return authrpc.WhoAmIResponse{
		Identity: caller.Identity,
		Logins:   access.Logins(policy, caller.Identity),
		Time:     h.Now().UTC(),
	}, nil
}

// getAuthorities gives the authorities documents, by which tsh verifies machines.
func (h handlers) getAuthorities(
	ctx context.Context,
	_ authrpc.Caller,
	_ authrpc.GetAuthoritiesRequest,
) (authrpc.GetAuthoritiesResponse, error) {
	chain, err := h.Rules.Authorities(ctx)
	return authrpc.GetAuthoritiesResponse{Authorities: chain}, err
}

// getMachineLocks gives the document of machine locks. It has no secrets: every user may know which machines
// nobody reaches any more.
func (h handlers) getMachineLocks(
	_ context.Context,
	_ authrpc.Caller,
	_ authrpc.GetMachineLocksRequest,
) (authrpc.GetMachineLocksResponse, error) {
	locks, err := h.Rules.MachineLocks()
	return authrpc.GetMachineLocksResponse{MachineLocks: locks}, err
}

// listNodes gives one page of the nodes that the user may see.
func (h handlers) listNodes(
	ctx context.Context,
	caller authrpc.Caller,
	r authrpc.ListNodesRequest,
) (authrpc.ListNodesResponse, error) {
	return h.Nodes.List(ctx, caller, r)
}

// getResources, applyResource and removeResource are the administration of documents. What the user may do is
// decided in auth/resources.
func (h handlers) getResources(
	ctx context.Context,
	caller authrpc.Caller,
	r authrpc.GetResourcesRequest,
) (authrpc.GetResourcesResponse, error) {
	return h.Resources.Get(ctx, caller, r)
}

func (h handlers) applyResource(
	ctx context.Context,
	caller authrpc.Caller,
	r authrpc.ApplyResourceRequest,
) (authrpc.ApplyResourceResponse, error) {
	return h.Resources.Apply(ctx, caller, r.Resource)
}

func (h handlers) removeResource(
	ctx context.Context,
	caller authrpc.Caller,
	r authrpc.RemoveResourceRequest,
) (authrpc.RemoveResourceResponse, error) {
	return authrpc.RemoveResourceResponse{}, h.Resources.Remove(ctx, caller, r)
}

// lockConfirmations says which machines have not confirmed a lock, and may wait for them.
func (h handlers) lockConfirmations(
	ctx context.Context,
	caller authrpc.Caller,
	r authrpc.LockConfirmationsRequest,
) (authrpc.LockConfirmationsResponse, error) {
	return h.Resources.LockConfirmations(ctx, caller, r)
}
