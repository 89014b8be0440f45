package auth

import (
	"context"
	"time"

	"github.com/threshold-access/threshold/auth/join"
	"github.com/threshold-access/threshold/auth/state"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

// Invitation says which machine is invited.
type Invitation struct {
	Kind        identity.Kind
	Labels      identity.Labels // that the machine gets
	PublicNames []string        // of a proxy: those that it may have; none means the cluster's name
	TTL         time.Duration   // zero means join.DefaultTokenTTL
}

// Invite creates a join token for a machine that runs in this same process. It asks for no permission: its
// caller can read auth's memory anyway. Invite waits until the server is ready.
func (s *Server) Invite(ctx context.Context, who Invitation) (authrpc.Token, error) {
	if err := s.Ready(ctx); err != nil {
		return authrpc.Token{}, err
	}
	token, _, err := s.services.join.Create(ctx, join.TokenRequest{
		Kind:        who.Kind,
		Labels:      who.Labels,
		PublicNames: who.PublicNames,
		TTL:         who.TTL,
	})
	return token, err
}

// InviteFirstProxy creates the join token of the cluster's first proxy. It exists because only users who are
// logged in can create tokens, and nobody can log in before there is a proxy. When the cluster has a proxy,
// it returns fault Denied. names are the public names that the proxy may have; none means the cluster's name.
// Like Invite, it is for the program that auth runs in.
func (s *Server) InviteFirstProxy(
	ctx context.Context, names []string, ttl time.Duration,
) (authrpc.Token, error) {
	if err := s.Ready(ctx); err != nil {
		return authrpc.Token{}, err
	}
	proxies, err := s.services.state.ListMachines(ctx, identity.Proxy, state.Page{Limit: 1})
	if err != nil {
		return authrpc.Token{}, err
	}
	if len(proxies.Items) > 0 {
		return authrpc.Token{}, firstProxyExists.New("auth.InviteFirstProxy", fault.Args{
			"proxy": proxies.Items[0].Value.Name,
		})
	}
	return s.Invite(ctx, Invitation{Kind: identity.Proxy, PublicNames: names, TTL: ttl})
}
