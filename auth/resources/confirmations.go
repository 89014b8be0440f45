package resources

import (
	"context"

	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/authrpc"
)

// LockConfirmations says which machines have not confirmed a lock: see the request. Whoever may apply locks
// must be able to see where theirs is in force, so they need not have the action get.
func (s *Service) LockConfirmations(
	ctx context.Context, who authrpc.Caller, req authrpc.LockConfirmationsRequest,
) (authrpc.LockConfirmationsResponse, error) {
	by, err := s.callerOf(ctx, who)
	if err == nil && !by.may(access.Apply, access.ClusterLocks) {
		err = s.require(ctx, by, access.Get, access.ClusterLocks, "")
	}
	if err != nil {
		return authrpc.LockConfirmationsResponse{}, err
	}
	return s.confirmations.Confirmations(ctx, req)
}
