package auth

import (
	"context"
	"fmt"
	"time"

	"github.com/threshold-access/threshold/auth/state"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

// InviteFirstProxy makes the join token of the cluster's first proxy. Tokens are made by people who are
// logged in, and nobody can log in before a proxy stands; so where there is one, this is refused. Like Invite
// it is for the program that auth runs in.
func (s *Server) InviteFirstProxy(ctx context.Context, ttl time.Duration) (authrpc.Token, error) {
	if err := s.Ready(ctx); err != nil {
		return authrpc.Token{}, err
	}
	there, err := s.services.state.ListMachines(ctx, identity.Proxy, state.Page{Limit: 1})
	if err != nil {
		return authrpc.Token{}, err
	}
	if len(there.Items) > 0 {
		return authrpc.Token{}, fault.New(
			fault.Denied,
			"auth.InviteFirst",
			fmt.Sprintf("this cluster has a proxy already: %s", there.Items[0].Value.Name),
			"log in through it, then run: tsh token create --kind proxy",
		)
	}
	return s.Invite(ctx, identity.Proxy, nil, ttl)
}
