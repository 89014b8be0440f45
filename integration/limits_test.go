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

// limitFixture is a cluster with a node, and alice, who uses OpenSSH and may log in to the current account
// there.
type limitFixture struct {
	*testing.T
	server *harness.Server
	client *harness.Client
	alice  harness.User
	config string // path of her configuration for OpenSSH
}

func newLimitFixture(t *testing.T, node string) *limitFixture {
	t.Helper()
	proxy := harness.FreeAddr(t, "127.0.0.1")
	f := &limitFixture{
		T:      t,
		server: harness.StartServer(t, proxy, harness.StartProvider(t, "127.0.0.1", proxy), node),
		client: harness.NewClient(t),
	}
	f.alice = f.client.FirstLogin(f.server, harness.Alice())
	f.config = f.sshConfig(f.client)
	return f
}

func (f *limitFixture) sshConfig(c *harness.Client) string {
	f.Helper()
	return harness.WriteFile(f.T, c.Home, "ssh_config", c.Tsh("config").OK(f.T))
}

// setRoleOptions sets the options of the role that alice has.
func (f *limitFixture) setRoleOptions(options string) {
	f.Helper()
	file := harness.WriteFile(f.T, f.client.Home, "role.yaml", fmt.Sprintf(`kind: role
version: v1
metadata: {name: operator}
spec:
  allow:
    - nodes: {"*": "*"}
      logins: [%s]
      actions: [shell, exec, sftp]
  options: {%s}
`, harness.Account(f.T), options))
	f.client.Tsh("apply", "-f", file).OK(f.T)
}

// ssh is OpenSSH's client with the configuration.
func (f *limitFixture) ssh(config string, more ...string) *exec.Cmd {
	args := append([]string{"-F", config, "-o", "BatchMode=yes"}, more...)
	cmd := exec.Command("ssh", args...)
	cmd.Env = append(os.Environ(), f.client.Env...)
	return cmd
}

func (f *limitFixture) host() string { return harness.Account(f.T) + "@web." + harness.ClusterName }

// terminal runs a command on the node in a terminal. keys is its keyboard; wait returns the exit status.
func (f *limitFixture) terminal(command string) (screen *harness.Screen, keys *os.File, wait func() int) {
	f.Helper()
	cmd := f.ssh(f.config, "-tt", f.host(), command)
	keys, err := pty.Start(cmd)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = keys.Close() })
	return harness.Watch(f.T, keys), keys, func() int {
		_ = cmd.Wait() // the exit status says how it ended
		return cmd.ProcessState.ExitCode()
	}
}

func (f *limitFixture) run(config, command string) (out string, code int) {
	f.Helper()
	r := harness.Run(f.T, f.client.Env, nil, "ssh", "-F", config, "-o", "BatchMode=yes", f.host(), command)
	return r.Stdout + r.Stderr, r.Code
}

