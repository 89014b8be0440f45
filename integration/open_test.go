//go:build integration

package integration

import (
	"fmt"
	"strings"
	"testing"

	"github.com/threshold-access/threshold/integration/harness"
)

// A role loses its grants while a session of its holder runs. The node and the proxy find what is open and no
// longer allowed, by the action it was opened with, and log whose it is. New sessions are refused, and the
// one that runs goes on.
func TestOpenSessionsAreDecidedAgainWhenARoleChanges(t *testing.T) {
	t.Parallel()
	f := newLimitFixture(t, "web")
	screen, keys, wait := f.terminal("echo on; cat; exit 5")
	screen.Wait("on")
	role := func(actions string) {
		file := harness.WriteFile(t, f.client.Home, "role.yaml", fmt.Sprintf(`kind: role
version: v1
metadata: {name: operator}
spec:
  allow:
    - nodes: {"*": "*"}
      logins: [%s]
      actions: [%s]
`, harness.Account(t), actions))
		f.client.Tsh("apply", "-f", file).OK(t)
	}
	role("list")
	log := func(parts ...string) bool {
		for line := range strings.Lines(f.server.Process.Output()) {
			found := strings.Contains(line, "no longer allowed") && strings.Contains(line, f.alice.Email)
			for _, part := range parts {
				found = found && strings.Contains(line, part)
			}
			if found {
				return true
			}
		}
		return false
	}
	login := "login=" + harness.Account(t)
	harness.Eventually(t, "node and proxy log what is no longer allowed", func() bool {
		return log(login, "action=exec") && log(login, `action=""`) && log(`login=""`)
	})
	if out, code := f.run(f.config, "echo in"); code == 0 {
		t.Errorf("got %q, want no new session", out)
	}
	if _, err := keys.WriteString("still here\n\x04"); err != nil {
		t.Fatal(err)
	}
	screen.Wait("still here")
	if code := wait(); code != 5 {
		t.Errorf("got exit status %d, want 5: the session goes on", code)
	}
	role("shell, exec")
	harness.Eventually(t, "a session is allowed again", func() bool {
		out, code := f.run(f.config, "echo in")
		return code == 0 && out == "in\n"
	})
}
