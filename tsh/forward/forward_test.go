package forward_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/tsh/forward"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Tests that open a local Unix socket are not parallel: the umask is set for the whole process while it is
// opened.

// echo starts a server that answers each connection with what it received, after the client has half-closed.
func echo(t testing.TB, network, addr string) net.Addr {
	t.Helper()
	l, err := net.Listen(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer c.Close()
				b, _ := io.ReadAll(c)
				_, _ = c.Write(append([]byte("echo "), b...))
			})
		}
	})
	t.Cleanup(func() { l.Close(); all.Wait() })
	return l.Addr()
}

// exchange connects, sends before, skips an answer of that many bytes, sends "hello" with a half-close and
// returns everything that follows.
func exchange(t testing.TB, addr net.Addr, before string, answer int) string {
	t.Helper()
	c, err := net.Dial(addr.Network(), addr.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	_, _ = io.WriteString(c, before)
	if _, err := io.ReadFull(c, make([]byte, answer)); err != nil {
		return "no answer: " + err.Error()
	}
	_, _ = io.WriteString(c, "hello")
	_ = c.(stream).CloseWrite()
	b, _ := io.ReadAll(c)
	return string(b)
}

// notices collects the messages for the user.
type notices struct {
	mu    sync.Mutex
	lines []string
}

func (s *notices) add(line string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lines = append(s.lines, line)
}

func (s *notices) all() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.lines, "\n")
}

// start starts forwarding over the connection to the node. It ends with the test.
func start(t testing.TB, node *testNode, cfg forward.Config) (*forward.Forwarder, error) {
	t.Helper()
	fw := forward.New(cfg)
	if err := fw.Listen(); err != nil {
		return fw, err
	}
	t.Cleanup(func() { fw.Close(); node.client.Close(); fw.Wait() })
	return fw, fw.Start(node.client)
}