// Sessions end when their user has typed nothing for too long, whatever runs in them, and when they have
// lasted as long as the role allows.
func TestSessionsEndAtTheLimitsOfARole(t *testing.T) {
	t.Parallel()
	f := newLimitFixture(t, "web")
	t.Run("an idle session ends, although it prints output", func(t *testing.T) {
		f.setRoleOptions("idle_timeout: 3s")
		start := time.Now()
		screen, _, wait := f.terminal("while :; do echo tick; sleep 0.1; done")
		const want = "the session has ended: nothing was typed for 3s (role operator, idle_timeout)"
		screen.Wait("threshold: error: " + want)
		if code := wait(); code != 124 {
			t.Errorf("got exit status %d, want 124", code)
		}
		if lasted := time.Since(start); lasted < 3*time.Second {
			t.Errorf("got an end after %s, want at least 3s", lasted)
		}
	})
	t.Run("typing keeps a session open", func(t *testing.T) {
		screen, keys, wait := f.terminal("cat; exit 5")
		tick := time.NewTicker(500 * time.Millisecond)
		defer tick.Stop()
		for i := range 12 {
			<-tick.C
			if _, err := fmt.Fprintf(keys, "still here %d\n", i); err != nil {
				t.Fatal(err)
			}
		}
		screen.Wait("still here 11")
		if _, err := keys.WriteString("\x04"); err != nil { // Ctrl-D
			t.Fatal(err)
		}
		if code := wait(); code != 5 || strings.Contains(screen.Text(), "idle_timeout") {
			t.Errorf("got exit status %d, want 5 from the program: %s", code, screen.Text())
		}
	})
	t.Run("a session ends after max_session, although somebody types", func(t *testing.T) {
		f.setRoleOptions("max_session: 3s")
		screen, keys, wait := f.terminal("cat")
		stop := make(chan struct{})
		typed := make(chan struct{})
		go func() {
			defer close(typed)
			tick := time.NewTicker(200 * time.Millisecond)
			defer tick.Stop()
			for {
				select {
				case <-tick.C:
					_, _ = keys.WriteString("x") // fails when the terminal is closed
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
	t.Run("max_sessions limits the number of sessions", func(t *testing.T) {
		f.setRoleOptions("max_sessions: 1")
		screen, keys, wait := f.terminal("echo on; cat")
		screen.Wait("on")
		harness.Eventually(t, "a second session is refused", func() bool {
			out, code := f.run(f.config, "echo in")
			return code == 126 && strings.Contains(out, "and role operator, max_sessions allows 1")
		})
		r := f.client.Tsh("ssh", "web", "echo in")
		if r.Code != 126 || !strings.Contains(r.Stderr, "max_sessions allows 1") {
			t.Errorf("got %+v from tsh, want a refusal too", r)
		}
		if _, err := keys.WriteString("\x04"); err != nil {
			t.Fatal(err)
		}
		if code := wait(); code != 0 {
			t.Errorf("got exit status %d from the first, want 0", code)
		}
		if out, code := f.run(f.config, "echo in"); code != 0 || out != "in\n" {
			t.Errorf("got %q and %d, want a session after the first has ended", out, code)
		}
	})
	t.Run("the audit log has the reasons", func(t *testing.T) {
		harness.Eventually(t, "the events are in the audit log", func() bool {
			out := f.client.Tsh("get", "events", "--format=json").Stdout
			out = strings.ReplaceAll(out, `": "`, `":"`)
			return strings.Contains(out, `"cause":"idle_timeout"`) &&
				strings.Contains(out, `"cause":"max_session"`)
		})
	})
	t.Run("with end_with_certificate a session ends with its certificate", func(t *testing.T) {
		f.setRoleOptions("cert_ttl: 1m, end_with_certificate: true")
		short := harness.NewClient(t)
		short.LoginAt(f.server.Proxy, f.server, f.alice)
		out, code := f.run(f.sshConfig(short), "echo on; exec sleep 1000")
		if code != 124 ||
			!strings.Contains(out, "ended with its certificate (role operator, end_with_certificate)") {
			t.Errorf("got %q and %d, want an end with the certificate", out, code)
		}
	})
}

// Users are warned before their node stops, and may finish their sessions.
func TestSessionsEndBeforeTheirNodeStops(t *testing.T) {
	t.Parallel()
	f := newLimitFixture(t, "")
	dir := filepath.Join(t.TempDir(), "data")
	node := harness.StartNodeIn(t, dir, f.server.Proxy, f.client.Token("node"), "web")
	stop := func() {
		t.Helper()
		if err := node.Process.Cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
	}
	reachable := func() bool { out, _ := f.run(f.config, "echo in"); return out == "in\n" }
	harness.Eventually(t, "the node is reachable", reachable)

	screen, keys, wait := f.terminal("echo on; read line; exit 4")
	screen.Wait("on")
	stop()
	screen.Wait("threshold: this node is about to stop")
	if out, code := f.run(f.config, "echo in"); code == 0 ||
		strings.Contains(out, "in\n") && !strings.Contains(out, "stopping") {
		t.Errorf("got %q and %d, want no new session", out, code)
	}
	if _, err := keys.WriteString("done\r"); err != nil {
		t.Fatal(err)
	}
	if code := wait(); code != 4 {
		t.Errorf("got exit status %d, want 4 from the program", code)
	}
	if err := node.Process.Wait(); err != nil {
		t.Errorf("got %v, want the node to end with 0", err)
	}

	node = harness.StartNodeIn(t, dir, f.server.Proxy, "", "web")
	harness.Eventually(t, "the node is reachable again", reachable)
	screen, _, wait = f.terminal("echo on; exec sleep 1000")
	screen.Wait("on")
	stop()
	screen.Wait("threshold: this node is about to stop")
	stop() // now without waiting for sessions
	screen.Wait("threshold: error: this node is stopping")
	if code := wait(); code != 124 {
		t.Errorf("got exit status %d, want 124", code)
	}
	if err := node.Process.Wait(); err != nil {
		t.Errorf("got %v, want the node to end with 0", err)
	}
}
