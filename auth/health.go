package auth

import (
	"context"
	"errors"

	"github.com/threshold-access/threshold/internal/fault"
)

// Health returns nil if auth can serve now, else why it cannot: it is not open yet, it has ended, its disk
// has failed, or this replica is not the leader that a quorum confirms.
func (s *Server) Health(ctx context.Context) error {
	select {
	case <-s.ended:
		stopped := fault.New(fault.Unavailable, "auth.Health", "auth has stopped", "start it again")
		return errors.Join(stopped, s.err)
	default:
	}
	if !s.isReady() {
		return fault.New(fault.Unavailable, "auth.Health", "auth is not open yet", "wait for its start")
	}
	return s.store.Linearize(ctx)
}
