//go:build integration

package integration

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/proxy"

	"github.com/threshold-access/threshold/integration/harness"
)

// forwardFixture is a cluster with one machine and one account on it, and a person who may forward everything
// there.
type forwardFixture struct {
	t       *testing.T
	server  *harness.Server
	node    *harness.Node
	client  *harness.Client
	account *user.User
	config  string
	dir     string // where everybody may write
}

func newForwardFixture(t *testing.T) *forwardFixture {
	t.Helper()
	f := &forwardFixture{t: t, account: harness.MakeAccount(t, "thferry"), client: harness.NewClient(t)}
	public, dir := harness.FreeAddr(t, "127.0.0.1"), t.TempDir()
	birth := harness.BootstrapFor(
		harness.StartProvider(t, "127.0.0.1", public),
		filepath.Join(dir, "seal.key"),
		"shell, exec, forward-local, forward-remote, forward-agent",
		f.account.Username,
	)
	f.server = harness.StartServerFrom(t, dir, public, birth, "")
	f.client.FirstLogin(f.server, harness.Alice())
	f.node = harness.StartNode(t, public, f.client.Token("node"), "ferry")
	f.config = harness.WriteFile(t, f.client.Home, "ssh_config", f.client.Tsh("config").OK(t))
	var err error
	if f.dir, err = os.MkdirTemp("", "ferry"); err != nil { // short: a socket's path has at most 107 bytes
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(f.dir) })
	if err := os.Chmod(f.dir, 0o777); err != nil {
		t.Fatal(err)
	}
	return f
}

// routes to the machine: what goes between ssh's options and the command.
func (f *forwardFixture) routes() map[string][]string {
	return map[string][]string{
		"tsh config": {f.account.Username + "@ferry." + harness.ClusterName},
		"ssh -J":     {"-J", "anyone@" + f.server.Proxy, f.account.Username + "@ferry"},
	}
}

func (f *forwardFixture) target() string { return f.routes()["tsh config"][0] }

func (f *forwardFixture) options(more ...string) []string {
	return append([]string{"-F", f.config, "-o", "BatchMode=yes"}, more...)
}

// ssh runs ssh to its end.
func (f *forwardFixture) ssh(t *testing.T, stdin string, args ...string) harness.Result {
	t.Helper()
	return harness.Run(t, f.client.Env, strings.NewReader(stdin), "ssh", f.options(args...)...)
}

// startClient runs ssh without a command until the test ends.
func (f *forwardFixture) startClient(t *testing.T, args ...string) *harness.Process {
	t.Helper()
	p := harness.Start(
		t,
		f.client.Env,
		"ssh",
		f.options(append([]string{"-v", "-N", "-o", "ExitOnForwardFailure=yes"}, args...)...)...)
	p.WaitFor("Entering interactive session")
	if slices.Contains(args, "-R") {
		p.WaitFor("all expected forwarding replies received")
	}
	return p
}

// startMirror sends back what it gets, then its end.
func startMirror(t *testing.T, network, at string, mode os.FileMode) string {
	t.Helper()
	ln, err := net.Listen(network, at)
	if err != nil {
		t.Fatal(err)
	}
	if network == "unix" {
		if err := os.Chmod(at, mode); err != nil {
			t.Fatal(err)
		}
	}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			all.Go(func() { defer c.Close(); _, _ = io.Copy(c, c) })
		}
	})
	t.Cleanup(func() { ln.Close(); all.Wait() })
	return ln.Addr().String()
}

// checkEcho sends a megabyte to an address, then its end, and wants the megabyte back, then an end.
func checkEcho(t *testing.T, network, at string) {
	t.Helper()
	c, err := net.Dial(network, at)
	if err != nil {
		t.Error(err)
		return
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(harness.Timeout))
	text := strings.Repeat("0123456789abcdef", 1<<16)
	go func() {
		_, _ = io.WriteString(c, text)
		_ = c.(interface{ CloseWrite() error }).CloseWrite()
	}()
	if got, err := io.ReadAll(c); err != nil || string(got) != text {
		t.Errorf("got %d bytes, %v, want the %d sent", len(got), err, len(text))
	}
}

// eventually waits for what the operating system does not announce.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	late := time.After(harness.Timeout)
	for !ok() {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("%s: not so", what)
		}
	}
}

func isMissing(path string) bool {
	_, err := os.Lstat(path)
	return os.IsNotExist(err)
}

