//go:build integration

package integration

import (
	"encoding/json"
	"strings"
	"syscall"
	"testing"

	"github.com/threshold-access/threshold/integration/harness"
)

// An administrator makes locks and removes them. tsh says by its exit status whether every machine has
// confirmed that, and names those that have not.
func TestTshLockWaitsForMachines(t *testing.T) {
	proxy := harness.FreeAddr(t, "127.0.0.1")
	s := harness.StartServer(t, proxy, harness.StartProvider(t, "127.0.0.1", proxy), "")
	admin := harness.NewClient(t)
	admin.FirstLogin(s, harness.Alice())
	far := harness.StartNode(t, proxy, admin.Token("node"), "far-node")

	r := admin.Tsh("lock", "account", "nobody", "--for", "2h", "--message", "maintenance", "--wait", "30s")
	if r.Code != 0 || !strings.Contains(r.Stdout, " created until 2") ||
		!strings.HasSuffix(r.Stdout, "; denied: account nobody\n") ||
		r.Stderr != "Confirmed by all 2 machines.\n" {
		t.Errorf("got %+v, want the proxy and the node to confirm", r)
	}
	signal := func(sig syscall.Signal) {
		if err := far.Process.Cmd.Process.Signal(sig); err != nil {
			t.Error(err)
		}
	}
	signal(syscall.SIGSTOP)
	defer signal(syscall.SIGCONT) // a process that is stopped does not end with the test
	r = admin.Tsh("lock", "account", "games", "--wait", "1s", "--format=json")
	var made struct {
		Locks            []struct{ Metadata struct{ Name string } }
		Confirmed, Total int
		Silent           []struct{ Name, Kind string }
	}
	if err := json.Unmarshal([]byte(r.Stdout), &made); err != nil || r.Code != 3 || len(made.Locks) != 1 ||
		made.Confirmed != 1 || made.Total != 2 || len(made.Silent) != 1 || made.Silent[0].Name != "far-node" {
		t.Fatalf("got %+v (%v), want 3 and the node that is silent", r, err)
	}
	signal(syscall.SIGCONT)
	ids := []string{made.Locks[0].Metadata.Name}
	for line := range strings.Lines(admin.Tsh("lock", "ls").OK(t)) {
		if strings.Contains(line, "account nobody") && strings.HasSuffix(line, " maintenance\n") {
			ids = append(ids, strings.Fields(line)[0])
		}
	}
	if len(ids) != 2 {
		t.Errorf("got the locks %v, want the other one listed", ids)
	}
	r = admin.Tsh(append([]string{"lock", "rm", "--wait", "30s"}, ids...)...)
	if r.Code != 0 || r.Stderr != "Confirmed by all 2 machines.\n" {
		t.Errorf("got %+v, want the removal confirmed", r)
	}
	if out := admin.Tsh("lock", "ls", "--format=json").OK(t); out != "[]\n" {
		t.Errorf("got %s, want no locks", out)
	}
}