// mustStart is start for a configuration that must work.
func mustStart(t testing.TB, node *testNode, cfg forward.Config) *forward.Forwarder {
	t.Helper()
	fw, err := start(t, node, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return fw
}

func discard(string) {}

// anyPort lets the kernel choose the port of a listener.
var anyPort = port("127.0.0.1", 0)

func local(addr net.Addr) forward.Addr {
	return port("127.0.0.1", uint16(addr.(*net.TCPAddr).Port))
}

// -L and -R forward from a port or a socket to a port or a socket, with half-closes.
func TestForwardsBothWaysWithPortsAndSockets(t *testing.T) {
	dir := t.TempDir()
	tcp, unix := local(echo(t, "tcp", "127.0.0.1:0")), socket(filepath.Join(dir, "service"))
	echo(t, "unix", unix.Path)
	for toName, to := range map[string]forward.Addr{"a port": tcp, "a socket": unix} {
		path := socket(filepath.Join(dir, strings.ReplaceAll(toName, " ", "-")))
		for fromName, from := range map[string]forward.Addr{"a port": anyPort, "a socket": path} {
			rules := []forward.Rule{{From: from, To: to}}
			for flag, cfg := range map[string]forward.Config{"-L": {Local: rules}, "-R": {Remote: rules}} {
				t.Run(flag+" from "+fromName+" to "+toName, func(t *testing.T) {
					var seen notices
					cfg.Notify = seen.add
					node := newTestNode(t)
					fw := mustStart(t, node, cfg)
					var addr net.Addr
					if flag == "-L" {
						addr = fw.Addrs()[0]
					} else {
						addr = node.addr()
					}
					for range 2 {
						if got := exchange(t, addr, "", 0); got != "echo hello" {
							t.Errorf("got %q, want the echo, after a half-close (%s)", got, seen.all())
						}
					}
				})
			}
		}
	}
}

// Many listeners and connections at once do not mix their data, and afterwards none is open.
func TestManyForwardsAndConnectionsAtOnce(t *testing.T) {
	t.Parallel()
	to := local(echo(t, "tcp", "127.0.0.1:0"))
	cfg := forward.Config{Notify: func(s string) { t.Error(s) }}
	for range 8 {
		cfg.Local = append(cfg.Local, forward.Rule{From: anyPort, To: to})
	}
	fw := mustStart(t, newTestNode(t), cfg)
	var all sync.WaitGroup
	for i := range 64 {
		all.Go(func() {
			if got := exchange(t, fw.Addrs()[i%8], "", 0); got != "echo hello" {
				t.Errorf("got %q, want the echo", got)
			}
		})
	}
	all.Wait()
	fw.Close()
	fw.Drain(t.Context())
	if n := fw.Open(); n != 0 {
		t.Errorf("got %d connections open, want none", n)
	}
}

// -D, and -R without a target, serve each version of SOCKS. A refusal is reported to the user.
func TestDynamicForwards(t *testing.T) {
	t.Parallel()
	to := local(echo(t, "tcp", "127.0.0.1:0"))
	hi, lo := string([]byte{byte(to.Port >> 8)}), string([]byte{byte(to.Port)})
	var seen notices
	node := newTestNode(t)
	rules := []forward.Rule{{From: anyPort}}
	fw := mustStart(t, node, forward.Config{Local: rules, Remote: rules, Notify: seen.add})
	for flag, from := range map[string]net.Addr{"-D": fw.Addrs()[0], "-R without a target": node.addr()} {
		for version, tt := range map[string]struct {
			request string
			answer  int
		}{
			"4":  {"\x04\x01" + hi + lo + "\x7f\x00\x00\x01me\x00", 8},
			"4a": {"\x04\x01" + hi + lo + "\x00\x00\x00\x01\x00127.0.0.1\x00", 8},
			"5":  {"\x05\x01\x00\x05\x01\x00\x03\x09127.0.0.1" + hi + lo, 12},
		} {
			if got := exchange(t, from, tt.request, tt.answer); got != "echo hello" {
				t.Errorf("%s, SOCKS %s: got %q, want the echo", flag, version, got)
			}
		}
	}
	node.mu.Lock()
	node.refuse = "role ops does not allow forward-local"
	node.mu.Unlock()
	if got := exchange(t, fw.Addrs()[0], "\x05\x01\x00\x05\x01\x00\x03\x02db\x00\x50", 12); got != "" {
		t.Errorf("got %q, want a refusal and the end", got)
	}
	want := "no connection to db:80 through the node: role ops does not allow forward-local"
	if got := seen.all(); !strings.Contains(got, want) {
		t.Errorf("got messages %q, want %q", got, want)
	}
}

// Without an address a listener accepts connections only from this machine, and only its owner can use a
// socket.
func TestLocalListenersAreLoopbackAndPrivate(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	free := local(l.Addr()).Port
	_ = l.Close()
	r, err := forward.ParseLocal(fmt.Sprintf("%d:localhost:80", free))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "s")
	fw := forward.New(forward.Config{Local: []forward.Rule{r, {From: socket(path), To: r.To}}})
	if err := fw.Listen(); err != nil {
		t.Fatal(err)
	}
	defer fw.Close()
	if fw.Addrs()[0].String() != fmt.Sprintf("127.0.0.1:%d", r.From.Port) {
		t.Errorf("got %v, want 127.0.0.1 whatever a name server says about localhost", fw.Addrs())
	}
	for _, a := range fw.Addrs() {
		if tcp, ok := a.(*net.TCPAddr); ok && !tcp.IP.IsLoopback() {
			t.Errorf("got a listener on %s, want only loopback", a)
		}
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm()&0o077 != 0 {
		t.Errorf("got mode %v, %v, want a socket for its owner only", info.Mode(), err)
	}
}

// A listener that cannot be opened, on this machine or on the node, is an error with a remedy.
func TestForwardsThatFailAreReportedAtOnce(t *testing.T) {
	taken := local(echo(t, "tcp", "127.0.0.1:0"))
	path := filepath.Join(t.TempDir(), "s")
	echo(t, "unix", path)
	for name, from := range map[string]forward.Addr{
		"a port in use":                 taken,
		"a socket in use":               socket(path),
		"an address of another machine": port("203.0.113.1", 8080),
	} {
		rules := []forward.Rule{{From: anyPort, To: taken}, {From: from, To: taken}}
		fw := forward.New(forward.Config{Local: rules})
		if err := fw.Listen(); err == nil || fault.Remedy(err) == "" {
			t.Errorf("%s: got %v, want an error with a remedy", name, err)
		}
	}
	cfg := forward.Config{Remote: []forward.Rule{{From: port("localhost", 8080), To: taken}}, Notify: discard}
	node := newTestNode(t)
	node.refuse = "role ops does not allow forward-remote"
	_, err := start(t, node, cfg)
	want := "the node does not listen on localhost:8080: role ops does not allow forward-remote"
	if !fault.Is(err, fault.Denied) || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want %q", err, want)
	}
	node = newTestNode(t)
	node.refuse = string(fault.MarshalObject(&fault.Error{
		Code: "access-denied", Kind: fault.Denied,
		Msg: "role ops does not allow forward-remote", Remedy: "ask an administrator",
	}, 1<<10))
	_, err = start(t, node, cfg)
	msg, remedy := fault.Message(err), fault.Remedy(err)
	if !strings.HasSuffix(msg, "allow forward-remote") || remedy != "the node says: ask an administrator" {
		t.Errorf("got %q and %q, want the node's remedy as the hint", msg, remedy)
	}
}

