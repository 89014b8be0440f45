//go:build integration

package integration

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/threshold-access/threshold/integration/harness"
)

// detectionTime is how long it may take until a vanished peer is detected.
const detectionTime = time.Minute

// A router stops forwarding packets, so no end of a connection gets a FIN or RST. Within a minute both ends
// of the tunnel detect it, tsh ends, and the node has ended the session's program. When the router works
// again, the node reconnects by itself.
func TestAVanishedPeerIsDetected(t *testing.T) {
	t.Parallel()
	r := newRouter(t)
	near := r.connect(t, "", 1) // this machine
	proxy := harness.FreeAddr(t, near)
	s := harness.StartServer(t, proxy, harness.StartProvider(t, "127.0.0.1", proxy), "inner")
	c := harness.NewClient(t)
	c.FirstLogin(s, harness.Alice())
	far := r.name + "-n"
	r.connect(t, far, 2)
	node := harness.StartNode(t, proxy, c.Token("node"), "far", "ip", "netns", "exec", far)
	clients := r.name + "-c"
	r.connect(t, clients, 3)
	cmd := c.Command("ssh", "inner", "echo pid=$$; exec sleep 600")
	cmd.Path, cmd.Args = "/usr/sbin/ip", append([]string{"ip", "netns", "exec", clients}, cmd.Args...)
	session := harness.StartCmd(t, cmd)
	pid := session.Line("pid=")

	r.cut(t)
	cut := time.Now()
	detected := map[string]func() bool{
		"the proxy detects the node": func() bool {
			return strings.Contains(s.Process.Output(), "node detached")
		},
		"the node detects the proxy": func() bool {
			return strings.Contains(node.Process.Output(), "tunnel ended")
		},
		"the node detects the client": func() bool {
			_, err := os.Stat("/proc/" + pid)
			return errors.Is(err, fs.ErrNotExist)
		},
		"tsh detects the proxy": func() bool {
			select {
			case <-session.Done():
				return true
			default:
				return false
			}
		},
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(detectionTime + 5*time.Second); len(detected) > 0; {
		for what, done := range detected {
			if !done() {
				continue
			}
			delete(detected, what)
			took := time.Since(cut)
			t.Logf("%s: after %s", what, took.Round(100*time.Millisecond))
			if took > detectionTime {
				t.Errorf("%s: after %s, want within %s", what, took, detectionTime)
			}
		}
		select {
		case <-tick.C:
		case <-deadline:
			for what := range detected {
				t.Errorf("%s: not within %s", what, detectionTime)
			}
			return
		}
	}
	r.restore(t)
	tunnels := func() int { return strings.Count(node.Process.Output(), "tunnel connected") }
	before := tunnels()
	harness.Eventually(t, "the node has a tunnel again", func() bool { return tunnels() > before })
}

// router is a network namespace that forwards packets between networks.
type router struct{ name string }

// newRouter needs root.
func newRouter(t *testing.T) *router {
	t.Helper()
	r := &router{fmt.Sprintf("tho%d", os.Getpid()%10000)}
	r.netns(t, r.name)
	r.restore(t)
	return r
}

// netns makes a network namespace that is deleted when the test ends.
func (r *router) netns(t *testing.T, name string) {
	t.Helper()
	harness.AsRoot(t, "ip", "netns", "add", name)
	t.Cleanup(func() { harness.AsRoot(t, "ip", "netns", "del", name) })
	harness.AsRoot(t, "ip", "-n", name, "link", "set", "lo", "up")
}

// connect makes the n-th network of the router. At its other end is a new namespace of the name, or this
// machine if name is empty. It returns the address of that end.
func (r *router) connect(t *testing.T, name string, n int) (addr string) {
	t.Helper()
	inside, outside := fmt.Sprintf("ho-r%d", n), fmt.Sprintf("ho-m%d", n)
	harness.AsRoot(t, "ip", "-n", r.name, "link", "add", inside, "type", "veth", "peer", "name", outside)
	at := func(args ...string) []string { return append([]string{"ip"}, args...) }
	if name == "" {
		harness.AsRoot(t, "ip", "-n", r.name, "link", "set", outside, "netns", fmt.Sprint(os.Getpid()))
	} else {
		r.netns(t, name)
		harness.AsRoot(t, "ip", "-n", r.name, "link", "set", outside, "netns", name)
		at = func(args ...string) []string { return append([]string{"ip", "-n", name}, args...) }
	}
	addr = fmt.Sprintf("10.213.%d.2", n)
	gateway := fmt.Sprintf("10.213.%d.1", n)
	harness.AsRoot(t, "ip", "-n", r.name, "addr", "add", gateway+"/24", "dev", inside)
	harness.AsRoot(t, "ip", "-n", r.name, "link", "set", inside, "up")
	harness.AsRoot(t, at("addr", "add", addr+"/24", "dev", outside)...)
	harness.AsRoot(t, at("link", "set", outside, "up")...)
	harness.AsRoot(t, at("route", "add", "10.213.0.0/16", "via", gateway)...)
	return addr
}

// cut makes the router drop all packets. restore makes it forward them again.
func (r *router) cut(t *testing.T)     { r.forward(t, "0") }
func (r *router) restore(t *testing.T) { r.forward(t, "1") }

func (r *router) forward(t *testing.T, on string) {
	t.Helper()
	harness.AsRoot(t, "ip", "netns", "exec", r.name, "sysctl", "-qw", "net.ipv4.ip_forward="+on)
}
