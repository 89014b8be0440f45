package tsh_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/identity"
)

func TestLSShowsEveryPage(t *testing.T) {
	w := newTestCluster(t)
	for _, n := range []string{"a", "b", "c", "d", "e"} {
		w.addNode(n)
	}
	w.mu.Lock()
	w.nodes[4].Online, w.nodes[4].LastSeen, w.nodes[4].Labels = false, time.Now().
		Add(-50*time.Hour),
		identity.Labels{
			"note": "x\x1b[2J\u202ey",
			"env":  "dev",
		}
	w.mu.Unlock()
	c := w.loggedIn()
	out := c.ok("ls")
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if len(lines) != 6 || strings.Join(strings.Fields(lines[0]), " ") != "NAME STATUS LABELS LOGINS" ||
		strings.Join(strings.Fields(lines[1]), " ") != "a online env=prod alice" {
		t.Errorf("got %q, want a heading and five nodes", out)
	}
	if !strings.Contains(lines[5], "offline 2d") || !strings.Contains(lines[5], "env=dev,note=x[2Jy") {
		t.Errorf("got %q, want the node away for two days, without what a terminal obeys", lines[5])
	}
	var nodes []authrpc.NodeInfo
	raw := c.ok("ls", "--format=json")
	if err := json.Unmarshal([]byte(raw), &nodes); err != nil || len(nodes) != 5 ||
		nodes[4].Labels["note"] != "x\x1b[2J\u202ey" {
		t.Errorf("got %+v (%v), want five nodes as they are", nodes, err)
	}
	for _, f := range []string{"json", "yaml"} {
		if out := c.ok("ls", "--format="+f); strings.ContainsAny(out, "\x1b\u202e") ||
			!strings.Contains(out, "online: true") && f == "yaml" {
			t.Errorf("%s: got %q, want control characters escaped", f, out)
		}
	}
	if out := c.ok("ls", "-q", "env=dev"); out != "e\n" {
		t.Errorf("got %q, want e alone", out)
	}
	if r := c.run("ls", "env=none"); r.code != 0 || r.out != "" || !strings.Contains(r.stderr, "No node") {
		t.Errorf("got %+v, want a word that there is none", r)
	}
	if out := c.ok("ls", "env=none", "--format=json"); out != "[]\n" {
		t.Errorf("got %q, want an empty list", out)
	}
	c.refused(1, []string{"ls", "env=a", "env=b"}, "twice")
}

const roleFile = `kind: role
version: v1
metadata: {name: ops}
spec:
  allow:
    - nodes: {env: [prod, dev]}
      logins: ubuntu
      actions: [shell]
  options: {cert_ttl: 8h, idle_timeout: 600s, max_session: 12h, max_sessions: 5, end_with_certificate: true}
---
kind: user
version: v1
metadata: {name: bob}
spec: {since: 2026-01-01, count: 3, on: true}
`

func TestResourcesRoundTrip(t *testing.T) {
	w := newTestCluster(t)
	c := w.loggedIn()
	file := filepath.Join(t.TempDir(), "f.yaml")
	if err := os.WriteFile(file, []byte(roleFile), 0o600); err != nil {
		t.Fatal(err)
	}
	if out := c.ok("apply", "-f", file); out != "role ops created\nuser bob created\n" {
		t.Errorf("got %q, want both created", out)
	}
	if got := string(w.docs["bob"].Spec); got != `{"since":"2026-01-01","count":3,"on":true}` {
		t.Errorf("got %s, want the values with their types", got)
	}
	shown := c.ok("get", "role", "ops")
	if got := string(w.docs["ops"].Spec); !strings.Contains(got, `"max_sessions":5`) ||
		!strings.Contains(got, `"end_with_certificate":true`) {
		t.Errorf("got %s, want the limits with their types", got)
	}
	if again := c.runWith(strings.NewReader(shown), "apply", "-f", "-"); again.code != 0 ||
		again.out != "role ops changed\n" {
		t.Errorf("got %+v for %s, want what get shows applied", again, shown)
	}
	if w.docs["ops"].Metadata.Revision == 0 {
		t.Error("got no revision sent back")
	}
	var list []authrpc.Resource
	if err := json.Unmarshal([]byte(c.ok("get", "roles", "--format=json")), &list); err != nil ||
		len(list) != 1 ||
		list[0].Metadata.Name != "ops" {
		t.Errorf("got %+v (%v), want the role", list, err)
	}
	if out := c.ok("get", "users"); !strings.Contains(out, "LAST LOGIN") || !strings.Contains(out, "bob") {
		t.Errorf("got %q, want a table", out)
	}
	c.refused(1, []string{"get", "role", "nosuch"}, "no role nosuch", "tsh get roles")
	for _, args := range [][]string{{"rm", "roles", "ops"}, {"rm", "user/bob"}} {
		c.ok(args...)
	}
	c.refused(1, []string{"rm", "role", "ops"}, "no ops")
}

