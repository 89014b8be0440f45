package auth

import (
	"testing"
	"time"

	"github.com/threshold-access/threshold/auth/state"
	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/rules"
)

// A proxy passes on what it and a node have signed of the rules that auth gave them, and an administrator
// sees which machines have a lock. Nobody else sees it. Nothing of that is written to the store.
func TestMachinesConfirmALock(t *testing.T) {
	t.Parallel()
	s := newTestServer(t)
	edge := s.join(identity.Proxy, "edge", nil, "edge.example.org")
	web := s.join(identity.Node, "web", nil)
	_, err := authrpc.Call(t.Context(), edge.Client, authrpc.ReportNodes, authrpc.ReportNodesRequest{})
	s.must(err)
	lock := access.NewLock(access.Facts{LoginID: "login-9"}, access.Effect{Kind: access.Deny})
	s.must(s.state().Locks.PutLock(t.Context(), state.Stored[access.Lock]{}, lock, s.now()))

	// acknowledge reports what a machine signs that has the rules as they are now.
	acknowledge := func(m *machine) {
		t.Helper()
		trust, err := rules.Open(s.auth.Pin(), m.res.Rules)
		s.must(err)
		s.must(s.auth.services.publisher.Publish(t.Context()))
		newer, err := authrpc.Call(t.Context(), m.Client, authrpc.GetRules, authrpc.WatchRulesRequest{})
		s.must(err)
		receiver := rules.NewReceiver(trust, s.now())
		for _, piece := range newer.Pieces {
			_, err := receiver.Offer(s.now(), piece)
			s.must(err)
		}
		signed, err := receiver.Current().Acknowledge(m.key, m.res.Identity.ID, s.now())
		s.must(err)
		req := authrpc.ReportAcknowledgementsRequest{Acknowledgements: []authrpc.MachineAcknowledgement{
			{Machine: m.res.Identity.ID, Signed: signed},
		}}
		_, err = authrpc.Call(t.Context(), edge.Client, authrpc.ReportAcknowledgements, req)
		s.must(err)
	}
	admin := s.user("alice", "admin")
	ask := func(by *authrpc.Client, wait time.Duration) (authrpc.LockConfirmationsResponse, error) {
		return authrpc.Call(t.Context(), by, authrpc.LockConfirmations,
			authrpc.LockConfirmationsRequest{Lock: lock.ID, Wait: wait})
	}
	got, err := ask(admin, 0)
	if err != nil || got.Confirmed != 0 || len(got.Silent) != 1 || got.Silent[0].Name != "edge" ||
		got.OfflineCount != 1 || got.Offline[0].Name != "web" {
		t.Errorf("before: got %+v, %v, want edge silent and web offline", got, err)
	}
	type answer struct {
		res authrpc.LockConfirmationsResponse
		err error
	}
	waiting := make(chan answer, 1)
	go func() {
		res, err := ask(admin, authrpc.MaxConfirmationsWait)
		waiting <- answer{res, err}
	}()
	acknowledge(web)
	before := s.revision()
	acknowledge(edge)
	if got := <-waiting; got.err != nil || got.res.Attached != 1 || got.res.Confirmed != 1 ||
		got.res.OfflineCount != 0 {
		t.Errorf("after: got %+v, want edge confirmed, and web not named: it has confirmed too", got)
	}
	if after := s.revision(); after != before {
		t.Errorf("got the store at revision %d instead of %d, want nothing written", after, before)
	}
	if got, err := ask(s.user("bob", "ops"), 0); !fault.Is(err, fault.Denied) || fault.Remedy(err) == "" {
		t.Errorf("got %+v, %v for a user without the right, want denied with a remedy", got, err)
	}
}