// countHelpers counts what runs as the account by the node's own program.
func (f *forwardFixture) countHelpers() int {
	pids, _ := exec.Command("pgrep", "-u", f.account.Username, "-x", "exe|threshold-node").
		Output()
		// it fails where nothing runs
	return len(strings.Fields(string(pids)))
}

// People forward ports, sockets and their agent with OpenSSH, both ways that lead to a machine, and no
// further than a role lets them.
func TestForwardingWithOpenSSH(t *testing.T) {
	f := newForwardFixture(t)
	for name, way := range f.routes() {
		t.Run(name, func(t *testing.T) { f.testPorts(t, way) })
	}
	t.Run("Unix sockets both ways, by the account's rights", f.testSockets)
	t.Run("the agent", f.testAgent)
	t.Run("a master connection with many channels and forwards", f.testMaster)
	t.Run("what is never forwarded", f.testNeverForwarded)
	t.Run("a node that dies leaves nothing behind", f.testNodeKilled)
	t.Run("on record", func(t *testing.T) {
		f.client.Until(func(out string) bool {
			return strings.Contains(out, "TH3004") && strings.Contains(out, "169.254.169.254")
		}, "get", "events", "--format=json")
	})
	t.Run("nothing of it without the grant", f.testDenied)
}

func (f *forwardFixture) testPorts(t *testing.T, way []string) {
	behind, silent := startMirror(t, "tcp", "127.0.0.1:0", 0), harness.FreeAddr(t, "127.0.0.1")
	local, dynamic := harness.FreeAddr(t, "127.0.0.1"), harness.FreeAddr(t, "127.0.0.1")
	_, remote, _ := net.SplitHostPort(harness.FreeAddr(t, "127.0.0.1"))
	p := f.startClient(
		t,
		append(
			[]string{
				"-L",
				local + ":" + behind,
				"-D",
				dynamic,
				"-R",
				"*:" + remote + ":" + behind,
				"-R",
				"0:" + behind,
			},
			way...)...)
	checkEcho(t, "tcp", local)
	bySOCKS, err := proxy.SOCKS5("tcp", dynamic, nil, proxy.Direct)
	if err != nil {
		t.Fatal(err)
	}
	if c, err := bySOCKS.Dial("tcp", behind); err != nil {
		t.Errorf("-D: %v", err)
	} else {
		c.Close()
	}
	if c, err := bySOCKS.Dial("tcp", silent); err == nil {
		c.Close()
		t.Error("-D: got a connection to nobody")
	}
	checkEcho(t, "tcp", "127.0.0.1:"+remote)
	checkEcho(t, "tcp", "[::1]:"+remote)
	if out, err := exec.Command("ss", "-Htln", "sport = :"+remote).CombinedOutput(); err != nil ||
		strings.Contains(string(out), "0.0.0.0:"+remote) ||
		strings.Contains(string(out), "*:"+remote) {
		t.Errorf("got %s, %v, want loopback alone", out, err)
	}
	_, chosen, ok := strings.Cut(p.Output(), "Allocated port ")
	if !ok {
		t.Errorf("got %s, want the port told that the node chose", p.Output())
	} else {
		checkEcho(t, "tcp", "127.0.0.1:"+strings.Fields(chosen)[0])
	}
	if r := f.ssh(t, "through", append([]string{"-W", behind}, way...)...); r.OK(t) != "through" {
		t.Errorf("-W: got %+v, want it back", r)
	}
	if r := f.ssh(t, "", append([]string{"-W", silent}, way...)...); r.Code == 0 ||
		!strings.Contains(r.Stderr, "connection refused") {
		t.Errorf("-W to nobody: got %+v, want connection refused", r)
	}
	if r := f.ssh(t, "", append([]string{"-N", "-o", "ExitOnForwardFailure=yes", "-R", "80:" + behind}, way...)...); r.Code == 0 {
		t.Errorf("-R 80: got %+v, want the ports of root kept for root", r)
	}
	_ = p.Stop() // by a signal
	eventually(t, "the listener on the node ends with its connection", func() bool {
		c, err := net.Dial("tcp", "127.0.0.1:"+remote)
		if err == nil {
			c.Close()
		}
		return err != nil
	})
}

