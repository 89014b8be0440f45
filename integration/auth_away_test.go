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
	s, onSecond := startSecondProxy(t, nil)
	s.Process.Kill()
	if out := onSecond.Tsh("ssh", "far-node", "echo still in").OK(t); strings.TrimSpace(out) != "still in" {
		t.Errorf("without auth: got %q, want the command's output", out)
	}
	onSecond.Tsh("ssh", "nobody@far-node", "true").Refused(t)
	onSecond.Tsh("scp", "/etc/hostname", "far-node:/tmp/should-not-arrive").Refused(t, "sftp")
	onSecond.Tsh("ls").Refused(t, "auth")
}

// startSecondProxy starts a cluster with a second proxy in a process of its own, to which the node far-node
// is attached. It returns a client that has logged in at the second proxy and has used the node. Before that
// it calls configure, if it is not nil, with the administrator's client.
func startSecondProxy(
	t *testing.T,
	configure func(admin *harness.Client),
) (s *harness.Server, onSecond *harness.Client) {
	t.Helper()
	first, second := harness.FreeAddr(t, "127.0.0.1"), harness.FreeAddr(t, "127.0.0.1")
	s = harness.StartServer(t, first, harness.StartProvider(t, "127.0.0.1", first, second), "")
	admin := harness.NewClient(t)
	alice := admin.FirstLogin(s, harness.Alice())
	token := admin.Token("proxy", "--public-name", "127.0.0.1")
	harness.StartProxy(t, second, s.AuthAddr(t), token, "proxy-2")
	harness.StartNode(t, second, admin.Token("node"), "far-node")
	role := harness.WriteFile(t, t.TempDir(), "role.yaml", operatorRole(harness.Account(t), "exec"))
	admin.Tsh("apply", "-f", role).OK(t)
	if configure != nil {
		configure(admin)
	}
	onSecond = harness.NewClient(t)
	onSecond.LoginAt(second, s, alice)
	if out := onSecond.Tsh("ssh", "far-node", "echo in").OK(t); strings.TrimSpace(out) != "in" {
		t.Errorf("got %q, want the command's output", out)
	}
	return s, onSecond
}
