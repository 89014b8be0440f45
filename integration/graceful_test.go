//go:build integration

package integration

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/threshold-access/threshold/integration/harness"
	"github.com/threshold-access/threshold/internal/daemon"
)

// An agent that is told to stop says so, takes nobody new, and lets a person finish; told twice it waits no
// longer.
func TestAnAgentStopsGracefully(t *testing.T) {
	t.Parallel()
	proxy := harness.FreeAddr(t, "127.0.0.1")
	s := harness.StartServer(t, proxy, harness.StartProvider(t, "127.0.0.1", proxy), "")
	c := harness.NewClient(t)
	c.FirstLogin(s, harness.Alice())
	health, dir := harness.FreeAddr(t, "127.0.0.1"), t.TempDir()
	file := harness.WriteFile(
		t,
		dir,
		"node.yaml",
		fmt.Sprintf(
			"kind: node\nversion: v1\nspec: {proxies: [%q], data: %q, name: web-1, token_file: %q, health: %q, drain: 10m, log: {format: json}}\n",
			proxy,
			filepath.Join(dir, "data"),
			harness.WriteFile(t, dir, "token", c.Token("node")),
			health,
		),
	)
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

	t.Run("a session may finish", func(t *testing.T) {
		agent := start()
		p, stdin := session()
		signal(t, agent, syscall.SIGTERM)
		healthUntil(t, health, func(s daemon.Status) bool { return s.Stopping && !s.Ready })
		if r := c.Tsh("ssh", "web-1", "true"); r.Code == 0 {
			t.Errorf("got %+v, want nobody let in any more", r)
		}
		if _, err := io.WriteString(stdin, "still here\n"); err != nil {
			t.Fatal(err)
		}
		p.WaitFor("still here")
		stdin.Close()
		if err := p.Wait(); err != nil {
			t.Errorf("the session ended with %v, want its own end", err)
		}
		if err := agent.Wait(); err != nil {
			t.Errorf("the agent ended with %v, want a clean end", err)
		}
		for line := range strings.Lines(agent.Output()) {
			if !json.Valid([]byte(line)) {
				t.Errorf("got %q, want every line of the log as JSON", line)
			}
		}
	})
	t.Run("a second signal ends the wait", func(t *testing.T) {
		agent := start()
		p, _ := session()
		signal(t, agent, syscall.SIGTERM)
		healthUntil(t, health, func(s daemon.Status) bool { return s.Stopping })
		signal(t, agent, syscall.SIGTERM)
		if err := agent.Wait(); err != nil {
			t.Errorf("the agent ended with %v, want a clean end", err)
		}
		if err := p.Wait(); err == nil {
			t.Error("got a session that ended well, want it cut")
		}
	})
}

func signal(t *testing.T, p *harness.Process, sig syscall.Signal) {
	t.Helper()
	if err := p.Cmd.Process.Signal(sig); err != nil {
		t.Fatal(err)
	}
}

// healthUntil asks /readyz until it answers as wanted.
func healthUntil(t *testing.T, addr string, wanted func(daemon.Status) bool) {
	t.Helper()
	var body []byte
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for late := time.Now().Add(harness.Timeout); time.Now().Before(late); <-tick.C {
		resp, err := http.Get("http://" + addr + "/readyz")
		if err != nil {
			continue // not yet, or not any more
		}
		body, err = io.ReadAll(resp.Body)
		resp.Body.Close()
		var s daemon.Status
		if err == nil && json.NewDecoder(bytes.NewReader(body)).Decode(&s) == nil && wanted(s) &&
			(resp.StatusCode == http.StatusOK) == s.Ready {
			return
		}
	}
	t.Fatalf("/readyz did not come to say what was wanted, but %s", body)
}
