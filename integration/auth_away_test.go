//go:build integration

package integration

import (
	"strings"
	"testing"

	"github.com/threshold-access/threshold/integration/harness"
)

// While auth is stopped, users with a certificate reach nodes by name, and nodes decide by the signed rules
// that they have.
func TestNodesKeepDecidingWhileAuthIsAway(t *testing.T) {
	first, second := harness.FreeAddr(t, "127.0.0.1"), harness.FreeAddr(t, "127.0.0.1")
	s := harness.StartServer(t, first, harness.StartProvider(t, "127.0.0.1", first, second), "")
	c := harness.NewClient(t)
	alice := c.FirstLogin(s, harness.Alice())
	harness.StartProxy(t, second, s.AuthAddr(t), c.Token("proxy"), "proxy-2")
	harness.StartNode(t, second, c.Token("node"), "far-node")
	role := harness.WriteFile(t, t.TempDir(), "role.yaml", operatorRole(harness.Account(t), "exec"))
	c.Tsh("apply", "-f", role).OK(t)
	onSecond := harness.NewClient(t)
	onSecond.LoginAt(second, s, alice)
	if out := onSecond.Tsh("ssh", "far-node", "echo in").OK(t); strings.TrimSpace(out) != "in" {
		t.Errorf("got %q, want the command's output", out)
	}

	s.Process.Kill()
	if out := onSecond.Tsh("ssh", "far-node", "echo still in").OK(t); strings.TrimSpace(out) != "still in" {
		t.Errorf("without auth: got %q, want the command's output", out)
	}
	onSecond.Tsh("ssh", "nobody@far-node", "true").Refused(t)
	onSecond.Tsh("scp", "/etc/hostname", "far-node:/tmp/should-not-arrive").Refused(t, "sftp")
	onSecond.Tsh("ls").Refused(t, "auth")
}
