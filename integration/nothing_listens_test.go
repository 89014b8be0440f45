//go:build integration

package integration

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/threshold-access/threshold/integration/harness"
)

// A node in a network namespace of its own has no listening socket, neither idle nor during a session.
func TestANodeListensOnNothing(t *testing.T) {
	hostIP, netns := namespace(t)
	proxy := harness.FreeAddr(t, hostIP)
	s := harness.StartServer(t, proxy, harness.StartProvider(t, "127.0.0.1", proxy), "")
	c := harness.NewClient(t)
	c.FirstLogin(s, harness.Alice())
	harness.StartNode(t, proxy, c.Token("node"), "quiet-node", "ip", "netns", "exec", netns)
	if got := listening(t, netns); got != "" {
		t.Errorf("idle: got listening sockets\n%s, want none", got)
	}

	cmd := c.Command("ssh", "quiet-node", "echo live; cat")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	session := harness.StartCmd(t, cmd)
	session.WaitFor("live")
	if got := listening(t, netns); got != "" {
		t.Errorf("with a session: got listening sockets\n%s, want none", got)
	}
	if out := sockets(t, netns, "-tn", "state", "established"); !strings.Contains(out, proxy) {
		t.Errorf("got %q, want the node's connection to %s, or the test looks in the wrong place", out, proxy)
	}
	stdin.Close()
	if err := session.Wait(); err != nil {
		t.Errorf("session: %v", err)
	}
}

// listening lists the listening sockets of every kind in the namespace.
func listening(t *testing.T, netns string) string {
	return sockets(t, netns, "-tulxnH", "state", "listening") + sockets(t, netns, "-uanH")
}

func sockets(t *testing.T, netns string, args ...string) string {
	t.Helper()
	args = append([]string{"netns", "exec", netns, "ss"}, args...)
	out, err := exec.Command("ip", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("ss: %v %s", err, out)
	}
	return string(out)
}

// namespaces counts the namespaces of this process. Names are not reused, because the kernel removes a
// deleted namespace and its interfaces with a delay.
var namespaces atomic.Int32

// namespace creates a network namespace that a pair of interfaces connects to this host, and returns its
// name and the host's address on that connection.
func namespace(t *testing.T) (hostIP, name string) {
	t.Helper()
	id, n := os.Getpid()%10000, namespaces.Add(1)
	name = fmt.Sprintf("thr%d-%d", id, n)
	inside, outside := fmt.Sprintf("thi%d-%d", id, n), fmt.Sprintf("tho%d-%d", id, n)
	net := fmt.Sprintf("10.%d.%d.", 200+id/250%50, id%250)
	hostIP = net + fmt.Sprint(4*n+1)
	harness.AsRoot(t, "ip", "netns", "add", name)
	t.Cleanup(func() { harness.AsRoot(t, "ip", "netns", "del", name) })
	harness.AsRoot(t, "ip", "link", "add", outside, "type", "veth", "peer", "name", inside, "netns", name)
	harness.AsRoot(t, "ip", "addr", "add", hostIP+"/30", "dev", outside)
	harness.AsRoot(t, "ip", "link", "set", outside, "up")
	harness.AsRoot(t, "ip", "-n", name, "addr", "add", net+fmt.Sprint(4*n+2)+"/30", "dev", inside)
	harness.AsRoot(t, "ip", "-n", name, "link", "set", inside, "up")
	harness.AsRoot(t, "ip", "-n", name, "link", "set", "lo", "up")
	return hostIP, name
}