func TestEventsReadAsALog(t *testing.T) {
	w := newTestCluster(t)
	w.docs["7"] = authrpc.Resource{Kind: "event", Version: "v1", Metadata: authrpc.Metadata{Name: "7"},
		Spec: json.RawMessage(
			`{"v":1,"code":"TH3001","time":"2026-03-01T12:00:00Z","user":"bob\u001b[2J","machine":"web-1","login":"root"}`,
		)}
	out := w.loggedIn().ok("get", "events")
	for _, want := range []string{"NUMBER", "TH3001", "bob[2J", "root@web-1", "a session started on a node"} {
		if !strings.Contains(out, want) {
			t.Errorf("got %q, want %q in it", out, want)
		}
	}
}

func TestApplyReportsAllFaultsAndSendsNothing(t *testing.T) {
	w := newTestCluster(t)
	c := w.loggedIn()
	bad := strings.NewReader(
		"kind: role\nversion: v1\nmetadata: {name: a}\nspec:\n  allow:\n    - nodes: {env: prod}\n      loggins: [x]\n      actions: [shel]\n---\nkind: rule\nversion: v1\nmetadata: {name: b}\nspec: {}\n---\nkind: user\nversion: v1\nspec: {}\n",
	)
	r := c.runWith(bad, "apply", "-f", "-")
	c.wantRefusal(
		r,
		"apply",
		1,
		"standard input:7",
		"loggins",
		`unknown action "shel"`,
		"kind rule is not known",
		"metadata",
	)
	if got := w.takeCalls(); got != nil {
		t.Errorf("got %q sent, want nothing", got)
	}
}

func TestTokenIsShownOnceWithTheNextStep(t *testing.T) {
	w := newTestCluster(t)
	c := w.loggedIn()
	r := c.run("token", "create", "--label", "env=prod", "--ttl", "10m")
	if r.code != 0 || !strings.Contains(r.out, "token: thjoin1.node.") ||
		!strings.Contains(r.stderr, "threshold-node --proxy "+w.addr) {
		t.Errorf("got %+v, want the token and the next command", r)
	}
	if got := string(w.docs["node-1"].Spec); got != `{"kind":"node","ttl":"10m","labels":{"env":"prod"}}` {
		t.Errorf("got spec %s", got)
	}
	c.refused(1, []string{"token", "create", "--kind", "auth"}, "node or proxy")
	c.refused(1, []string{"token", "create", "--ttl", "31m"}, "30m")
	c.refused(1, []string{"token", "create", "--label", "env"}, "LABEL=VALUE")
}

func TestTokenInMachineReadableFormats(t *testing.T) {
	w := newTestCluster(t)
	c := w.loggedIn()
	r := c.run("token", "create", "--format=json", "--ttl", "10m")
	var got struct{ Name, Kind, TTL, Token string }
	if err := json.Unmarshal([]byte(r.out), &got); err != nil || r.stderr != "" || got.Name != "node-1" ||
		got.Kind != "node" ||
		got.TTL != "10m" ||
		!strings.HasPrefix(got.Token, "thjoin1.node.") {
		t.Errorf("got %+v (%v), want the token and no word beside it", r, err)
	}
	if out := c.ok("token", "create", "--format=yaml"); !strings.Contains(out, "\ntoken: thjoin1.node.") ||
		!strings.Contains(out, "ttl: 30m\n") {
		t.Errorf("got %q, want YAML", out)
	}
	c.refused(1, []string{"token", "create", "--format=csv"}, "text, json or yaml")
}

func TestCompletionKnowsNodes(t *testing.T) {
	w := newTestCluster(t)
	w.addNode("db")
	w.addNode("web-1")
	w.addNode("web-z")
	w.mu.Lock()
	w.nodes[2].Name = "web-z$(id)"
	w.mu.Unlock()
	c := w.loggedIn()
	if out := c.ok("__complete", "ssh", "we"); !strings.HasPrefix(out, "web-1\n:") {
		t.Errorf("got %q, want web-1 and no name that is none", out)
	}
	if out := c.ok("__complete", "ssh", "-N", "-L", "1:a:1", "we"); !strings.HasPrefix(out, "web-1\n") {
		t.Errorf("got %q, want web-1 after flags", out)
	}
	if out := c.ok("__complete", "ssh", "--forward-"); !strings.Contains(out, "--forward-local") ||
		strings.Contains(out, "`") {
		t.Errorf("got %q, want the flags", out)
	}
	if out := c.ok("__complete", "help", "tok"); !strings.Contains(out, "token\n") {
		t.Errorf("got %q, want the commands", out)
	}
	if out := c.ok("__complete", "scp", "file", "root@d"); !strings.HasPrefix(out, "root@db:\n") {
		t.Errorf("got %q, want root@db:", out)
	}
	if out := w.client().ok("__complete", "ssh", ""); strings.Contains(out, "web") {
		t.Errorf("before login: got %q, want no names", out)
	}
	for _, shell := range []string{"bash", "zsh", "fish"} {
		if out := c.ok("completion", shell); !strings.Contains(out, "tsh") {
			t.Errorf("%s: got %d bytes, want a script", shell, len(out))
		}
	}
}
