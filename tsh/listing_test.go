package tsh_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/identity"
)

// The list of nodes comes in pages. ls shows all of them, in each format, without control characters.
func TestLSShowsEveryPage(t *testing.T) {
	t.Parallel()
	tc := newTestCluster(t)
	for _, n := range []string{"a", "b", "c", "d", "e"} {
		tc.addNode(n)
	}
	tc.mu.Lock()
	last := &tc.nodes[4]
	last.Online, last.LastSeen = false, time.Now().Add(-50*time.Hour)
	last.Labels = identity.Labels{"note": "x\x1b[2J\u202ey", "env": "dev"}
	tc.mu.Unlock()
	c := tc.loggedIn()
	out := c.ok("ls")
	lines := strings.Split(strings.TrimSpace(out), "\n")
	cells := func(line string) string { return strings.Join(strings.Fields(line), " ") }
	if len(lines) != 6 || cells(lines[0]) != "NAME STATUS LABELS LOGINS" ||
		cells(lines[1]) != "a online env=prod alice" {
		t.Errorf("got %q, want headings and five nodes", out)
	}
	if !strings.Contains(lines[5], "offline 2d") || !strings.Contains(lines[5], "env=dev,note=x[2Jy") {
		t.Errorf("got %q, want the node offline for two days, without control characters", lines[5])
	}
	var nodes []authrpc.NodeInfo
	raw := c.ok("ls", "--format=json")
	if err := json.Unmarshal([]byte(raw), &nodes); err != nil || len(nodes) != 5 {
		t.Fatalf("got %+v (%v), want five nodes", nodes, err)
	}
	if got := nodes[4].Labels["note"]; got != "x\x1b[2J\u202ey" {
		t.Errorf("got label %q, want it unchanged", got)
	}
	for _, f := range []string{"json", "yaml"} {
		out := c.ok("ls", "--format="+f)
		if strings.ContainsAny(out, "\x1b\u202e") || f == "yaml" && !strings.Contains(out, "online: true") {
			t.Errorf("%s: got %q, want control characters escaped", f, out)
		}
	}
	if out := c.ok("ls", "-q", "env=dev"); out != "e\n" {
		t.Errorf("got %q, want only e", out)
	}
	if r := c.run("ls", "env=none"); r.code != 0 || r.out != "" || !strings.Contains(r.stderr, "No node") {
		t.Errorf("got %+v, want a message that there is none", r)
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

// apply creates the documents of a file, and what get prints can be applied again.
func TestResourcesRoundTrip(t *testing.T) {
	t.Parallel()
	tc := newTestCluster(t)
	c := tc.loggedIn()
	file := filepath.Join(t.TempDir(), "f.yaml")
	if err := os.WriteFile(file, []byte(roleFile), 0o600); err != nil {
		t.Fatal(err)
	}
	if out := c.ok("apply", "-f", file); out != "role ops created\nuser bob created\n" {
		t.Errorf("got %q, want both created", out)
	}
	if got := string(tc.docs["bob"].Spec); got != `{"since":"2026-01-01","count":3,"on":true}` {
		t.Errorf("got %s, want the values with their types", got)
	}
	shown := c.ok("get", "role", "ops")
	for _, want := range []string{`"max_sessions":5`, `"end_with_certificate":true`} {
		if got := string(tc.docs["ops"].Spec); !strings.Contains(got, want) {
			t.Errorf("got %s, want %s in it", got, want)
		}
	}
	off := strings.Replace(shown, "end_with_certificate: true", "end_with_certificate: false", 1)
	for range 2 { // what is off is shown as off, and stays off when that is applied
		if r := c.runWith(strings.NewReader(off), "apply", "-f", "-"); r.code != 0 {
			t.Errorf("got %+v for %s, want it applied", r, off)
		}
		off = c.ok("get", "role", "ops")
		if got := string(tc.docs["ops"].Spec); !strings.Contains(got, `"end_with_certificate":false`) {
			t.Errorf("got %s, want the option off", got)
		}
	}
	again := c.runWith(strings.NewReader(shown), "apply", "-f", "-")
	if again.code != 0 || again.out != "role ops changed\n" {
		t.Errorf("got %+v for %s, want the output of get applied", again, shown)
	}
	if tc.docs["ops"].Metadata.Revision == 0 {
		t.Error("got no revision sent back")
	}
	var list []authrpc.Resource
	err := json.Unmarshal([]byte(c.ok("get", "roles", "--format=json")), &list)
	if err != nil || len(list) != 1 || list[0].Metadata.Name != "ops" {
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

// There is one document of settings. It is shown as a table and as YAML, and checked before it is sent.
func TestSettingsAreShownAndApplied(t *testing.T) {
	t.Parallel()
	tc := newTestCluster(t)
	tc.docs["cluster"] = authrpc.Resource{
		Kind:     "settings",
		Version:  "v1",
		Metadata: authrpc.Metadata{Name: "cluster"},
		Spec:     json.RawMessage(`{"rules_age":"24h","tunnels":2,"audit_retention":"keep"}`),
	}
	c := tc.loggedIn()
	if out := c.ok("get", "settings"); !strings.Contains(out, "RULES AGE") || !strings.Contains(out, "keep") {
		t.Errorf("got %q, want a table", out)
	}
	shown := strings.Replace(c.ok("get", "settings", "cluster"), "24h", "15m", 1)
	if r := c.runWith(strings.NewReader(shown), "apply", "-f", "-"); r.out != "settings cluster changed\n" {
		t.Errorf("got %+v for %s, want the settings changed", r, shown)
	}
	if got := string(tc.docs["cluster"].Spec); !strings.Contains(got, `"rules_age":"15m"`) {
		t.Errorf("got %s, want the new value sent", got)
	}
	wrong := strings.Replace(shown, "15m", "15s", 1)
	r := c.runWith(strings.NewReader(wrong), "apply", "-f", "-")
	c.wantRefusal(r, "apply", 1, "rules_age", "15s is not between 1m and 168h")
}

// Every kind of resource has a table.
func TestEveryKindHasATable(t *testing.T) {
	t.Parallel()
	tc := newTestCluster(t)
	c := tc.loggedIn()
	for _, kind := range access.Resources {
		clear(tc.docs)
		tc.docs["x"] = authrpc.Resource{
			Kind:     strings.TrimSuffix(string(kind), "s"),
			Version:  "v1",
			Metadata: authrpc.Metadata{Name: "x"},
			Spec:     json.RawMessage(`{}`),
		}
		if kind == access.ClusterSettings {
			tc.docs["x"] = authrpc.Resource{Kind: "settings", Metadata: authrpc.Metadata{Name: "x"}}
		}
		if out := c.ok("get", string(kind)); !strings.Contains(out, "x") {
			t.Errorf("%s: got %q, want a table with the resource", kind, out)
		}
	}
}

func TestEventsReadAsALog(t *testing.T) {
	t.Parallel()
	tc := newTestCluster(t)
	tc.docs["7"] = authrpc.Resource{
		Kind:     "event",
		Version:  "v1",
		Metadata: authrpc.Metadata{Name: "7"},
		Spec: json.RawMessage(`{"v":1,"code":"TH3001","time":"2026-03-01T12:00:00Z",` +
			`"actor":{"kind":"user","name":"bob\u001b[2J"},"machine":{"kind":"node","name":"web-1"},` +
			`"body":{"login":"root"}}`),
	}
	out := tc.loggedIn().ok("get", "events")
	for _, want := range []string{
		"NUMBER", "MACHINE", "TH3001", "bob[2J", "root@web-1", audit.Describe("TH3001"),
	} {
		if !strings.Contains(out, want) {
			t.Errorf("got %q, want %q in it", out, want)
		}
	}
}

const faultyFile = `kind: role
version: v1
metadata: {name: a}
spec:
  allow:
    - nodes: {env: prod}
      loggins: [x]
      actions: [shel]
---
kind: rule
version: v1
metadata: {name: b}
spec: {}
---
kind: user
version: v1
spec: {}
`

func TestApplyReportsAllFaultsAndSendsNothing(t *testing.T) {
	t.Parallel()
	tc := newTestCluster(t)
	c := tc.loggedIn()
	r := c.runWith(strings.NewReader(faultyFile), "apply", "-f", "-")
	c.wantRefusal(r, "apply", 1, "standard input:7", "loggins", `unknown action "shel"`)
	c.wantRefusal(r, "apply", 1, "kind rule is not known", "metadata")
	if calls := tc.takeCalls(); calls != nil {
		t.Errorf("got calls %q, want none", calls)
	}
}

func TestTokenIsShownOnceWithTheNextStep(t *testing.T) {
	t.Parallel()
	tc := newTestCluster(t)
	c := tc.loggedIn()
	r := c.run("token", "create", "--label", "env=prod", "--ttl", "10m")
	if r.code != 0 || !strings.Contains(r.out, "token: thjoin1.node.") ||
		!strings.Contains(r.stderr, "threshold-node --proxy "+tc.addr) {
		t.Errorf("got %+v, want the token and the next command", r)
	}
	if got := string(tc.docs["node-1"].Spec); got != `{"kind":"node","ttl":"10m","labels":{"env":"prod"}}` {
		t.Errorf("got spec %s", got)
	}
	c.refused(1, []string{"token", "create", "--kind", "auth"}, "node or proxy")
	c.refused(1, []string{"token", "create", "--ttl", "31m"}, "30m")
	c.refused(1, []string{"token", "create", "--label", "env"}, "LABEL=VALUE")
	c.refused(1, []string{"token", "create", "--label", "self.env=prod"}, "only the machine itself")
}

// Every limit of a token goes to the auth service, which checks it.
func TestTokenHasTheLimitsOfItsFlags(t *testing.T) {
	t.Parallel()
	tc := newTestCluster(t)
	tc.loggedIn().ok("token", "create", "--kind", "proxy", "--uses", "3", "--name-pattern", "edge-*",
		"--public-name", "a.example.org", "--public-name", "10.0.0.1")
	want := `{"kind":"proxy","uses":3,"ttl":"30m","name_pattern":"edge-*",` +
		`"public_names":["a.example.org","10.0.0.1"]}`
	if got := string(tc.docs["node-1"].Spec); got != want {
		t.Errorf("got spec %s, want %s", got, want)
	}
}

func TestTokenInMachineReadableFormats(t *testing.T) {
	t.Parallel()
	tc := newTestCluster(t)
	c := tc.loggedIn()
	r := c.run("token", "create", "--format=json", "--ttl", "10m")
	var got struct{ Name, Kind, TTL, Token string }
	if err := json.Unmarshal([]byte(r.out), &got); err != nil || r.stderr != "" {
		t.Fatalf("got %+v (%v), want the token and nothing else", r, err)
	}
	if got.Name != "node-1" || got.Kind != "node" || got.TTL != "10m" ||
		!strings.HasPrefix(got.Token, "thjoin1.node.") {
		t.Errorf("got %+v, want the token of node-1", got)
	}
	out := c.ok("token", "create", "--format=yaml")
	if !strings.Contains(out, "\ntoken: thjoin1.node.") || !strings.Contains(out, "ttl: 30m\n") {
		t.Errorf("got %q, want YAML", out)
	}
	c.refused(1, []string{"token", "create", "--format=csv"}, "text, json or yaml")
}

// The Tab key completes flags, commands and the nodes that the user can log in to, but no name that is not
// valid, which a shell could execute.
func TestCompletionKnowsNodes(t *testing.T) {
	t.Parallel()
	tc := newTestCluster(t)
	tc.addNode("db")
	tc.addNode("web-1")
	tc.addNode("web-z")
	tc.mu.Lock()
	tc.nodes[2].Name = "web-z$(id)"
	tc.mu.Unlock()
	c := tc.loggedIn()
	if out := c.ok("__complete", "ssh", "we"); !strings.HasPrefix(out, "web-1\n:") {
		t.Errorf("got %q, want web-1 and no invalid name", out)
	}
	if out := c.ok("__complete", "ssh", "-N", "-L", "1:a:1", "we"); !strings.HasPrefix(out, "web-1\n") {
		t.Errorf("got %q, want web-1 after flags", out)
	}
	out := c.ok("__complete", "ssh", "--forward-")
	if !strings.Contains(out, "--forward-local") || strings.Contains(out, "`") {
		t.Errorf("got %q, want the flags", out)
	}
	if out := c.ok("__complete", "help", "tok"); !strings.Contains(out, "token\n") {
		t.Errorf("got %q, want the commands", out)
	}
	if out := c.ok("__complete", "scp", "file", "root@d"); !strings.HasPrefix(out, "root@db:\n") {
		t.Errorf("got %q, want root@db:", out)
	}
	if out := tc.client().ok("__complete", "ssh", ""); strings.Contains(out, "web") {
		t.Errorf("before login: got %q, want no names", out)
	}
	for _, shell := range []string{"bash", "zsh", "fish"} {
		if out := c.ok("completion", shell); !strings.Contains(out, "tsh") {
			t.Errorf("%s: got %d bytes, want a script", shell, len(out))
		}
	}
}

// The Tab key completes the names of resources, but none that a shell could obey or that looks like a flag.
func TestCompletionKnowsNames(t *testing.T) {
	t.Parallel()
	tc := newTestCluster(t)
	for id, name := range map[string]string{
		"corp/id%20of%20bob": "bob@example.com", "corp/7": "bo$(id)", "corp/8": "-bob", "corp/9$(id)": "carol",
	} {
		status, err := json.Marshal(map[string]string{"name": name})
		if err != nil {
			t.Fatal(err)
		}
		tc.docs[id] = authrpc.Resource{Kind: "user", Metadata: authrpc.Metadata{Name: id}, Status: status}
	}
	tc.docs["bold"] = authrpc.Resource{Kind: "role", Metadata: authrpc.Metadata{Name: "bold"}}
	c := tc.loggedIn()
	for _, test := range []struct{ args, want string }{
		{"get user b", "bob@example.com\n:4\n"},
		{"get user corp/id", "corp/id%20of%20bob\n:4\n"},
		{"get role b", "bold\n:4\n"},
		{"rm user car", "carol\n:4\n"},
		{"rm user carol c", ":4\n"},
		{"rm nothing c", ":4\n"},
	} {
		args := append([]string{"__complete"}, strings.Split(test.args, " ")...)
		if out := c.ok(args...); out != test.want {
			t.Errorf("%s: got %q, want %q", test.args, out, test.want)
		}
	}
	out := c.ok("__complete", "get", "users", "")
	if strings.Contains(out, "(id)") || strings.Contains(out, "-bob") {
		t.Errorf("got %q, want no name that means more to a shell", out)
	}
	if out := tc.client().ok("__complete", "get", "user", ""); out != ":4\n" {
		t.Errorf("before login: got %q, want no names", out)
	}
}