func (f *forwardFixture) testSockets(t *testing.T) {
	open, shut := filepath.Join(f.dir, "open"), filepath.Join(f.dir, "shut")
	startMirror(t, "unix", open, 0o666)
	startMirror(t, "unix", shut, 0o600) // root's
	local, remote := filepath.Join(f.dir, "local"), filepath.Join(f.dir, "remote")
	p := f.startClient(t, "-L", local+":"+open, "-L", local+"2:"+shut, "-R", remote+":"+open, f.target())
	checkEcho(t, "unix", local)
	checkEcho(t, "unix", remote)
	if out, err := exec.Command("stat", "-c", "%a %U", remote).Output(); err != nil ||
		strings.TrimSpace(string(out)) != "600 "+f.account.Username {
		t.Errorf("got %q, %v, want a socket of the account alone", out, err)
	}
	c, err := net.Dial("unix", local+"2")
	if err != nil {
		t.Fatal(err)
	}
	if n, err := c.Read(make([]byte, 1)); err == nil {
		t.Errorf("got %d bytes of a socket that the account may not use", n)
	}
	c.Close()
	p.WaitFor("permission denied")
	if r := f.ssh(t, "", "-N", "-o", "ExitOnForwardFailure=yes", "-R", remote+":"+open, f.target()); r.Code == 0 {
		t.Errorf("got %+v, want a path that is taken refused", r)
	}
	if r := f.ssh(t, "", "-N", "-o", "ExitOnForwardFailure=yes", "-R", "/etc/ferry:"+open, f.target()); r.Code == 0 ||
		!isMissing("/etc/ferry") {
		t.Errorf("got %+v, want a folder of root's refused", r)
	}
	_ = p.Stop() // by a signal
	eventually(
		t,
		"the socket is removed, and the process that made it ends",
		func() bool { return isMissing(remote) && f.countHelpers() == 0 },
	)
}

// startAgent starts an ssh-agent with one key, and returns the environment that names it.
func (f *forwardFixture) startAgent(t *testing.T) []string {
	t.Helper()
	dir := t.TempDir()
	socket, key := filepath.Join(dir, "a"), filepath.Join(dir, "key")
	harness.Start(t, nil, "ssh-agent", "-D", "-a", socket)
	eventually(t, "the agent listens", func() bool { return !isMissing(socket) })
	env := append(append([]string{}, f.client.Env...), "SSH_AUTH_SOCK="+socket)
	harness.Run(t, nil, nil, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "a key that is lent", "-f", key).
		OK(t)
	harness.Run(t, env, nil, "ssh-add", "-q", key).OK(t)
	return env
}

func (f *forwardFixture) testAgent(t *testing.T) {
	env := f.startAgent(t)
	run := func(args ...string) harness.Result { return harness.Run(t, env, nil, "ssh", f.options(args...)...) }
	out := run(
		"-A",
		f.target(),
		`ssh-add -l; echo "$SSH_AUTH_SOCK"; stat -c "%a %U" "$(dirname "$SSH_AUTH_SOCK")"`,
	).OK(t)
	lines := strings.Split(out, "\n")
	if len(lines) < 3 || !strings.Contains(lines[0], "a key that is lent") ||
		lines[2] != "700 "+f.account.Username {
		t.Fatalf("got %q, want the key listed, and a folder of the account alone", out)
	}
	eventually(
		t,
		"the folder is removed",
		func() bool { return isMissing(filepath.Dir(lines[1])) && f.countHelpers() == 0 },
	)
	if out := run("-a", f.target(), `echo "${SSH_AUTH_SOCK-none}"`).OK(t); out != "none\n" {
		t.Errorf("got %q without -A, want none", out)
	}
}

