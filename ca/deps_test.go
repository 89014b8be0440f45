package ca_test

import (
	"os/exec"
	"strings"
	"testing"
)

// TestLinksOnlyTheSigningParts checks that ca does not link smallstep's server with its databases and cloud
// SDKs.
func TestLinksOnlyTheSigningParts(t *testing.T) {
	const ours, step = "github.com/threshold-access/threshold/", "github.com/smallstep/certificates/"
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", ours+"ca").Output()
	if err != nil {
		t.Fatal(err)
	}
	allowed := map[string]bool{
		ours + "ca":                true,
		ours + "ca/keyring":        true,
		ours + "internal/ascii":    true,
		ours + "internal/fault":    true,
		ours + "internal/wire":     true,
		ours + "internal/durable":  true,
		ours + "internal/identity": true,
		step + "cas/apiv1":         true,
		step + "cas/softcas":       true,
		step + "policy":            true,
		step + "api/log":           true, // these three: errors of cas/apiv1 and policy
		step + "api/render":        true,
		step + "errs":              true,
	}
	forbidden := []string{
		"google.golang.org/grpc",
		"github.com/dgraph-io/badger",
		"github.com/jackc/pgx",
		"github.com/go-sql-driver/mysql",
		"cloud.google.com/",
		"github.com/aws/",
	}
	deps := strings.Fields(string(out))
	for _, p := range deps {
		if (strings.HasPrefix(p, ours) || strings.HasPrefix(p, step)) && !allowed[p] {
			t.Errorf("ca links %s, which it must not", p)
		}
		for _, bad := range forbidden {
			if strings.HasPrefix(p, bad) {
				t.Errorf("ca links %s, which it must not", p)
			}
		}
	}
	if len(deps) < 100 {
		t.Errorf("got %d packages, want the whole list", len(deps))
	}
}
