package ca_test

import (
	"os/exec"
	"strings"
	"testing"
)

// TestLinksOnlyTheSigningParts holds that smallstep's server, with its databases and cloud SDKs, never comes
// in.
func TestLinksOnlyTheSigningParts(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", "github.com/threshold-access/threshold/ca").
		Output()
	if err != nil {
		t.Fatal(err)
	}
	const ours, step = "github.com/threshold-access/threshold/", "github.com/smallstep/certificates/"
	allowed := map[string]bool{
		ours + "ca": true, ours + "ca/keyring": true, ours + "internal/fault": true, ours + "internal/identity": true,
		step + "cas/apiv1": true, step + "cas/softcas": true, step + "policy": true,
		step + "api/log": true, step + "api/render": true, step + "errs": true, // what cas/apiv1 and policy shape their errors with
	}
	deps := strings.Fields(string(out))
	for _, p := range deps {
		if (strings.HasPrefix(p, ours) || strings.HasPrefix(p, step)) && !allowed[p] {
			t.Errorf("ca links %s, which it must not", p)
		}
		for _, bad := range []string{"google.golang.org/grpc", "github.com/dgraph-io/badger", "github.com/jackc/pgx", "github.com/go-sql-driver/mysql", "cloud.google.com/", "github.com/aws/"} {
			if strings.HasPrefix(p, bad) {
				t.Errorf("ca links %s, which it must not", p)
			}
		}
	}
	if len(deps) < 100 {
		t.Errorf("got %d packages, want the whole list", len(deps))
	}
}
