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

// forwardFixture is a cluster with a node, an account on it, and a user who may use all kinds of forwarding
// there.
type forwardFixture struct {
	t       *testing.T
	server  *harness.Server
	node    *harness.Node
	client  *harness.Client
	account *user.User
	config  string
	dir     string // in which every account may write
}

// newForwardFixture needs root, for the account.
func newForwardFixture(t *testing.T) *forwardFixture {
	t.Helper()
	f := &forwardFixture{t: t, account: harness.MakeAccount(t, "thforward"), client: harness.NewClient(t)}
	public, dir := harness.FreeAddr(t, "127.0.0.1"), t.TempDir()
	provider, seal := harness.StartProvider(t, "127.0.0.1", public), filepath.Join(dir, "seal.key")
	const actions = "shell, exec, forward-local, forward-remote, forward-agent"
	bootstrap := harness.BootstrapFor(provider, seal, actions, f.account.Username)
	f.server = harness.StartServerFrom(t, dir, public, bootstrap, "")
	f.client.FirstLogin(f.server, harness.Alice())
	f.node = harness.StartNode(t, public, f.client.Token("node"), "harbour")
	f.config = harness.WriteFile(t, f.client.Home, "ssh_config", f.client.Tsh("config").OK(t))
	var err error
	if f.dir, err = os.MkdirTemp("", "thfw"); err != nil { // short: a socket's path has at most 107 bytes
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(f.dir) })
	if err := os.Chmod(f.dir, 0o777); err != nil {
		t.Fatal(err)
	}
	return f
}

