package harness

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var tokenRE = regexp.MustCompile(`thjoin1\.[A-Za-z0-9._-]+`)

// Token makes a join token, as an administrator who is logged in on c.
func (c *Client) Token(kind string, more ...string) string {
	c.t.Helper()
	out := c.Tsh(append([]string{"token", "create", "--kind", kind}, more...)...).OK(c.t)
	token := tokenRE.FindString(out)
	if token == "" {
		c.t.Fatalf("tsh token create printed no token: %q", out)
	}
	return token
}

// Node is a running threshold-node.
type Node struct {
	Dir     string
	Process *Process
}

// StartNode runs threshold-node with the token and waits until it is attached. before is put in front of the
// command, as "ip netns exec NAME".
func StartNode(t testing.TB, proxy, token, name string, before ...string) *Node {
	t.Helper()
	return StartNodeIn(t, filepath.Join(t.TempDir(), "data"), proxy, token, name, before...)
}

// StartNodeIn is StartNode with its data in dir.
func StartNodeIn(t testing.TB, dir, proxy, token, name string, before ...string) *Node {
	t.Helper()
	args := append(before, nodeCommand(t, dir, proxy, token, name)...)
	n := &Node{Dir: dir, Process: Start(t, nil, args[0], args[1:]...)}
	n.Process.WaitFor("tunnel stands")
	return n
}

func nodeCommand(t testing.TB, dir, proxy, token, name string) []string {
	t.Helper()
	return []string{
		Bin(t, "threshold-node"),
		"--proxy",
		proxy,
		"--data",
		dir,
		"--name",
		name,
		"--token-file",
		WriteFile(t, t.TempDir(), "token", token),
	}
}

// RunNode runs threshold-node to its end: for one that must not get in.
func RunNode(t testing.TB, proxy, token, name string) Result {
	t.Helper()
	args := nodeCommand(t, filepath.Join(t.TempDir(), "data"), proxy, token, name)
	return Run(t, nil, nil, args[0], args[1:]...)
}

// StartProxy runs a proxy alone, in a process of its own.
func StartProxy(t testing.TB, addr, auth, token, name string) *Process {
	t.Helper()
	dir := t.TempDir()
	cfg := fmt.Sprintf(
		"kind: server\nversion: v1\nspec:\n  data: %s\n  proxy: {listen: %q, public: [%q], auth: %q, token_file: %s, name: %s}\n",
		filepath.Join(dir, "data"),
		addr,
		addr,
		auth,
		WriteFile(t, dir, "token", token),
		name,
	)
	p := Start(t, nil, Bin(t, "threshold"), "start", "--config", WriteFile(t, dir, "threshold.yaml", cfg))
	p.WaitFor("msg=ready")
	return p
}

// AsRoot puts sudo in front of a command unless the story runs as root.
func AsRoot(t testing.TB, args ...string) {
	t.Helper()
	if Account(t) != "root" {
		args = append([]string{"sudo", "-n"}, args...)
	}
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
}
