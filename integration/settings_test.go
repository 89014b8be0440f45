//go:build integration

package integration

import (
	"strings"
	"testing"
	"time"

	"github.com/threshold-access/threshold/integration/harness"
)

// An administrator sets how old rules may be. It reaches a running proxy and node, which then refuse new
// sessions soon after they have lost contact to auth, and say why.
func TestTheSettingRulesAgeReachesMachines(t *testing.T) {
	first, second := harness.FreeAddr(t, "127.0.0.1"), harness.FreeAddr(t, "127.0.0.1")
	s := harness.StartServer(t, first, harness.StartProvider(t, "127.0.0.1", first, second), "")
	c := harness.NewClient(t)
	alice := c.FirstLogin(s, harness.Alice())
	harness.StartProxy(t, second, s.AuthAddr(t), c.Token("proxy"), "proxy-2")
	harness.StartNode(t, second, c.Token("node"), "far-node")
	files := t.TempDir()
	role := harness.WriteFile(t, files, "role.yaml", operatorRole(harness.Account(t), "exec"))
	c.Tsh("apply", "-f", role).OK(t)
	shown := c.Tsh("get", "settings", "cluster").OK(t)
	settings := strings.Replace(shown, "rules_age: 24h", "rules_age: 1m", 1)
	c.Tsh("apply", "-f", harness.WriteFile(t, files, "settings.yaml", settings)).OK(t)
	if out := c.Tsh("get", "settings").OK(t); !strings.Contains(out, "1m") {
		t.Errorf("got %q, want the new rules_age", out)
	}
	onSecond := harness.NewClient(t)
	onSecond.LoginAt(second, s, alice)
	if out := onSecond.Tsh("ssh", "far-node", "echo in").OK(t); strings.TrimSpace(out) != "in" {
		t.Errorf("got %q, want the command's output", out)
	}
	s.Process.Kill()
	tick := time.NewTicker(2 * time.Second)
	defer tick.Stop()
	r := onSecond.Tsh("ssh", "far-node", "true")
	for end := time.Now().Add(3 * time.Minute); r.Code == 0 && time.Now().Before(end); <-tick.C {
		r = onSecond.Tsh("ssh", "far-node", "true")
	}
	r.Refused(t, "more than 1m", "has not heard from the cluster")
}