// routes are the ways to reach the node: the arguments of ssh between its options and the command.
func (f *forwardFixture) routes() map[string][]string {
	return map[string][]string{
		"tsh config": {f.account.Username + "@harbour." + harness.ClusterName},
		"ssh -J":     {"-J", "anyone@" + f.server.Proxy, f.account.Username + "@harbour"},
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

// startClient runs ssh without a command until the test ends. It returns when the forwards are set up.
func (f *forwardFixture) startClient(t *testing.T, args ...string) *harness.Process {
	t.Helper()
	flags := append([]string{"-v", "-N", "-o", "ExitOnForwardFailure=yes"}, args...)
	p := harness.Start(t, f.client.Env, "ssh", f.options(flags...)...)
	p.WaitFor("Entering interactive session")
	if slices.Contains(args, "-R") {
		p.WaitFor("all expected forwarding replies received")
	}
	return p
}

// startMirror runs a server that sends everything back, and closes the connection after its client has ended.
func startMirror(t *testing.T, network, address string, mode os.FileMode) string {
	t.Helper()
	ln, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	if network == "unix" {
		if err := os.Chmod(address, mode); err != nil {
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

// checkEcho sends a megabyte to an address and closes its side. It wants the megabyte back, and then the end.
func checkEcho(t *testing.T, network, address string) {
	t.Helper()
	c, err := net.Dial(network, address)
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

func isMissing(path string) bool {
	_, err := os.Lstat(path)
	return os.IsNotExist(err)
}

// countHelpers counts the account's processes that run the node's program.
func (f *forwardFixture) countHelpers() int {
	// pgrep fails when there is none.
	pids, _ := exec.Command("pgrep", "-u", f.account.Username, "-x", "exe|threshold-node").Output()
	return len(strings.Fields(string(pids)))
}

// Users forward ports, Unix sockets and their SSH agent with OpenSSH, on both routes to a node, and only as
// far as a role allows.
func TestForwardingWithOpenSSH(t *testing.T) {
	f := newForwardFixture(t)
	for name, route := range f.routes() {
		t.Run(name, func(t *testing.T) { f.testPorts(t, route) })
	}
	t.Run("Unix sockets both ways, with the rights of the account", f.testSockets)
	t.Run("the agent", f.testAgent)
	t.Run("a master connection with many channels and forwards", f.testMaster)
	t.Run("metadata services and X11 are never forwarded", f.testNeverForwarded)
	t.Run("a killed node leaves no socket and no process", f.testNodeKilled)
	t.Run("refusals are in the audit log", func(t *testing.T) {
		f.client.Until(func(out string) bool {
			return strings.Contains(out, "TH3004") && strings.Contains(out, "169.254.169.254")
		}, "get", "events", "--format=json")
	})
	t.Run("without the actions in the role nothing is forwarded", f.testDenied)
}

func (f *forwardFixture) testPorts(t *testing.T, route []string) {
	server, closed := startMirror(t, "tcp", "127.0.0.1:0", 0), harness.FreeAddr(t, "127.0.0.1")
	local, dynamic := harness.FreeAddr(t, "127.0.0.1"), harness.FreeAddr(t, "127.0.0.1")
	_, remote, _ := net.SplitHostPort(harness.FreeAddr(t, "127.0.0.1"))
	flags := []string{"-L", local + ":" + server, "-D", dynamic}
	flags = append(flags, "-R", "*:"+remote+":"+server, "-R", "0:"+server)
	p := f.startClient(t, append(flags, route...)...)
	checkEcho(t, "tcp", local)
	bySOCKS, err := proxy.SOCKS5("tcp", dynamic, nil, proxy.Direct)
	if err != nil {
		t.Fatal(err)
	}
	if c, err := bySOCKS.Dial("tcp", server); err != nil {
		t.Errorf("-D: %v", err)
	} else {
		c.Close()
	}
	if c, err := bySOCKS.Dial("tcp", closed); err == nil {
		c.Close()
		t.Error("-D: got a connection to a closed port")
	}
	checkEcho(t, "tcp", "127.0.0.1:"+remote)
	checkEcho(t, "tcp", "[::1]:"+remote)
	out, err := exec.Command("ss", "-Htln", "sport = :"+remote).CombinedOutput()
	if err != nil || strings.Contains(string(out), "0.0.0.0:"+remote) ||
		strings.Contains(string(out), "*:"+remote) {
		t.Errorf("got %s, %v, want a listener on loopback only", out, err)
	}
	_, chosen, ok := strings.Cut(p.Output(), "Allocated port ")
	if !ok {
		t.Errorf("got %s, want the port that the node has chosen", p.Output())
	} else {
		checkEcho(t, "tcp", "127.0.0.1:"+strings.Fields(chosen)[0])
	}
	if r := f.ssh(t, "through", append([]string{"-W", server}, route...)...); r.OK(t) != "through" {
		t.Errorf("-W: got %+v, want the echo", r)
	}
	r := f.ssh(t, "", append([]string{"-W", closed}, route...)...)
	if r.Code == 0 || !strings.Contains(r.Stderr, "connection refused") {
		t.Errorf("-W to a closed port: got %+v, want connection refused", r)
	}
	flags = []string{"-N", "-o", "ExitOnForwardFailure=yes", "-R", "80:" + server}
	if r := f.ssh(t, "", append(flags, route...)...); r.Code == 0 {
		t.Errorf("-R 80: got %+v, want a privileged port refused", r)
	}
	_ = p.Stop() // by a signal
	harness.Eventually(t, "the listener on the node ends with its connection", func() bool {
		c, err := net.Dial("tcp", "127.0.0.1:"+remote)
		if err == nil {
			c.Close()
		}
		return err != nil
	})
}

func (f *forwardFixture) testSockets(t *testing.T) {
	open, private := filepath.Join(f.dir, "open"), filepath.Join(f.dir, "private")
	startMirror(t, "unix", open, 0o666)
	startMirror(t, "unix", private, 0o600) // for root only
	local, remote := filepath.Join(f.dir, "local"), filepath.Join(f.dir, "remote")
	p := f.startClient(t, "-L", local+":"+open, "-L", local+"2:"+private, "-R", remote+":"+open, f.target())
	checkEcho(t, "unix", local)
	checkEcho(t, "unix", remote)
	out, err := exec.Command("stat", "-c", "%a %U", remote).Output()
	if err != nil || strings.TrimSpace(string(out)) != "600 "+f.account.Username {
		t.Errorf("got %q, %v, want a socket of mode 600 that the account owns", out, err)
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
	forward := func(path string) harness.Result {
		return f.ssh(t, "", "-N", "-o", "ExitOnForwardFailure=yes", "-R", path+":"+open, f.target())
	}
	if r := forward(remote); r.Code == 0 {
		t.Errorf("got %+v, want a path that exists refused", r)
	}
	const inRootsFolder = "/etc/thfw"
	if r := forward(inRootsFolder); r.Code == 0 || !isMissing(inRootsFolder) {
		t.Errorf("got %+v, want a path in a folder of root refused", r)
	}
	_ = p.Stop() // by a signal
	f.wantRemoved(t, remote)
}

// wantRemoved waits until the socket is removed and the process that made it has ended.
func (f *forwardFixture) wantRemoved(t *testing.T, socket string) {
	t.Helper()
	harness.Eventually(t, "the socket is removed, and the process that made it has ended", func() bool {
		return isMissing(socket) && f.countHelpers() == 0
	})
}

// startAgent starts an SSH agent with one key, and returns the environment that names it.
func (f *forwardFixture) startAgent(t *testing.T) []string {
	t.Helper()
	dir := t.TempDir()
	socket, key := filepath.Join(dir, "a"), filepath.Join(dir, "key")
	harness.Start(t, nil, "ssh-agent", "-D", "-a", socket)
	harness.Eventually(t, "the agent listens", func() bool { return !isMissing(socket) })
	env := append(append([]string{}, f.client.Env...), "SSH_AUTH_SOCK="+socket)
	keygen := []string{"-q", "-t", "ed25519", "-N", "", "-C", agentKeyComment, "-f", key}
	harness.Run(t, nil, nil, "ssh-keygen", keygen...).OK(t)
	harness.Run(t, env, nil, "ssh-add", "-q", key).OK(t)
	return env
}

func (f *forwardFixture) testAgent(t *testing.T) {
	env := f.startAgent(t)
	run := func(args ...string) harness.Result {
		return harness.Run(t, env, nil, "ssh", f.options(args...)...)
	}
	const script = `ssh-add -l; echo "$SSH_AUTH_SOCK"; stat -c "%a %U" "$(dirname "$SSH_AUTH_SOCK")"`
	out := run("-A", f.target(), script).OK(t)
	lines := strings.Split(out, "\n")
	if len(lines) < 3 || !strings.Contains(lines[0], agentKeyComment) ||
		lines[2] != "700 "+f.account.Username {
		t.Fatalf("got %q, want the key listed, and a folder of mode 700 that the account owns", out)
	}
	f.wantRemoved(t, filepath.Dir(lines[1]))
	if out := run("-a", f.target(), `echo "${SSH_AUTH_SOCK-none}"`).OK(t); out != "none\n" {
		t.Errorf("got %q without -A, want none", out)
	}
}

func (f *forwardFixture) testMaster(t *testing.T) {
	const many = 30
	server, control := startMirror(t, "tcp", "127.0.0.1:0", 0), filepath.Join(f.dir, "c")
	local := harness.FreeAddr(t, "127.0.0.1")
	f.startClient(t, "-M", "-S", control, "-L", local+":"+server, f.target())
	// Each session creates a file with this prefix, and waits until there are all.
	marks := filepath.Join(f.dir, "mark")
	var all sync.WaitGroup
	for i := range many {
		all.Go(func() {
			const format = "touch %s.%d; while [ $(ls %s.* | wc -l) -lt %d ]; do sleep 0.1; done; exit %d"
			r := f.ssh(t, "", "-S", control, f.target(), fmt.Sprintf(format, marks, i, marks, many, i))
			if r.Code != i {
				t.Errorf("got %+v of session %d", r, i)
			}
		})
		all.Go(func() { checkEcho(t, "tcp", local) })
	}
	all.Wait()
	_, port, _ := net.SplitHostPort(harness.FreeAddr(t, "127.0.0.1"))
	f.ssh(t, "", "-S", control, "-O", "forward", "-R", port+":"+server, f.target()).OK(t)
	checkEcho(t, "tcp", "127.0.0.1:"+port)
	f.ssh(t, "", "-S", control, "-O", "cancel", "-R", port+":"+server, f.target()).OK(t)
	harness.Eventually(t, "the cancelled listener is gone", func() bool {
		c, err := net.Dial("tcp", "127.0.0.1:"+port)
		if err == nil {
			c.Close()
		}
		return err != nil
	})
	f.ssh(t, "", "-S", control, "-O", "exit", f.target()).OK(t)
}

func (f *forwardFixture) testNeverForwarded(t *testing.T) {
	for _, to := range []string{
		"169.254.169.254:80",
		"[::ffff:169.254.169.254]:80",
		"[fd00:ec2::254]:80",
		"[fe80::1]:22",
	} {
		if r := f.ssh(t, "", "-W", to, f.target()); r.Code == 0 || !strings.Contains(r.Stderr, "metadata") {
			t.Errorf("%s: got %+v, want it refused with the reason", to, r)
		}
	}
	env := append(slices.Clone(f.client.Env), "DISPLAY=127.0.0.1:99")
	r := harness.Run(t, env, nil, "ssh", f.options("-Y", f.target(), "echo here")...)
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
	f.wantRemoved(t, remote)
	f.node = harness.StartNodeIn(f.t, f.node.Dir, f.server.Proxy, "", "harbour")
}

func (f *forwardFixture) testDenied(t *testing.T) {
	role := operatorRole(f.account.Username, "exec")
	server := startMirror(t, "tcp", "127.0.0.1:0", 0)
	f.client.Tsh("apply", "-f", harness.WriteFile(t, t.TempDir(), "role.yaml", role)).OK(t)
	harness.Eventually(t, "the node has the role", func() bool {
		return f.ssh(t, "", "-W", server, f.target()).Code != 0
	})
	for name, route := range f.routes() {
		remote := func(listen string) []string {
			return []string{"-N", "-o", "ExitOnForwardFailure=yes", "-R", listen + ":" + server}
		}
		for what, args := range map[string][]string{
			"-W":             {"-W", server},
			"-R":             remote("0"),
			"-R of a socket": remote(filepath.Join(f.dir, "refused")),
		} {
			r := f.ssh(t, "", append(args, route...)...)
			if r.Code == 0 || what == "-W" && !strings.Contains(r.Stderr, "no role of alice@example.com") {
				t.Errorf("%s, %s: got %+v, want it refused", name, what, r)
			}
		}
	}
	args := f.options("-A", f.target(), `echo "${SSH_AUTH_SOCK-none}"`)
	r := harness.Run(t, f.startAgent(t), nil, "ssh", args...)
	if r.OK(t) != "none\n" || !strings.Contains(r.Stderr, "allows forward-agent") {
		t.Errorf("-A: got %+v, want no agent, and the reason", r)
	}
}
