package tsh_test

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/identity"
)

// sessionReport is what a command of a testNode prints.
type sessionReport struct {
	Cmd, In string
	Env     map[string]string
}

// A command gets its input, the user's language and no terminal. Its outputs stay separate, and its status is
// tsh's. For a whole name nothing but the dial request is sent.
func TestSSHRunsACommandWithOneDial(t *testing.T) {
	t.Parallel()
	tc := newTestCluster(t)
	tc.addNode("web-1").status = 7
	c := tc.loggedIn()
	r := c.runWith(strings.NewReader("input"), "ssh", "web-1", "echo", "-n", "a b")
	var got sessionReport
	if err := json.Unmarshal([]byte(r.out), &got); err != nil {
		t.Fatalf("%v: %q %q", err, r.out, r.stderr)
	}
	if r.code != 7 || r.stderr != "oops\n" || got.Cmd != "echo -n a b" || got.In != "input" {
		t.Errorf("got %+v %+v, want the command, its input, separate outputs and 7", r, got)
	}
	if got.Env["USER"] != "alice" || got.Env["LANG"] != "ko_KR.UTF-8" || got.Env["TERM"] != "" {
		t.Errorf("got %v, want alice, her language and no terminal", got.Env)
	}
	if calls := tc.takeCalls(); !slices.Equal(calls, []string{"dial web-1"}) {
		t.Errorf("got calls %q, want only the dial request: a whole name needs no lookup", calls)
	}
}

func TestSSHSendsTheTerminalType(t *testing.T) {
	t.Parallel()
	tc := newTestCluster(t)
	tc.addNode("web-1")
	out := tc.loggedIn().ok("ssh", "-t", "web-1", "top")
	var got sessionReport
	if err := json.Unmarshal([]byte(out), &got); err != nil || got.Env["TERM"] != "xterm" {
		t.Errorf("got %+v (%v), want TERM xterm", got, err)
	}
}

// A node can be named by its whole name, its first label or its id. Only the last two cost a call of the auth
// service.
func TestSSHNames(t *testing.T) {
	t.Parallel()
	tc := newTestCluster(t)
	for _, n := range []string{"web.eu", "web.us", "db.eu", "cache"} {
		tc.addNode(n)
	}
	tc.mu.Lock()
	tc.nodes[2].Online = true
	id := string(tc.nodes[2].ID)
	tc.mu.Unlock()
	c := tc.loggedIn()
	for typed, want := range map[string][]string{
		"cache":                {"dial cache"},
		"CACHE":                {"dial cache"},
		"cache." + clusterName: {"dial cache." + clusterName},
		"db.eu":                {"dial db.eu"},
		"db":                   {"dial db", "/v1/nodes/list", "dial db.eu"},
		id:                     {"/v1/nodes/list", "dial db.eu"},
	} {
		if r := c.run("ssh", "alice@"+typed, "true"); r.code != 0 {
			t.Errorf("%s: got %d %s", typed, r.code, r.stderr)
		}
		if got := tc.takeCalls(); !slices.Equal(got, want) {
			t.Errorf("%s: got calls %q, want %q", typed, got, want)
		}
	}
	c.refused(
		255,
		[]string{"ssh", "web"},
		"node name web is ambiguous: web.eu, web.us",
		"hint: use the whole name",
	)
	c.refused(255, []string{"ssh", "nosuch"}, "no node nosuch that you may reach", "tsh ls")
	c.refused(255, []string{"ssh", "we b"}, "not a node name")
	c.refused(255, []string{"ssh", "alice,root@cache"}, "account name")
	c.refused(255, []string{"ssh", "@cache"}, "account name")
	tc.mu.Lock()
	delete(tc.hosts, "cache")
	tc.nodes[3].Online, tc.nodes[3].LastSeen = false, time.Now().Add(-3*time.Minute)
	tc.mu.Unlock()
	c.refused(255, []string{"ssh", "cache"}, "node cache is offline, last seen 3m ago")
	c.refused(255, []string{"proxy", "ssh", "cache"}, "offline")
	c.refused(
		255,
		[]string{"proxy", "ssh", "db." + clusterName},
		"db.eu",
	) // by the first label in the cluster's domain
}

// The login is that of LOGIN@ or -l, else the name of the local user if it is one of the logins.
func TestSSHLogins(t *testing.T) {
	t.Parallel()
	tc := newTestCluster(t)
	tc.logins = []identity.Login{"ubuntu", "alice"}
	tc.addNode("web-1")
	c := tc.loggedIn()
	user := func(args ...string) string {
		var got sessionReport
		if err := json.Unmarshal([]byte(c.ok(append([]string{"ssh"}, args...)...)), &got); err != nil {
			t.Fatal(err)
		}
		return got.Env["USER"]
	}
	if got := user("web-1", "x"); got != "alice" {
		t.Errorf("got %s, want the local name", got)
	}
	if got := user("ubuntu@web-1", "x"); got != "ubuntu" {
		t.Errorf("got %s, want ubuntu", got)
	}
	if got := user("-l", "ubuntu", "web-1", "x"); got != "ubuntu" {
		t.Errorf("got %s, want ubuntu", got)
	}
	c.env["USER"] = "somebody"
	c.refused(255, []string{"ssh", "web-1"}, "alice, ubuntu", "LOGIN@NODE")
	c.refused(255, []string{"ssh", "root@web-1", "x"}, "does not let you in as root")
}

