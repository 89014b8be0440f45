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

// detectionTime is how long a peer that has vanished may go unnoticed.
const detectionTime = time.Minute

// A router between them stops passing anything on, in the middle of everything, and nobody hears a goodbye.
// Within a minute both ends of the tunnel know, the client's tsh knows, and what ran for it on the node is
// gone. Afterwards the node finds back by itself.
func TestAVanishedPeerIsDetected(t *testing.T) {
	t.Parallel()
	r := newRouter(t)
	near := r.join(t, "", 1) // this machine
	proxy := harness.FreeAddr(t, near)
	s := harness.StartServer(t, proxy, harness.StartProvider(t, "127.0.0.1", proxy), "inner")
	c := harness.NewClient(t)
	c.FirstLogin(s, harness.Alice())
	far := r.name + "-n"
	r.join(t, far, 2)
	node := harness.StartNode(t, proxy, c.Token("node"), "far", "ip", "netns", "exec", far)
	people := r.name + "-c"
	r.join(t, people, 3)
	cmd := c.Command("ssh", "inner", "echo pid=$$; exec sleep 600")
	cmd.Path, cmd.Args = "/usr/sbin/ip", append([]string{"ip", "netns", "exec", people}, cmd.Args...)
	session := harness.StartCmd(t, cmd)
	pid := session.Line("pid=")

	r.cut(t)
	cut := time.Now()
	waiting := map[string]func() bool{
		"the proxy, of the node": func() bool { return strings.Contains(s.Process.Output(), "node detached") },
		"the node, of the proxy": func() bool { return strings.Contains(node.Process.Output(), "tunnel ended") },
		"the node, of the client": func() bool {
			_, err := os.Stat("/proc/" + pid)
			return errors.Is(err, fs.ErrNotExist)
		},
		"tsh, of the proxy": func() bool {
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
	for late := time.After(detectionTime + 5*time.Second); len(waiting) > 0; {
		for who, knows := range waiting {
			if !knows() {
				continue
			}
			delete(waiting, who)
			took := time.Since(cut)
			t.Logf("%s: after %s", who, took.Round(100*time.Millisecond))
			if took > detectionTime {
				t.Errorf("%s: got it noticed after %s, want within %s", who, took, detectionTime)
			}
		}
		select {
		case <-tick.C:
		case <-late:
			for who := range waiting {
				t.Errorf("%s: got nothing noticed", who)
			}
			return
		}
	}
	r.restore(t)
	again := strings.Count(node.Process.Output(), "tunnel connected") + 1
	for late := time.After(harness.Timeout); strings.Count(node.Process.Output(), "tunnel connected") < again; {
		select {
		case <-tick.C:
		case <-late:
			t.Fatal("got no tunnel again, want the node to find back")
		}
	}
}

// router is a network namespace that passes packets on between others, until it is cut.
type router struct{ name string }

func newRouter(t *testing.T) *router {
	t.Helper()
	r := &router{fmt.Sprintf("tho%d", os.Getpid()%10000)}
	r.netns(t, r.name)
	r.restore(t)
	return r
}

func (r *router) netns(t *testing.T, name string) {
	t.Helper()
	harness.AsRoot(t, "ip", "netns", "add", name)
	t.Cleanup(func() { harness.AsRoot(t, "ip", "netns", "del", name) })
	harness.AsRoot(t, "ip", "-n", name, "link", "set", "lo", "up")
}

// join makes the n-th network of the router, with a new namespace at its other end, or this machine where
// name is empty. It returns the address of that end.
func (r *router) join(t *testing.T, name string, n int) (addr string) {
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
	gate := fmt.Sprintf("10.213.%d.1", n)
	harness.AsRoot(t, "ip", "-n", r.name, "addr", "add", gate+"/24", "dev", inside)
	harness.AsRoot(t, "ip", "-n", r.name, "link", "set", inside, "up")
	harness.AsRoot(t, at("addr", "add", addr+"/24", "dev", outside)...)
	harness.AsRoot(t, at("link", "set", outside, "up")...)
	harness.AsRoot(t, at("route", "add", "10.213.0.0/16", "via", gate)...)
	return addr
}

// cut makes the router swallow everything, without a word to anybody.
func (r *router) cut(t *testing.T)     { r.forward(t, "0") }
func (r *router) restore(t *testing.T) { r.forward(t, "1") }

func (r *router) forward(t *testing.T, on string) {
	t.Helper()
	harness.AsRoot(t, "ip", "netns", "exec", r.name, "sysctl", "-qw", "net.ipv4.ip_forward="+on)
}
