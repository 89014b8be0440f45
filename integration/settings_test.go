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
	s, onSecond := startSecondProxy(t, func(admin *harness.Client) {
		shown := admin.Tsh("get", "settings", "cluster").OK(t)
		settings := strings.Replace(shown, "rules_age: 24h", "rules_age: 1m", 1)
		admin.Tsh("apply", "-f", harness.WriteFile(t, t.TempDir(), "settings.yaml", settings)).OK(t)
		if out := admin.Tsh("get", "settings").OK(t); !strings.Contains(out, "1m") {
			t.Errorf("got %q, want the new rules_age", out)
		}
	})
	s.Process.Kill()
	tick := time.NewTicker(2 * time.Second)
	defer tick.Stop()
	r := onSecond.Tsh("ssh", "far-node", "true")
	for end := time.Now().Add(3 * time.Minute); r.Code == 0 && time.Now().Before(end); <-tick.C {
		r = onSecond.Tsh("ssh", "far-node", "true")
	}
	r.Refused(t, "more than 1m", "has not heard from the cluster")
}