func TestPortChosenByTheNodeIsReported(t *testing.T) {
	t.Parallel()
	to := local(echo(t, "tcp", "127.0.0.1:0"))
	var seen notices
	node := newTestNode(t)
	mustStart(t, node, forward.Config{
		Remote: []forward.Rule{{From: port("localhost", 0), To: to}},
		Notify: seen.add,
	})
	want := fmt.Sprintf("port %d on the node is forwarded to %s", local(node.addr()).Port, to)
	if got := seen.all(); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := exchange(t, node.addr(), "", 0); got != "echo hello" {
		t.Errorf("got %q, want the echo", got)
	}
}

// A hostile node cannot open channels that the client did not request.
func TestChannelsThatWereNotRequestedAreRejected(t *testing.T) {
	t.Parallel()
	to := local(echo(t, "tcp", "127.0.0.1:0"))
	node := newTestNode(t)
	mustStart(t, node, forward.Config{
		Remote: []forward.Rule{{From: port("localhost", 0), To: to}},
		Notify: discard,
	})
	for kind, extra := range map[string][]byte{
		"forwarded-tcpip": ssh.Marshal(struct {
			Host       string
			Port       uint32
			Origin     string
			OriginPort uint32
		}{"localhost", 1, "127.0.0.1", 1}),
		"forwarded-streamlocal@openssh.com": ssh.Marshal(struct{ Path, Reserved string }{"/run/x", ""}),
		"auth-agent@openssh.com":            nil,
		"x11":                               nil,
		"direct-tcpip":                      nil,
		"session":                           nil,
	} {
		if _, _, err := node.conn.OpenChannel(kind, extra); err == nil {
			t.Errorf("%s: got opened, want refused", kind)
		}
	}
	for _, garbage := range [][]byte{nil, {0, 0, 0, 9}} {
		if _, _, err := node.conn.OpenChannel("forwarded-tcpip", garbage); err == nil {
			t.Errorf("%q: got opened, want refused", garbage)
		}
	}
}

// serveFailures is an agent that answers every message with a failure until its client disconnects.
func serveFailures(c net.Conn) {
	defer c.Close()
	head := make([]byte, 4)
	for {
		if _, err := io.ReadFull(c, head); err != nil {
			return
		}
		if _, err := io.CopyN(io.Discard, c, int64(binary.BigEndian.Uint32(head))); err != nil {
			return
		}
		_, _ = c.Write([]byte{0, 0, 0, 1, 5})
	}
}

