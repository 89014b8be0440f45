package auth

import (
	"context"
	"errors"

	"github.com/threshold-access/threshold/internal/fault"
)

// Health says why auth cannot serve now: it is not open yet, it has ended, its disk has failed, or no quorum
// takes this replica for its leader.
func (s *Server) Health(ctx context.Context) error {
	select {
	case <-s.ended:
		return errors.Join(
			fault.New(fault.Unavailable, "auth.Health", "auth has stopped", "start it again"),
			s.err,
		)
	default:
	}
	if !s.opened() {
		return fault.New(fault.Unavailable, "auth.Health", "auth is not open yet", "wait")
	}
	return s.store.Linearize(ctx)
}
