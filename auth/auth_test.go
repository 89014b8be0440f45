package auth

import (
	"testing"
	"time"

	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/rules"
)

func TestAMachineJoinsAndRenews(t *testing.T) {
	t.Parallel()
	s := newTestServer(t)
	n := s.join(identity.Node, "web-1", identity.Labels{"env": "prod"})
	if n.res.Identity.Name != "web-1" || n.res.Identity.Kind != identity.Node {
		t.Errorf("got identity %+v, want node web-1", n.res.Identity)
	}
	trust, err := rules.Open(s.auth.Pin(), n.res.Rules)
	s.must(err)
	if trust.Cluster != "example.com" || len(trust.Policy.Roles) != 3 {
		t.Errorf("got rules of %q with %d roles, want example.com with admin, ops and viewer",
			trust.Cluster, len(trust.Policy.Roles))
	}
	res, err := authrpc.Call(t.Context(), n.Client, authrpc.Renew, authrpc.RenewRequest{Time: time.Now()})
	s.must(err)
	if res.Identity.ID != n.res.Identity.ID || len(res.SSHCert) == 0 {
		t.Errorf("got %+v, want new certificates of the same machine", res.Identity)
	}
}
