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

// Invite creates a join token for a machine that runs in this same process. It asks for no permission: its
// caller can read auth's memory anyway. The machine gets the labels. A ttl of zero means
// join.DefaultTokenTTL. Invite waits until the server is ready.
func (s *Server) Invite(
	ctx context.Context,
	kind identity.Kind,
	labels identity.Labels,
	ttl time.Duration,
) (authrpc.Token, error) {
	if err := s.Ready(ctx); err != nil {
		return authrpc.Token{}, err
	}
	token, _, err := s.services.join.Create(ctx, join.TokenRequest{Kind: kind, Labels: labels, TTL: ttl})
	return token, err
}

// InviteFirstProxy creates the join token of the cluster's first proxy. It exists because only users who are
// logged in can create tokens, and nobody can log in before there is a proxy. When the cluster has a proxy,
// it returns fault Denied. Like Invite, it is for the program that auth runs in.
func (s *Server) InviteFirstProxy(ctx context.Context, ttl time.Duration) (authrpc.Token, error) {
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
	var noLabels identity.Labels
	return s.Invite(ctx, identity.Proxy, noLabels, ttl)
}
