//go:build integration

package integration

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/threshold-access/threshold/integration/harness"
)

// These tests are the stories of an audit, which found that what an administrator took away went on to work.

// lockedStatus is the exit status of a session that the node ends because it is not allowed any more.
const lockedStatus = 124

// as returns the fixture for another user, who has the roles and has logged in with them.
func (f *limitFixture) as(u harness.User, roles ...string) *limitFixture {
	f.Helper()
	other := *f
	other.client = harness.NewClient(f.T)
	other.alice = other.client.FirstLogin(f.server, u)
	f.giveRoles(u, roles...)
	other.client.LoginAt(f.server.Proxy, f.server, other.alice)
	other.config = f.sshConfig(other.client)
	return &other
}

// giveRoles makes the roles those that an administrator has given to the user.
func (f *limitFixture) giveRoles(u harness.User, roles ...string) {
	f.Helper()
	file := harness.WriteFile(f.T, f.client.Home, "user.yaml", fmt.Sprintf(`kind: user
version: v1
metadata: {name: %s}
spec: {roles: [%s]}
`, u.Email, strings.Join(roles, ", ")))
	f.client.Tsh("apply", "-f", file).OK(f.T)
}

// putRole creates a role with the actions on every node.
func (f *limitFixture) putRole(name, actions string) {
	f.Helper()
	file := harness.WriteFile(f.T, f.client.Home, "role.yaml", fmt.Sprintf(`kind: role
version: v1
metadata: {name: %s}
spec:
  allow:
    - nodes: {"*": "*"}
      logins: [%s]
      actions: [%s]
`, name, harness.Account(f.T), actions))
	f.client.Tsh("apply", "-f", file).OK(f.T)
}

// wantCut waits until the session has ended as one that is not allowed any more, with the text on its
// terminal.
func wantCut(t *testing.T, screen *harness.Screen, wait func() int, text ...string) {
	t.Helper()
	start := time.Now()
	for _, part := range text {
		screen.Wait(part)
	}
	if code := wait(); code != lockedStatus {
		t.Errorf("got exit status %d, want %d: %s", code, lockedStatus, screen.Text())
	}
	t.Logf("the session ended %s after the change", time.Since(start).Round(time.Millisecond))
}

// forwarded opens a connection through the node by ssh -L, to a server that echoes, and returns it.
func (f *limitFixture) forwarded() net.Conn {
	f.Helper()
	echo, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { echo.Close() })
	go func() {
		for {
			conn, err := echo.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(conn, conn); conn.Close() }()
		}
	}()
	local := harness.FreeAddr(f.T, "127.0.0.1")
	forward := local + ":" + echo.Addr().String()
	cmd := f.ssh(f.config, "-N", "-o", "ExitOnForwardFailure=yes", "-L", forward, f.host())
	harness.StartCmd(f.T, cmd)
	var conn net.Conn
	harness.Eventually(f.T, "the forwarded port accepts", func() bool {
		conn, err = net.Dial("tcp", local)
		return err == nil
	})
	f.Cleanup(func() { conn.Close() })
	f.echoes(conn)
	return conn
}

// echoes checks that a forwarded connection still works.
func (f *limitFixture) echoes(conn net.Conn) {
	f.Helper()
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		f.Fatal(err)
	}
	if _, err := conn.Write([]byte("x")); err != nil {
		f.Fatalf("a forwarded connection: %v", err)
	}
	if n, err := conn.Read(make([]byte, 1)); n != 1 || err != nil {
		f.Fatalf("a forwarded connection: got %d bytes, %v, want an echo", n, err)
	}
}

// wantClosed checks that a forwarded connection ends.
func wantClosed(t *testing.T, conn net.Conn) {
	t.Helper()
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	var timeout net.Error
	n, err := conn.Read(make([]byte, 1))
	if n != 0 || err == nil || errors.As(err, &timeout) && timeout.Timeout() {
		t.Errorf("a forwarded connection: got %d bytes, %v, want it closed", n, err)
	}
}

// A user is removed. What runs ends, and nothing new opens, although the certificate is valid for hours.
// Other users notice nothing, and the removed one may log in again, as a new user.
func TestARemovedUserLosesWhatRunsAndOpensNothing(t *testing.T) {
	t.Parallel()
	f := newLimitFixture(t, "web")
	f.putRole("worker", "shell, exec, forward-local")
	bob := f.as(harness.Bob(), "worker")
	screen, _, wait := bob.terminal("echo on; exec sleep 1000")
	screen.Wait("on")
	conn := bob.forwarded()
	other, keys, otherWait := f.terminal("echo on; read line; exit 5")
	other.Wait("on")

	f.client.Tsh("rm", "user", harness.Bob().Email).OK(t)
	wantCut(t, screen, wait, "the user was removed", "alice@example.com")
	wantClosed(t, conn)
	if out, code := bob.run(bob.config, "echo in"); code == 0 || strings.Contains(out, "in\n") {
		t.Errorf("got %q and %d by stock ssh, want nothing to open", out, code)
	}
	bob.client.Tsh("ssh", "web", "echo in").Refused(t, "the user was removed", "alice@example.com")
	bob.client.Tsh("ls").Refused(t, "bob@example.com")

	if _, err := keys.WriteString("done\r"); err != nil {
		t.Fatal(err)
	}
	if code := otherWait(); code != 5 {
		t.Errorf("got exit status %d of another user's session, want 5: it goes on", code)
	}
	<-time.After(time.Second) // a login of the second of the removal counts as before it
	again := f.as(harness.Bob(), "worker")
	if out, code := again.run(again.config, "echo in"); code != 0 || out != "in\n" {
		t.Errorf("got %q and %d after a new login, want a session", out, code)
	}
}