// A hostile node gets no more connections to this side than the bound.
func TestConnectionsFromTheNodeAreBounded(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "agent")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	var agents sync.WaitGroup
	agents.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			agents.Go(func() { serveFailures(c) })
		}
	})
	t.Cleanup(func() { l.Close(); agents.Wait() })
	var seen notices
	node := newTestNode(t)
	mustStart(t, node, forward.Config{Agent: path, Notify: seen.add})
	open := func() (ssh.Channel, error) {
		ch, reqs, err := node.conn.OpenChannel("auth-agent@openssh.com", nil)
		if err == nil {
			go ssh.DiscardRequests(reqs)
		}
		return ch, err
	}
	var last ssh.Channel
	for n := range 256 {
		if last, err = open(); err != nil {
			t.Fatalf("channel %d: %v", n, err)
		}
	}
	for range 3 {
		if _, err := open(); err == nil {
			t.Error("got one more opened, want refused")
		}
	}
	got := seen.all()
	if strings.Count(got, "\n") != 0 || !strings.Contains(got, "more than 256 connections") {
		t.Errorf("got messages %q, want one about the bound", got)
	}
	_ = last.Close()
	// The slot is free once both sides have closed the channel.
	for deadline := time.Now().Add(10 * time.Second); ; {
		if _, err := open(); err == nil {
			break
		} else if time.Now().After(deadline) {
			t.Fatalf("got %v after one had ended, want a new connection", err)
		}
	}
}

// A path that begins with @ names a file. Any user could connect to an abstract socket.
func TestNoSocketIsAbstract(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := os.Mkdir("@", 0o700); err != nil {
		t.Fatal(err)
	}
	r, err := forward.ParseLocal("@/s:db:80")
	if err != nil {
		t.Fatal(err)
	}
	fw := forward.New(forward.Config{Local: []forward.Rule{r}})
	if err := fw.Listen(); err != nil {
		t.Fatal(err)
	}
	defer fw.Close()
	info, err := os.Lstat("@/s")
	if err != nil || info.Mode().Type() != os.ModeSocket || info.Mode().Perm()&0o077 != 0 {
		t.Errorf("got %v, %v, want a socket for its owner only at @/s", info, err)
	}
}

// An existing file stays, and a symbolic link is not followed.
func TestNoListenerReplacesAFileOrFollowsALink(t *testing.T) {
	dir := t.TempDir()
	for name, create := range map[string]func(string) error{
		"a file":          func(p string) error { return os.WriteFile(p, []byte("mine"), 0o600) },
		"a dangling link": func(p string) error { return os.Symlink(filepath.Join(dir, "elsewhere"), p) },
	} {
		path := filepath.Join(dir, strings.ReplaceAll(name, " ", "-"))
		if err := create(path); err != nil {
			t.Fatal(err)
		}
		fw := forward.New(forward.Config{Local: []forward.Rule{{From: socket(path), To: port("db", 80)}}})
		if err := fw.Listen(); err == nil || fault.Remedy(err) == "" {
			t.Errorf("%s: got %v, want an error with a remedy", name, err)
		}
		fw.Close()
		if _, err := os.Lstat(path); err != nil {
			t.Errorf("%s: got %v, want it unchanged", name, err)
		}
	}
	if _, err := os.Lstat(filepath.Join(dir, "elsewhere")); err == nil {
		t.Error("got a socket at the target of the link, want none")
	}
}

// After Close, Drain waits for the open connections until its context ends.
func TestDrainLetsConnectionsEnd(t *testing.T) {
	t.Parallel()
	target, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer target.Close()
	fw := mustStart(t, newTestNode(t), forward.Config{
		Local:  []forward.Rule{{From: anyPort, To: local(target.Addr())}},
		Notify: discard,
	})
	addr := fw.Addrs()[0]
	client, err := net.Dial("tcp", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	server, err := target.Accept() // from here on the connection is open
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	fw.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	fw.Drain(ctx) // returns although a connection is open
	if n := fw.Open(); n != 1 {
		t.Errorf("got %d connections open, want 1", n)
	}
	_, _ = io.WriteString(server, "late")
	_ = server.Close()
	if b, _ := io.ReadAll(client); string(b) != "late" {
		t.Errorf("got %q, want what the server sent after Close", b)
	}
	_ = client.Close()
	fw.Drain(t.Context())
	if _, err := net.Dial("tcp", addr.String()); err == nil {
		t.Error("got a new connection, want none after Close")
	}
}
