//go:build integration

package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/threshold-access/threshold/integration/harness"
)

// The keys of a running cluster are replaced with the root key, which no server has: request, signature
// elsewhere, answer, restart. What the old keys signed ends, members come back, and users log in again.
func TestTheRootReplacesTheKeysOfARunningCluster(t *testing.T) {
	t.Parallel()
	addr := harness.FreeAddr(t, "127.0.0.1")
	server := harness.StartServer(t, addr, harness.StartProvider(t, "127.0.0.1", addr), "web-1")
	admin := harness.NewClient(t)
	alice := admin.FirstLogin(server, harness.Alice())
	dir := t.TempDir()
	request, answer := filepath.Join(dir, "request.json"), filepath.Join(dir, "answer.json")

	admin.Tsh("root", "request", "--replace", "rules", "--replace", "user-ssh", "--replace", "service-x509",
		"--out", request).OK(t)
	if out := admin.Tsh("get", "authorities").OK(t); !strings.Contains(out, "yes") {
		t.Errorf("got %q, want a request that waits for the root", out)
	}
	sign := func(flags ...string) harness.Result {
		args := append([]string{"root", "sign", "--root-key", server.RootKeyFile}, flags...)
		return harness.Run(t, nil, nil, harness.Bin(t, "threshold"), append(args, request)...)
	}
	other, _ := harness.NewRootIdentity(t)
	wrong := harness.WriteFile(t, dir, "wrong.txt", other)
	contains(t, sign("--yes", "--identity", wrong).Stderr, "does not open", "threshold: hint: ")
	contains(t, sign("--identity", server.RootIdentity).Stderr, "--yes", "rules")
	if _, err := os.Stat(answer); err == nil {
		t.Fatal("got an answer after a refusal")
	}
	signed := sign("--yes", "--identity", server.RootIdentity, "--out", answer)
	signed.OK(t)
	contains(t, signed.Stderr, "user-ssh", "previous", "tsh root apply")

	viewer := harness.NewClient(t)
	viewer.FirstLogin(server, harness.Bob())
	viewer.Tsh("root", "apply", answer).Refused(t, "authorities")
	if out := admin.Tsh("root", "apply", answer).OK(t); !strings.Contains(out, "authorities 2.") {
		t.Errorf("got %q, want the next epoch", out)
	}
	server.Restart(t)
	harness.Eventually(t, "the node serves sessions under the new keys", func() bool {
		r := admin.Tsh("ssh", "web-1", "echo here")
		return r.Code == 0 && strings.TrimSpace(r.Stdout) == "here"
	})
	admin.Tsh("root", "apply", answer).Refused(t, "nothing waits")
	admin.LoginAt(addr, server, alice)
	if out := admin.Tsh("ssh", "web-1", "echo again").OK(t); strings.TrimSpace(out) != "again" {
		t.Errorf("got %q with a certificate of the new key, want the command's output", out)
	}
	if out := admin.Tsh("get", "events", "--format=json").OK(t); strings.Count(out, `"authorities"`) < 2 {
		t.Errorf("got %s, want events of the request and of the answer", out)
	}
}
