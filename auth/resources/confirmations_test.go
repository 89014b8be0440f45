package resources_test

import (
	"context"
	"testing"
	"time"

	"github.com/threshold-access/threshold/auth/state"
	"github.com/threshold-access/threshold/auth/state/statetest"
	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
)

// everyone has confirmed every lock.
type everyone struct{}

func (everyone) Confirmations(
	context.Context, authrpc.LockConfirmationsRequest,
) (authrpc.LockConfirmationsResponse, error) {
	return authrpc.LockConfirmationsResponse{Attached: 3, Confirmed: 3}, nil
}

// Whoever may read or write locks may see which machines have them. Nobody else does, and the refusal is
// recorded.
func TestWhoMaySeeWhichMachinesHaveALock(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for _, action := range []access.Action{access.Get, access.Apply, access.Remove} {
		_, err := f.st.Roles.PutRole(t.Context(), state.Stored[access.Role]{}, access.Role{
			Name: "locks-" + string(action),
			Allow: []access.Grant{{
				Resources: access.Strings{string(access.ClusterLocks)},
				Actions:   access.Strings{string(action)},
			}},
		}, time.Now())
		f.must(err)
	}
	for role, allowed := range map[string]bool{
		"locks-get": true, "locks-apply": true, "admin": true, "locks-rm": false, "nodes-keeper": false,
	} {
		got, err := f.LockConfirmations(t.Context(), authrpc.Caller{Identity: statetest.User("alice", role)},
			authrpc.LockConfirmationsRequest{})
		switch {
		case allowed && (err != nil || got.Confirmed != 3):
			t.Errorf("%s: got %+v, %v, want the confirmations", role, got, err)
		case !allowed:
			f.wantFault(role, err, fault.Denied)
		}
	}
	refusals := 0
	for _, e := range statetest.Events(t, f.st) {
		if e.Code == audit.ResourceRefused {
			refusals++
		}
	}
	if refusals != 2 {
		t.Errorf("got %d refusals recorded, want 2", refusals)
	}
}
