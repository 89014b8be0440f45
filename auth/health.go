package auth

import "context"

// Health returns nil if auth can serve now. Otherwise it returns the reason: it is not open yet, it has
// ended, its disk has failed, or this replica does not lead, or no quorum confirms that it does.
func (s *Server) Health(ctx context.Context) error {
	if err := s.ready.Check(); err != nil {
		return err
	}
	return s.store.Linearize(ctx)
}