func TestSSHReportsTheReasonOfTheNode(t *testing.T) {
	t.Parallel()
	tc := newTestCluster(t)
	tc.addNode("web-1").refuse = object("access-denied",
		"role ops, deny 1 denies shell as alice\x1b[2J", "ask for another role")
	c := tc.loggedIn()
	c.refused(
		255,
		[]string{"ssh", "web-1"},
		"web-1 does not let you in as alice: role ops, deny 1 denies",
		"tsh: hint: the node says: ask for another role",
	)
	if r := c.run("ssh", "web-1"); strings.Contains(r.stderr, "\x1b") {
		t.Errorf("got %q, want no escape sequence", r.stderr)
	}
}

// tsh runs nothing on a host that cannot prove, by a certificate of the cluster, that it is the named node.
func TestSSHRefusesAnotherHost(t *testing.T) {
	t.Parallel()
	tc, other := newTestCluster(t), newTestCluster(t)
	tc.addNode("web-1")
	c := tc.loggedIn()
	for name, node := range map[string]*testNode{
		"a node of another name":    tc.newNode("web-2"),
		"a node of another cluster": other.newNode("web-1"),
	} {
		tc.mu.Lock()
		tc.hosts["web-1"] = node
		tc.mu.Unlock()
		c.wantRefusal(c.run("ssh", "web-1", "true"), name, 255, "not node web-1")
	}
	plain, err := ssh.NewSignerFromSigner(newKey(t))
	if err != nil {
		t.Fatal(err)
	}
	tc.mu.Lock()
	tc.hosts["web-1"] = &testNode{cert: plain}
	tc.mu.Unlock()
	if r := c.run("ssh", "web-1", "true"); r.code != 255 || r.out != "" {
		t.Errorf("a plain host key: got %+v, want a refusal", r)
	}
}

// The exit status is that of the command, at most 255, or 128 plus the number of the signal that ended it. A
// lost connection is 255.
func TestSSHExitStatusIsTheCommands(t *testing.T) {
	t.Parallel()
	tc := newTestCluster(t)
	c := tc.loggedIn()
	for _, name := range []string{"signal", "lost", "status-0", "status-1", "status-255", "status-256"} {
		node := tc.addNode(name)
		node.command = func(string, ssh.Channel) ssh.Signal { return "" }
		switch name {
		case "signal":
			node.command = func(string, ssh.Channel) ssh.Signal { return ssh.SIGTERM }
		case "lost":
			node.command = func(_ string, ch ssh.Channel) ssh.Signal { _ = ch.Close(); return "" }
		default:
			if _, err := fmt.Sscanf(name, "status-%d", &node.status); err != nil {
				t.Fatal(err)
			}
		}
	}
	if r := c.run("ssh", "signal", "x"); r.code != 128+15 {
		t.Errorf("a signal: got %d, want 143", r.code)
	}
	c.refused(255, []string{"ssh", "lost", "x"}, "lost")
	wants := map[string]int{"status-0": 0, "status-1": 1, "status-255": 255, "status-256": 255}
	for name, want := range wants {
		if r := c.run("ssh", name, "x"); r.code != want || r.stderr != "" {
			t.Errorf("%s: got %+v, want %d and no message", name, r, want)
		}
	}
}

// A command that ends before its input is not kept waiting, and one that reads to the end of its input gets a
// half-close.
func TestSSHHalfClosesInput(t *testing.T) {
	t.Parallel()
	tc := newTestCluster(t)
	tc.addNode("upper").command = func(_ string, ch ssh.Channel) ssh.Signal {
		in, _ := io.ReadAll(ch)
		_, _ = io.WriteString(ch, strings.ToUpper(string(in)))
		return ""
	}
	tc.addNode("eager").command = func(_ string, ch ssh.Channel) ssh.Signal {
		_, _ = io.WriteString(ch, "done")
		return ""
	}
	c := tc.loggedIn()
	if r := c.runWith(strings.NewReader("abc"), "ssh", "upper", "x"); r.out != "ABC" || r.code != 0 {
		t.Errorf("got %+v, want ABC after the end of input", r)
	}
	in, hold := io.Pipe()
	defer hold.Close()
	if r := c.runWith(in, "ssh", "eager", "x"); r.out != "done" || r.code != 0 {
		t.Errorf("got %+v, want done while the input is still open", r)
	}
}

func TestProxySSHCopiesBothWays(t *testing.T) {
	t.Parallel()
	tc := newTestCluster(t)
	tc.addNode("web-1")
	c := tc.loggedIn()
	r := c.run("proxy", "ssh", "web-1."+clusterName) // with an empty standard input
	if r.code != 0 || !strings.HasPrefix(r.out, "SSH-2.0-") {
		t.Errorf("got %+v, want the node's version line", r)
	}
	c.refused(255, []string{"proxy", "ssh", "nosuch"}, "no node nosuch", "tsh ls")
}
