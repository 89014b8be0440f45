//go:build integration

package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/threshold-access/threshold/integration/harness"
)

// This is the restore of docs/runbook.md: a copy of the data folder and the seal key bring a cluster back
// as it was, and the copy alone opens nothing.
func TestABackupAndTheSealKeyRestoreTheCluster(t *testing.T) {
	t.Parallel()
	addr := harness.FreeAddr(t, "127.0.0.1")
	s := harness.StartServer(t, addr, harness.StartProvider(t, "127.0.0.1", addr), "web-1")
	c := harness.NewClient(t)
	c.FirstLogin(s, harness.Alice())
	role := func(name string) string {
		return harness.WriteFile(t, t.TempDir(), "role.yaml", emptyRole(name))
	}
	c.Tsh("apply", "-f", role("before")).OK(t)

	if err := s.Process.Stop(); err != nil {
		t.Fatal(err)
	}
	backup := filepath.Join(t.TempDir(), "backup.tgz")
	harness.Run(t, nil, nil, "tar", "-C", s.Dir, "-czf", backup, "data").OK(t)
	s.Restart(t)
	c.Tsh("apply", "-f", role("after")).OK(t)
	if err := s.Process.Stop(); err != nil {
		t.Fatal(err)
	}

	seal, hidden := filepath.Join(s.Dir, "seal.key"), filepath.Join(t.TempDir(), "seal.key")
	for _, err := range []error{os.RemoveAll(filepath.Join(s.Dir, "data")), os.Rename(seal, hidden)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	harness.Run(t, nil, nil, "tar", "-C", s.Dir, "-xzf", backup).OK(t)
	config := filepath.Join(s.Dir, "threshold.yaml")
	r := harness.Run(t, nil, nil, harness.Bin(t, "threshold"), "start", "--config", config)
	if r.Code != 1 {
		t.Errorf("without the seal key: got %d, want 1", r.Code)
	}
	contains(t, r.Stderr, "seal key", "threshold: hint: ")
	if err := os.Rename(hidden, seal); err != nil {
		t.Fatal(err)
	}
	s.Restart(t)

	roles := c.Tsh("get", "roles").OK(t)
	if !strings.Contains(roles, "before") || strings.Contains(roles, "after") {
		t.Errorf("got roles\n%s\nwant those of the time of the backup", roles)
	}
	if out := c.Tsh("ssh", "web-1", "echo restored").OK(t); strings.TrimSpace(out) != "restored" {
		t.Errorf("got %q from the node, want the command's output", out)
	}
}