func (f *forwardFixture) testMaster(t *testing.T) {
	const many = 30
	behind, control := startMirror(t, "tcp", "127.0.0.1:0", 0), filepath.Join(f.dir, "c")
	local := harness.FreeAddr(t, "127.0.0.1")
	f.startClient(t, "-M", "-S", control, "-L", local+":"+behind, f.target())
	gate := filepath.Join(f.dir, "gate")
	var all sync.WaitGroup
	for i := range many {
		all.Go(func() {
			r := f.ssh(
				t,
				"",
				"-S",
				control,
				f.target(),
				fmt.Sprintf(
					"touch %s.%d; while [ $(ls %s.* | wc -l) -lt %d ]; do sleep 0.1; done; exit %d",
					gate,
					i,
					gate,
					many,
					i,
				),
			)
			if r.Code != i {
				t.Errorf("got %+v of session %d", r, i)
			}
		})
		all.Go(func() { checkEcho(t, "tcp", local) })
	}
	all.Wait()
	_, port, _ := net.SplitHostPort(harness.FreeAddr(t, "127.0.0.1"))
	f.ssh(t, "", "-S", control, "-O", "forward", "-R", port+":"+behind, f.target()).OK(t)
	checkEcho(t, "tcp", "127.0.0.1:"+port)
	f.ssh(t, "", "-S", control, "-O", "cancel", "-R", port+":"+behind, f.target()).OK(t)
	eventually(t, "the cancelled listener is gone", func() bool {
		c, err := net.Dial("tcp", "127.0.0.1:"+port)
		if err == nil {
			c.Close()
		}
		return err != nil
	})
	f.ssh(t, "", "-S", control, "-O", "exit", f.target()).OK(t)
}

func (f *forwardFixture) testNeverForwarded(t *testing.T) {
	for _, to := range []string{"169.254.169.254:80", "[::ffff:169.254.169.254]:80", "[fd00:ec2::254]:80", "[fe80::1]:22"} {
		if r := f.ssh(t, "", "-W", to, f.target()); r.Code == 0 || !strings.Contains(r.Stderr, "metadata") {
			t.Errorf("%s: got %+v, want it refused in words", to, r)
		}
	}
	r := harness.Run(
		t,
		append(append([]string{}, f.client.Env...), "DISPLAY=127.0.0.1:99"),
		nil,
		"ssh",
		f.options("-Y", f.target(), "echo here")...)
	if r.Stdout != "here\n" || !strings.Contains(r.Stderr, "this node does not forward X11") {
		t.Errorf("got %+v, want the session to go on without X11, and the reason", r)
	}
}

func (f *forwardFixture) testNodeKilled(t *testing.T) {
	remote := filepath.Join(f.dir, "orphan")
	f.startClient(t, "-R", remote+":"+filepath.Join(f.dir, "x"), f.target())
	if isMissing(remote) {
		t.Fatal("there is no socket")
	}
	pid := f.node.Process.Cmd.Process.Pid
	if _, err := os.Stat("/proc/" + strconv.Itoa(pid)); err != nil {
		t.Fatal(err)
	}
	f.node.Process.Kill()
	eventually(
		t,
		"the socket is removed, and the process that made it ends",
		func() bool { return isMissing(remote) && f.countHelpers() == 0 },
	)
	f.node = harness.StartNodeIn(f.t, f.node.Dir, f.server.Proxy, "", "ferry")
}

func (f *forwardFixture) testDenied(t *testing.T) {
	role := fmt.Sprintf(
		"kind: role\nversion: v1\nmetadata: {name: operator}\nspec:\n  allow:\n    - nodes: {\"*\": \"*\"}\n      logins: [%s]\n      actions: [exec]\n",
		f.account.Username,
	)
	behind := startMirror(t, "tcp", "127.0.0.1:0", 0)
	f.client.Tsh("apply", "-f", harness.WriteFile(t, t.TempDir(), "role.yaml", role)).OK(t)
	eventually(
		t,
		"the role is at the node",
		func() bool { return f.ssh(t, "", "-W", behind, f.target()).Code != 0 },
	)
	for name, way := range f.routes() {
		for what, args := range map[string][]string{
			"-W": {"-W", behind}, "-R": {"-N", "-o", "ExitOnForwardFailure=yes", "-R", "0:" + behind},
			"-R of a socket": {"-N", "-o", "ExitOnForwardFailure=yes", "-R", filepath.Join(f.dir, "no") + ":" + behind},
		} {
			r := f.ssh(t, "", append(args, way...)...)
			if r.Code == 0 || what == "-W" && !strings.Contains(r.Stderr, "no role of alice@example.com") {
				t.Errorf("%s, %s: got %+v, want it refused", name, what, r)
			}
		}
	}
	r := harness.Run(
		t,
		f.startAgent(t),
		nil,
		"ssh",
		f.options("-A", f.target(), `echo "${SSH_AUTH_SOCK-none}"`)...)
	if r.OK(t) != "none\n" || !strings.Contains(r.Stderr, "allows forward-agent") {
		t.Errorf("-A: got %+v, want no agent, and the reason", r)
	}
}
