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

// Token creates a join token for a machine of the kind, with further flags of "tsh token create", and returns
// its secret. The user who is logged in must be an administrator.
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
	Dir     string // its data folder
	Process *Process
}

// StartNode runs threshold-node, which joins with the token under the name, and waits until it has a tunnel
// to the proxy. prefix is put in front of the command, for example "ip netns exec NAME". The node ends with
// the test.
func StartNode(t testing.TB, proxy, token, name string, prefix ...string) *Node {
	t.Helper()
	return StartNodeIn(t, filepath.Join(t.TempDir(), "data"), proxy, token, name, prefix...)
}

// StartNodeIn is StartNode with the node's data in dir.
func StartNodeIn(t testing.TB, dir, proxy, token, name string, prefix ...string) *Node {
	t.Helper()
	args := append(prefix, nodeCommand(t, dir, proxy, token, name)...)
	n := &Node{Dir: dir, Process: Start(t, nil, args[0], args[1:]...)}
	n.Process.WaitFor("tunnel connected")
	return n
}

// nodeCommand returns the command that runs threshold-node with the token and its data in dir.
func nodeCommand(t testing.TB, dir, proxy, token, name string) []string {
	t.Helper()
	file := WriteFile(t, t.TempDir(), "token", token)
	bin := Bin(t, "threshold-node")
	return []string{bin, "--proxy", proxy, "--data", dir, "--name", name, "--token-file", file}
}

// StartNodeAs is StartNode with another build of threshold-node, in an environment with env. It does not wait
// for the tunnel.
func StartNodeAs(t testing.TB, bin string, env []string, proxy, token, name string) *Node {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "data")
	args := nodeCommand(t, dir, proxy, token, name)
	return &Node{Dir: dir, Process: Start(t, env, bin, args[1:]...)}
}

// RunNode runs threshold-node to its end and returns the result. It is for a node that must be refused: one
// that is accepted does not end.
func RunNode(t testing.TB, proxy, token, name string) Result {
	t.Helper()
	args := nodeCommand(t, filepath.Join(t.TempDir(), "data"), proxy, token, name)
	return Run(t, nil, nil, args[0], args[1:]...)
}

// StartProxy runs a proxy in a process of its own, without auth and node, and waits until it is ready. It
// listens on addr, joins with the token at the auth port auth, and ends with the test.
func StartProxy(t testing.TB, addr, auth, token, name string) *Process {
	t.Helper()
	dir := t.TempDir()
	tokenFile := WriteFile(t, dir, "token", token)
	cfg := fmt.Sprintf(`kind: server
version: v1
spec:
  data: %s/data
  proxy: {listen: %q, public: [%q], auth: %q, token_file: %s, name: %s}
`, dir, addr, addr, auth, tokenFile, name)
	p := Start(t, nil, Bin(t, "threshold"), "start", "--config", WriteFile(t, dir, "threshold.yaml", cfg))
	p.WaitFor("msg=ready")
	return p
}

// AsRoot runs a command as root, with sudo if the test does not run as root.
func AsRoot(t testing.TB, args ...string) {
	t.Helper()
	if Account(t) != "root" {
		args = append([]string{"sudo", "-n"}, args...)
	}
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
}
