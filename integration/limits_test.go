//go:build integration

package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"

	"github.com/threshold-access/threshold/integration/harness"
)

// limitFixture is a cluster with one node, alice who may be the current account there, and her stock OpenSSH.
type limitFixture struct {
	*testing.T
	server *harness.Server
	client *harness.Client
	alice  harness.User
	config string
}

func newLimitFixture(t *testing.T, node string) *limitFixture {
	t.Helper()
	proxy := harness.FreeAddr(t, "127.0.0.1")
	b := &limitFixture{
		T:      t,
		server: harness.StartServer(t, proxy, harness.StartProvider(t, "127.0.0.1", proxy), node),
		client: harness.NewClient(t),
	}
	b.alice = b.client.FirstLogin(b.server, harness.Alice())
	b.config = b.sshConfig(b.client)
	return b
}

func (b *limitFixture) sshConfig(c *harness.Client) string {
	b.Helper()
	return harness.WriteFile(b.T, c.Home, "ssh_config", c.Tsh("config").OK(b.T))
}

// setRoleOptions gives the role of everybody here the options.
func (b *limitFixture) setRoleOptions(options string) {
	b.Helper()
	file := harness.WriteFile(b.T, b.client.Home, "role.yaml", fmt.Sprintf(`kind: role
version: v1
metadata: {name: operator}
spec:
  allow:
    - nodes: {"*": "*"}
      logins: [%s]
      actions: [shell, exec, sftp]
  options: {%s}
`, harness.Account(b.T), options))
	b.client.Tsh("apply", "-f", file).OK(b.T)
}

// ssh is stock OpenSSH on its way to the node.
func (b *limitFixture) ssh(config string, more ...string) *exec.Cmd {
	args := append([]string{"-F", config, "-o", "BatchMode=yes"}, more...)
	cmd := exec.Command("ssh", args...)
	cmd.Env = append(os.Environ(), b.client.Env...)
	return cmd
}

func (b *limitFixture) host() string { return harness.Account(b.T) + "@web." + harness.ClusterName }

// terminal runs a command on the node in a terminal that the story types on.
func (b *limitFixture) terminal(command string) (screen *harness.Screen, keys *os.File, wait func() int) {
	b.Helper()
	cmd := b.ssh(b.config, "-tt", b.host(), command)
	keys, err := pty.Start(cmd)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = keys.Close() })
	return harness.Watch(b.T, keys), keys, func() int {
		_ = cmd.Wait() // the status says how
		return cmd.ProcessState.ExitCode()
	}
}

func (b *limitFixture) run(config, command string) (out string, code int) {
	b.Helper()
	r := harness.Run(b.T, b.client.Env, nil, "ssh", "-F", config, "-o", "BatchMode=yes", b.host(), command)
	return r.Stdout + r.Stderr, r.Code
}

