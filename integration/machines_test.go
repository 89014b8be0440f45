//go:build integration

package integration

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/threshold-access/threshold/integration/harness"
)

// An administrator lets machines join and removes them. Users see them under their names, online or offline.
func TestMachinesJoinGoOfflineAndAreRemoved(t *testing.T) {
	proxy := harness.FreeAddr(t, "127.0.0.1")
	s := harness.StartServer(t, proxy, harness.StartProvider(t, "127.0.0.1", proxy), "")
	c := harness.NewClient(t)
	c.FirstLogin(s, harness.Alice())
	token := c.Token("node", "--label", "env=prod")
	eu := harness.StartNode(t, proxy, token, "web.eu")
	harness.StartNode(t, proxy, c.Token("node", "--label", "env=test"), "web.us")

	t.Run("a node gets the labels of its token", func(t *testing.T) {
		out := c.Tsh("ls", "env=prod").OK(t)
		if !strings.Contains(out, "web.eu") || strings.Contains(out, "web.us") {
			t.Errorf("got %q, want web.eu alone", out)
		}
	})
	t.Run("the token shows in no process list, environment, log or listing", func(t *testing.T) {
		places := map[string]string{
			"the node's log":   eu.Process.Output(),
			"the server's log": s.Process.Output(),
			"tsh get token":    c.Tsh("get", "token", "--format=json").OK(t),
			"tsh get events":   c.Tsh("get", "events", "--format=json").OK(t),
		}
		for _, file := range []string{"cmdline", "environ"} {
			b, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", eu.Process.Cmd.Process.Pid, file))
			if err != nil {
				t.Fatal(err)
			}
			places["the node's "+file] = string(b)
		}
		secret := strings.Split(token, ".")[2] // thjoin1.KIND.SECRET.PIN
		for where, text := range places {
			if text == "" || strings.Contains(text, secret) {
				t.Errorf("%s: got %q, want something without the token", where, text)
			}
		}
	})
	t.Run("an ambiguous name lists the candidates and a full one works", func(t *testing.T) {
		c.Tsh("ssh", "web", "true").Refused(t, "ambiguous", "web.eu", "web.us")
		if out := c.Tsh("ssh", "web.us", "echo here").OK(t); strings.TrimSpace(out) != "here" {
			t.Errorf("got %q, want the command's output", out)
		}
	})
	t.Run("one id names a connection in the proxy's log and in the audit log", func(t *testing.T) {
		c.Tsh("ssh", "web.us", "echo named").OK(t)
		connected := regexp.MustCompile(`connected to node.* connection=([0-9a-f]{32})`)
		ids := connected.FindAllStringSubmatch(s.Process.Output(), -1)
		if len(ids) == 0 {
			t.Fatalf("the proxy's log names no connection:\n%s", s.Process.Output())
		}
		last := ids[len(ids)-1][1]
		c.Until(func(out string) bool { // start and end of the session
			return strings.Count(out, last) >= 2 && strings.Contains(out, "echo named")
		}, "get", "events", "--format=json")
	})
	t.Run("a token works once", func(t *testing.T) {
		r := harness.RunNode(t, proxy, token, "web.jp")
		used := strings.Contains(r.Stderr, "used") && strings.Contains(r.Stderr, "tsh token create")
		if r.Code == 0 || !used {
			t.Errorf("got %+v, want the token refused as used, with the command for a new one", r)
		}
	})
	t.Run("a token for two machines admits two whose names match", func(t *testing.T) {
		two := c.Token("node", "--uses", "2", "--name-pattern", "db-*")
		r := harness.RunNode(t, proxy, two, "web")
		if r.Code == 0 || !strings.Contains(r.Stderr, "like db-*") {
			t.Errorf("got %+v, want the name refused", r)
		}
		harness.StartNode(t, proxy, two, "db-1")
		harness.StartNode(t, proxy, two, "db-2")
		r = harness.RunNode(t, proxy, two, "db-3")
		if r.Code == 0 || !strings.Contains(r.Stderr, "by 2 of 2 machines") {
			t.Errorf("got %+v, want the token refused as used up", r)
		}
	})
	t.Run("each kind of machine is listed and removed as what it is", func(t *testing.T) {
		kinds := map[string]string{"nodes": "db-1", "proxies": "proxy-1", "replicas": "auth-1"}
		for kind, name := range kinds {
			if out := c.Tsh("get", kind).OK(t); !strings.Contains(out, name) {
				t.Errorf("got %s %q, want %s among them", kind, out, name)
			}
		}
		c.Tsh("rm", "proxy", "db-1").Refused(t, `there is no proxy "db-1"`, "tsh get proxies")
		c.Tsh("rm", "node", "db-1").OK(t)
	})
	t.Run("a node that went away is offline and shows since when", func(t *testing.T) {
		if err := eu.Process.Stop(); err != nil {
			t.Errorf("threshold-node ended with %v, want a clean end", err)
		}
		c.Until(func(out string) bool { return strings.Contains(out, "offline") }, "ls", "env=prod")
		c.Tsh("ssh", "web.eu", "true").Refused(t, "offline", "last seen")
	})
	t.Run("a unique first label is enough after the other machine is removed", func(t *testing.T) {
		c.Tsh("rm", "node", "web.eu").OK(t)
		if out := c.Tsh("ssh", "web", "echo one left").OK(t); strings.TrimSpace(out) != "one left" {
			t.Errorf("got %q, want the command's output", out)
		}
	})
	t.Run("a removed name is not reused at once", func(t *testing.T) {
		harness.StartNode(t, proxy, c.Token("node"), "web.eu")
		if out := c.Tsh("ls").OK(t); strings.Contains(out, "web.eu ") || !strings.Contains(out, "web-2.eu") {
			t.Errorf("got %q, want the new node under another name", out)
		}
	})
}
