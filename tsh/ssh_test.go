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

// said is what a host's session answers with.
type said struct {
	Cmd, In string
	Env     map[string]string
}

func TestSSHRunsACommandWithOneDial(t *testing.T) {
	w := newTestCluster(t)
	w.addNode("web-1").status = 7
	c := w.loggedIn()
	r := c.runWith(strings.NewReader("input"), "ssh", "web-1", "echo", "-n", "a b")
	var got said
	if err := json.Unmarshal([]byte(r.out), &got); err != nil {
		t.Fatalf("%v: %q %q", err, r.out, r.stderr)
	}
	if r.code != 7 || r.stderr != "oops\n" || got.Cmd != "echo -n a b" || got.In != "input" {
		t.Errorf("got %+v %+v, want the command, its input, outputs apart, and 7", r, got)
	}
	if got.Env["USER"] != "alice" || got.Env["LANG"] != "ko_KR.UTF-8" || got.Env["TERM"] != "" {
		t.Errorf("got %v, want alice, the language and no terminal", got.Env)
	}
	if asked := w.takeCalls(); !slices.Equal(asked, []string{"dial web-1"}) {
		t.Errorf("got %q, want the dial alone: a whole name costs nothing more", asked)
	}
}

func TestSSHSendsTheTerminalType(t *testing.T) {
	w := newTestCluster(t)
	w.addNode("web-1")
	var got said
	if err := json.Unmarshal([]byte(w.loggedIn().ok("ssh", "-t", "web-1", "top")), &got); err != nil ||
		got.Env["TERM"] != "xterm" {
		t.Errorf("got %+v (%v), want TERM xterm", got, err)
	}
}

func TestSSHNames(t *testing.T) {
	w := newTestCluster(t)
	for _, n := range []string{"web.eu", "web.us", "db.eu", "cache"} {
		w.addNode(n)
	}
	w.mu.Lock()
	w.nodes[2].Online = true
	id := string(w.nodes[2].ID)
	w.mu.Unlock()
	c := w.loggedIn()
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
		if got := w.takeCalls(); !slices.Equal(got, want) {
			t.Errorf("%s: got %q asked, want %q", typed, got, want)
		}
	}
	c.refused(
		255,
		[]string{"ssh", "web"},
		"node name web is ambiguous: web.eu, web.us",
		"hint: use the whole name",
	)
	c.refused(255, []string{"ssh", "nosuch"}, "no node nosuch that you may reach", "tsh ls")
	c.refused(255, []string{"ssh", "we b"}, "no node name")
	c.refused(255, []string{"ssh", "alice,root@cache"}, "account name")
	c.refused(255, []string{"ssh", "@cache"}, "account name")
	w.mu.Lock()
	delete(w.hosts, "cache")
	w.nodes[3].Online, w.nodes[3].LastSeen = false, time.Now().Add(-3*time.Minute)
	w.mu.Unlock()
	c.refused(255, []string{"ssh", "cache"}, "node cache is offline, last seen 3m ago")
	c.refused(255, []string{"proxy", "ssh", "cache"}, "offline")
	c.refused(
		255,
		[]string{"proxy", "ssh", "db." + clusterName},
		"db.eu",
	) // by the first label in the cluster's domain
}

func TestSSHLogins(t *testing.T) {
	w := newTestCluster(t)
	w.logins = []identity.Login{"ubuntu", "alice"}
	w.addNode("web-1")
	c := w.loggedIn()
	user := func(args ...string) string {
		var got said
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
	w := newTestCluster(t)
	w.addNode("web-1").refuse = "threshold: error: role ops, deny 1 denies shell as alice on web-1\x1b[2J\r\nthreshold: hint: ask for another role\r\n"
	c := w.loggedIn()
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

func TestSSHRefusesAnotherHost(t *testing.T) {
	w, other := newTestCluster(t), newTestCluster(t)
	w.addNode("web-1")
	c := w.loggedIn()
	for name, h := range map[string]*host{"a node of another name": w.newHost("web-2"), "a node of another cluster": other.newHost("web-1")} {
		w.mu.Lock()
		w.hosts["web-1"] = h
		w.mu.Unlock()
		c.wantRefusal(c.run("ssh", "web-1", "true"), name, 255, "not node web-1")
	}
	plain, err := ssh.NewSignerFromSigner(newKey(t))
	if err != nil {
		t.Fatal(err)
	}
	w.mu.Lock()
	w.hosts["web-1"] = &host{cert: plain}
	w.mu.Unlock()
	if r := c.run("ssh", "web-1", "true"); r.code != 255 || r.out != "" {
		t.Errorf("a plain host key: got %+v, want a refusal", r)
	}
}

func TestSSHExitStatusIsTheCommands(t *testing.T) {
	w := newTestCluster(t)
	c := w.loggedIn()
	for _, name := range []string{"signal", "lost", "status-0", "status-1", "status-255", "status-256"} {
		h := w.addNode(name)
		h.command = func(string, ssh.Channel) ssh.Signal { return "" }
		switch name {
		case "signal":
			h.command = func(string, ssh.Channel) ssh.Signal { return ssh.SIGTERM }
		case "lost":
			h.command = func(_ string, ch ssh.Channel) ssh.Signal { _ = ch.Close(); return "" }
		default:
			if _, err := fmt.Sscanf(name, "status-%d", &h.status); err != nil {
				t.Fatal(err)
			}
		}
	}
	if r := c.run("ssh", "signal", "x"); r.code != 128+15 {
		t.Errorf("a signal: got %d, want 143", r.code)
	}
	c.refused(255, []string{"ssh", "lost", "x"}, "lost")
	for name, want := range map[string]int{"status-0": 0, "status-1": 1, "status-255": 255, "status-256": 255} {
		if r := c.run("ssh", name, "x"); r.code != want || r.stderr != "" {
			t.Errorf("%s: got %+v, want %d and no word", name, r, want)
		}
	}
}

// A command that has its answer before its input ends must not wait for it, and one that ends its input gets
// it as a half-close.
func TestSSHHalfClosesInput(t *testing.T) {
	w := newTestCluster(t)
	w.addNode("upper").command = func(_ string, ch ssh.Channel) ssh.Signal {
		in, _ := io.ReadAll(ch)
		_, _ = io.WriteString(ch, strings.ToUpper(string(in)))
		return ""
	}
	w.addNode("eager").command = func(_ string, ch ssh.Channel) ssh.Signal { _, _ = io.WriteString(ch, "done"); return "" }
	c := w.loggedIn()
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
	w := newTestCluster(t)
	w.addNode("web-1")
	c := w.loggedIn()
	r := c.run("proxy", "ssh", "web-1."+clusterName) // input ends at once: the node still says who it is
	if r.code != 0 || !strings.HasPrefix(r.out, "SSH-2.0-") {
		t.Errorf("got %+v, want the node's version line", r)
	}
	c.refused(255, []string{"proxy", "ssh", "nosuch"}, "no node nosuch", "tsh ls")
}