// Whoever goes for lunch leaves no shell behind, whatever runs in it; and no session outlives what its role
// allows.
func TestSessionsEndAtTheLimitsOfARole(t *testing.T) {
	t.Parallel()
	b := newLimitFixture(t, "web")
	t.Run("idle, though output flows", func(t *testing.T) {
		b.setRoleOptions("idle_timeout: 3s")
		start := time.Now()
		screen, _, wait := b.terminal("while :; do echo tick; sleep 0.1; done")
		screen.Wait(
			"threshold: error: the session has ended: nothing was typed for 3s (role operator, idle_timeout)",
		)
		if code := wait(); code != 124 {
			t.Errorf("got exit status %d, want 124", code)
		}
		if lasted := time.Since(start); lasted < 3*time.Second {
			t.Errorf("got an end after %s, want 3s of patience", lasted)
		}
	})
	t.Run("typing keeps it", func(t *testing.T) {
		screen, keys, wait := b.terminal("cat; exit 5")
		tick := time.NewTicker(500 * time.Millisecond)
		defer tick.Stop()
		for i := range 12 {
			<-tick.C
			if _, err := fmt.Fprintf(keys, "still here %d\n", i); err != nil {
				t.Fatal(err)
			}
		}
		screen.Wait("still here 11")
		if _, err := keys.WriteString("\x04"); err != nil { // the end of input
			t.Fatal(err)
		}
		if code := wait(); code != 5 || strings.Contains(screen.Text(), "idle_timeout") {
			t.Errorf("got exit status %d, want the program's own 5: %s", code, screen.Text())
		}
	})
	t.Run("the longest session, though somebody types", func(t *testing.T) {
		b.setRoleOptions("max_session: 3s")
		screen, keys, wait := b.terminal("cat")
		stop := make(chan struct{})
		typed := make(chan struct{})
		go func() {
			defer close(typed)
			tick := time.NewTicker(200 * time.Millisecond)
			defer tick.Stop()
			for {
				select {
				case <-tick.C:
					_, _ = keys.WriteString("x") // the terminal may have gone
				case <-stop:
					return
				}
			}
		}()
		screen.Wait("it may last 3s (role operator, max_session)")
		code := wait()
		close(stop)
		<-typed
		if code != 124 {
			t.Errorf("got exit status %d, want 124", code)
		}
	})
	t.Run("the number of sessions", func(t *testing.T) {
		b.setRoleOptions("max_sessions: 1")
		screen, keys, wait := b.terminal("echo on; cat")
		screen.Wait("on")
		b.eventually("a second session is refused", func() bool {
			out, code := b.run(b.config, "echo in")
			return code == 126 && strings.Contains(out, "and role operator, max_sessions allows 1")
		})
		if r := b.client.Tsh("ssh", "web", "echo in"); r.Code != 126 ||
			!strings.Contains(r.Stderr, "max_sessions allows 1") {
			t.Errorf("got %+v from tsh, want it refused too", r)
		}
		if _, err := keys.WriteString("\x04"); err != nil {
			t.Fatal(err)
		}
		if code := wait(); code != 0 {
			t.Errorf("got exit status %d from the first, want 0", code)
		}
		if out, code := b.run(b.config, "echo in"); code != 0 || out != "in\n" {
			t.Errorf("got %q and %d, want a session in place of the one that ended", out, code)
		}
	})
	t.Run("the audit log says why", func(t *testing.T) {
		b.eventually("events", func() bool {
			out := b.client.Tsh("get", "events", "--format=json").Stdout
			return strings.Contains(out, `"ended_by":"idle_timeout"`) &&
				strings.Contains(out, `"ended_by":"max_session"`) ||
				strings.Contains(out, `"ended_by": "idle_timeout"`) && strings.Contains(out, `"ended_by": "max_session"`)
		})
	})
	t.Run("with its certificate", func(t *testing.T) {
		b.setRoleOptions("cert_ttl: 1m, end_with_certificate: true")
		short := harness.NewClient(t)
		short.LoginAt(b.server.Proxy, b.server, b.alice)
		out, code := b.run(b.sshConfig(short), "echo on; exec sleep 1000")
		if code != 124 ||
			!strings.Contains(out, "ended with its certificate (role operator, end_with_certificate)") {
			t.Errorf("got %q and %d, want an end with the certificate", out, code)
		}
	})
}

// eventually polls for news that take a moment to get round.
func (b *limitFixture) eventually(what string, so func() bool) {
	b.Helper()
	for late := time.Now().Add(harness.Timeout); !so(); {
		if time.Now().After(late) {
			b.Fatalf("%s: not so after %s", what, harness.Timeout)
		}
	}
}

// Whoever updates an agent cuts nobody off in the middle of a word.
func TestSessionsEndBeforeTheirNodeStops(t *testing.T) {
	t.Parallel()
	b := newLimitFixture(t, "")
	dir := filepath.Join(t.TempDir(), "data")
	node := harness.StartNodeIn(t, dir, b.server.Proxy, b.client.Token("node"), "web")
	stop := func() {
		t.Helper()
		if err := node.Process.Cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
	}
	there := func() bool { out, _ := b.run(b.config, "echo there"); return out == "there\n" }
	b.eventually("the node is reached", there)

	screen, keys, wait := b.terminal("echo on; read line; exit 4")
	screen.Wait("on")
	stop()
	screen.Wait("threshold: this node is about to stop")
	if out, code := b.run(b.config, "echo in"); code == 0 ||
		strings.Contains(out, "in\n") && !strings.Contains(out, "stopping") {
		t.Errorf("got %q and %d, want nobody new let in", out, code)
	}
	if _, err := keys.WriteString("done\r"); err != nil {
		t.Fatal(err)
	}
	if code := wait(); code != 4 {
		t.Errorf("got exit status %d, want the program's own 4", code)
	}
	if err := node.Process.Wait(); err != nil {
		t.Errorf("got %v, want the node to end well", err)
	}

	node = harness.StartNodeIn(t, dir, b.server.Proxy, "", "web")
	b.eventually("the node is reached again", there)
	screen, _, wait = b.terminal("echo on; exec sleep 1000")
	screen.Wait("on")
	stop()
	screen.Wait("threshold: this node is about to stop")
	stop() // and now
	screen.Wait("threshold: error: this node is stopping")
	if code := wait(); code != 124 {
		t.Errorf("got exit status %d, want 124", code)
	}
	if err := node.Process.Wait(); err != nil {
		t.Errorf("got %v, want the node to end well", err)
	}
}
