package auth

import "context"

// Health returns nil if auth can serve now, else why it cannot: it is not open yet, it has ended, its disk
// has failed, or this replica is not the leader that a quorum confirms.
func (s *Server) Health(ctx context.Context) error {
	if err := s.ready.Check(); err != nil {
		return err
	}
	return s.store.Linearize(ctx)
}
