//go:build integration

package integration

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/threshold-access/threshold/integration/harness"
	"github.com/threshold-access/threshold/internal/daemon"
)

// An agent that gets SIGTERM reports that it stops, accepts no new sessions, and lets the open ones finish.
// After a second signal it does not wait for them.
func TestAnAgentStopsGracefully(t *testing.T) {
	t.Parallel()
	proxy := harness.FreeAddr(t, "127.0.0.1")
	s := harness.StartServer(t, proxy, harness.StartProvider(t, "127.0.0.1", proxy), "")
	c := harness.NewClient(t)
	c.FirstLogin(s, harness.Alice())
	health, dir := harness.FreeAddr(t, "127.0.0.1"), t.TempDir()
	token := harness.WriteFile(t, dir, "token", c.Token("node"))
	file := harness.WriteFile(t, dir, "node.yaml", fmt.Sprintf(`kind: node
version: v1
spec:
  proxies: [%q]
  data: %q
  name: web-1
  token_file: %q
  health: %q
  drain: 10m
  log: {format: json}
`, proxy, filepath.Join(dir, "data"), token, health))
	start := func() *harness.Process {
		t.Helper()
		p := harness.Start(t, nil, harness.Bin(t, "threshold-node"), "--config", file)
		healthUntil(t, health, func(s daemon.Status) bool { return s.Ready })
		return p
	}
	session := func() (*harness.Process, io.WriteCloser) {
		t.Helper()
		cmd := c.Command("ssh", "web-1", "echo live; cat")
		stdin, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		p := harness.StartCmd(t, cmd)
		p.WaitFor("live")
		return p, stdin
	}

	t.Run("an open session may finish", func(t *testing.T) {
		agent := start()
		p, stdin := session()
		signal(t, agent, syscall.SIGTERM)
		healthUntil(t, health, func(s daemon.Status) bool { return s.Stopping && !s.Ready })
		if r := c.Tsh("ssh", "web-1", "true"); r.Code == 0 {
			t.Errorf("got %+v, want no new session", r)
		}
		if _, err := io.WriteString(stdin, "still here\n"); err != nil {
			t.Fatal(err)
		}
		p.WaitFor("still here")
		stdin.Close()
		if err := p.Wait(); err != nil {
			t.Errorf("the session ended with %v, want exit status 0", err)
		}
		if err := agent.Wait(); err != nil {
			t.Errorf("the agent ended with %v, want exit status 0", err)
		}
		for line := range strings.Lines(agent.Output()) {
			if !json.Valid([]byte(line)) {
				t.Errorf("got %q, want every line of the log as JSON", line)
			}
		}
	})
	t.Run("a second signal ends open sessions", func(t *testing.T) {
		agent := start()
		p, _ := session()
		signal(t, agent, syscall.SIGTERM)
		healthUntil(t, health, func(s daemon.Status) bool { return s.Stopping })
		signal(t, agent, syscall.SIGTERM)
		if err := agent.Wait(); err != nil {
			t.Errorf("the agent ended with %v, want exit status 0", err)
		}
		if err := p.Wait(); err == nil {
			t.Error("got a session that ended with 0, want it ended by the agent")
		}
	})
}

func signal(t *testing.T, p *harness.Process, sig syscall.Signal) {
	t.Helper()
	if err := p.Cmd.Process.Signal(sig); err != nil {
		t.Fatal(err)
	}
}

// healthUntil asks /readyz until the answer is as wanted.
func healthUntil(t *testing.T, addr string, wanted func(daemon.Status) bool) {
	t.Helper()
	harness.Eventually(t, "/readyz answers as wanted", func() bool {
		resp, err := http.Get("http://" + addr + "/readyz")
		if err != nil {
			return false // it does not listen yet, or no longer
		}
		defer resp.Body.Close()
		var s daemon.Status
		if json.NewDecoder(resp.Body).Decode(&s) != nil {
			return false
		}
		return wanted(s) && (resp.StatusCode == http.StatusOK) == s.Ready
	})
}