// One of two roles is taken. What it allowed ends, and what the other allows goes on.
func TestARoleThatIsTakenEndsWhatItAllowed(t *testing.T) {
	t.Parallel()
	f := newLimitFixture(t, "web")
	f.putRole("shells", "shell, exec")
	f.putRole("forwards", "forward-local")
	bob := f.as(harness.Bob(), "shells", "forwards")
	screen, _, wait := bob.terminal("echo on; exec sleep 1000")
	screen.Wait("on")
	conn := bob.forwarded()

	f.giveRoles(harness.Bob(), "forwards")
	wantCut(t, screen, wait, "what role shells allows", "the role was taken", "alice@example.com")
	bob.echoes(conn)
	if out, code := bob.run(bob.config, "echo in"); code == 0 || strings.Contains(out, "in\n") {
		t.Errorf("got %q and %d, want no new session", out, code)
	}
	bob.echoes(conn)
}

// A role loses its grants, and is then a denial of everything, while a session and a forward of its holder
// run.
func TestADenialEndsWhatRuns(t *testing.T) {
	t.Parallel()
	f := newLimitFixture(t, "web")
	f.putRole("worker", "shell, exec, forward-local")
	bob := f.as(harness.Bob(), "worker")
	screen, _, wait := bob.terminal("echo on; exec sleep 1000")
	screen.Wait("on")
	conn := bob.forwarded()

	file := harness.WriteFile(t, f.client.Home, "role.yaml", `kind: role
version: v1
metadata: {name: worker}
spec:
  deny:
    - nodes: {"*": "*"}
`)
	f.client.Tsh("apply", "-f", file).OK(t)
	wantCut(t, screen, wait, "role worker, deny 1")
	wantClosed(t, conn)
}

// A node is removed. Nobody reaches it any more, by its name or by its full name, with tsh or with stock ssh,
// and sessions on it end.
func TestARemovedNodeIsReachedByNobody(t *testing.T) {
	t.Parallel()
	f := newLimitFixture(t, "")
	node := harness.StartNode(t, f.server.Proxy, f.client.Token("node"), "web")
	screen, _, wait := f.terminal("echo on; exec sleep 1000")
	screen.Wait("on")

	f.client.Tsh("rm", "node", "web").OK(t)
	wantCut(t, screen, wait, "the node web was removed")
	for _, name := range []string{"web", "web." + harness.ClusterName} {
		if r := f.client.Tsh("ssh", name, "echo in"); r.Code == 0 || strings.Contains(r.Stdout, "in") {
			t.Errorf("%s: got %+v by tsh, want the removed node not to be reached", name, r)
		}
	}
	if out, code := f.run(f.config, "echo in"); code == 0 || strings.Contains(out, "in\n") {
		t.Errorf("got %q and %d by stock ssh, want the removed node not to be reached", out, code)
	}
	harness.Eventually(t, "the agent's log says that the node was removed", func() bool {
		return strings.Contains(node.Process.Output(), "the node web was removed")
	})
}

// A proxy is removed. The node leaves it and stays on the other one, sessions through it end, and nobody gets
// in by it.
func TestARemovedProxyIsUsedByNobody(t *testing.T) {
	t.Parallel()
	first, second := harness.FreeAddr(t, "127.0.0.1"), harness.FreeAddr(t, "127.0.0.1")
	f := &limitFixture{
		T:      t,
		server: harness.StartServer(t, first, harness.StartProvider(t, "127.0.0.1", first, second), ""),
		client: harness.NewClient(t),
	}
	f.alice = f.client.FirstLogin(f.server, harness.Alice())
	token := f.client.Token("proxy", "--public-name", "127.0.0.1")
	proxy := harness.StartProxy(t, second, f.server.AuthAddr(t), token, "proxy-2")
	node := harness.StartNode(t, second, f.client.Token("node"), "web")
	onSecond := *f
	onSecond.client = harness.NewClient(t)
	onSecond.client.LoginAt(second, f.server, f.alice)
	onSecond.config = f.sshConfig(onSecond.client)
	screen, _, wait := onSecond.terminal("echo on; exec sleep 1000")
	screen.Wait("on")

	f.client.Tsh("rm", "proxy", "proxy-2").OK(t)
	wantCut(t, screen, wait, "the proxy proxy-2 was removed")
	if out, code := onSecond.run(onSecond.config, "echo in"); code == 0 || strings.Contains(out, "in\n") {
		t.Errorf("got %q and %d by the removed proxy, want nobody to get in", out, code)
	}
	harness.Eventually(t, "the agent's log says that the proxy was removed", func() bool {
		return strings.Contains(node.Process.Output(), "the proxy proxy-2 was removed")
	})
	if strings.Contains(proxy.Output(), "panic") {
		t.Error(proxy.Output())
	}
}
