package forward_test

import (
	"bytes"
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

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/tsh/forward"
)

// echo listens and answers each connection with what it said, once it has said all.
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

// ask says something and ends, and returns the answer.
func ask(t testing.TB, network, addr, before string, answer int) string {
	t.Helper()
	c, err := net.Dial(network, addr)
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
	_ = c.(end).CloseWrite()
	b, _ := io.ReadAll(c)
	return string(b)
}

// said collects words for the person.
type said struct {
	mu    sync.Mutex
	lines []string
}

func (s *said) say(line string) { s.mu.Lock(); defer s.mu.Unlock(); s.lines = append(s.lines, line) }

func (s *said) all() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.lines, "\n")
}

// start sets forwards up over a connection to f.
func start(t testing.TB, f *far, cfg forward.Config) (*forward.Forwarder, error) {
	t.Helper()
	fw := forward.New(cfg)
	if err := fw.Listen(); err != nil {
		return fw, err
	}
	t.Cleanup(func() { fw.Close(); f.client.Close(); fw.Wait() })
	return fw, fw.Start(f.client)
}

func free(t testing.TB) uint16 {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return uint16(l.Addr().(*net.TCPAddr).Port)
}

func local(addr net.Addr) forward.Addr {
	return port("127.0.0.1", uint16(addr.(*net.TCPAddr).Port))
}

func TestForwardsBothWaysWithPortsAndSockets(t *testing.T) {
	dir := t.TempDir()
	tcp, unix := local(echo(t, "tcp", "127.0.0.1:0")), socket(filepath.Join(dir, "service"))
	echo(t, "unix", unix.Path)
	for name, to := range map[string]forward.Addr{"a port": tcp, "a socket": unix} {
		for kind, from := range map[string]forward.Addr{"a port": port("127.0.0.1", free(t)), "a socket": socket(filepath.Join(dir, strings.ReplaceAll(name, " ", "-")))} {
			rule := []forward.Rule{{From: from, To: to}}
			network := "tcp"
			if from.Path != "" {
				network = "unix"
			}
			for way, cfg := range map[string]forward.Config{"-L": {Local: rule}, "-R": {Remote: rule}} {
				t.Run(way+" from "+kind+" to "+name, func(t *testing.T) {
					var s said
					cfg.Notify = s.say
					f := newTestNode(t)
					if _, err := start(t, f, cfg); err != nil {
						t.Fatal(err)
					}
					for range 2 {
						if got := ask(t, network, from.String(), "", 0); got != "echo hello" {
							t.Errorf("got %q, want the echo, after a half-close (%s)", got, s.all())
						}
					}
				})
			}
		}
	}
}

func TestManyForwardsAndConnectionsAtOnce(t *testing.T) {
	to := local(echo(t, "tcp", "127.0.0.1:0"))
	var cfg forward.Config
	cfg.Notify = func(s string) { t.Error(s) }
	for range 8 {
		cfg.Local = append(cfg.Local, forward.Rule{From: port("127.0.0.1", free(t)), To: to})
	}
	fw, err := start(t, newTestNode(t), cfg)
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for i := range 64 {
		all.Go(func() {
			if got := ask(t, "tcp", cfg.Local[i%8].From.String(), "", 0); got != "echo hello" {
				t.Errorf("got %q, want the echo", got)
			}
		})
	}
	all.Wait()
	fw.Close()
	fw.Drain(t.Context())
	if n := fw.Open(); n != 0 {
		t.Errorf("got %d connections open, want none left", n)
	}
}

func TestDynamicForwards(t *testing.T) {
	to := local(echo(t, "tcp", "127.0.0.1:0"))
	hi, lo := string([]byte{byte(to.Port >> 8)}), string([]byte{byte(to.Port)})
	var s said
	f := newTestNode(t)
	here, there := port("127.0.0.1", free(t)), port("127.0.0.1", free(t))
	if _, err := start(t, f, forward.Config{Local: []forward.Rule{{From: here}}, Remote: []forward.Rule{{From: there}}, Notify: s.say}); err != nil {
		t.Fatal(err)
	}
	for way, from := range map[string]forward.Addr{"-D": here, "-R without a target": there} {
		for version, tt := range map[string]struct {
			before string
			answer int
		}{
			"4":  {"\x04\x01" + hi + lo + "\x7f\x00\x00\x01me\x00", 8},
			"4a": {"\x04\x01" + hi + lo + "\x00\x00\x00\x01\x00127.0.0.1\x00", 8},
			"5":  {"\x05\x01\x00\x05\x01\x00\x03\x09127.0.0.1" + hi + lo, 12},
		} {
			if got := ask(t, "tcp", from.String(), tt.before, tt.answer); got != "echo hello" {
				t.Errorf("%s, SOCKS %s: got %q, want the echo", way, version, got)
			}
		}
	}
	f.mu.Lock()
	f.refuse = "role ops does not allow forward-local"
	f.mu.Unlock()
	if got := ask(t, "tcp", here.String(), "\x05\x01\x00\x05\x01\x00\x03\x02db\x00\x50", 12); got != "" {
		t.Errorf("got %q, want a refusal and the end", got)
	}
	if !strings.Contains(
		s.all(),
		"no connection to db:80 by way of the node: role ops does not allow forward-local",
	) {
		t.Errorf("got %q said, want the node's reason", s.all())
	}
}

func TestLocalListenersAreLoopbackAndPrivate(t *testing.T) {
	r, err := forward.ParseLocal(fmt.Sprintf("%d:localhost:80", free(t)))
	if err != nil {
		t.Fatal(err)
	}
	sock := filepath.Join(t.TempDir(), "s")
	fw := forward.New(forward.Config{Local: []forward.Rule{r, {From: socket(sock), To: r.To}}})
	if err := fw.Listen(); err != nil {
		t.Fatal(err)
	}
	defer fw.Close()
	if fw.Addrs()[0].String() != fmt.Sprintf("127.0.0.1:%d", r.From.Port) {
		t.Errorf("got %v, want 127.0.0.1 whatever a name server says of localhost", fw.Addrs())
	}
	for _, a := range fw.Addrs() {
		if tcp, ok := a.(*net.TCPAddr); ok && !tcp.IP.IsLoopback() {
			t.Errorf("got %s listened to, want loopback", a)
		}
	}
	if info, err := os.Stat(sock); err != nil || info.Mode().Perm()&0o077 != 0 {
		t.Errorf("got mode %v, %v, want a socket for its owner alone", info.Mode(), err)
	}
}

func TestForwardsThatFailAreReportedAtOnce(t *testing.T) {
	taken := local(echo(t, "tcp", "127.0.0.1:0"))
	sock := filepath.Join(t.TempDir(), "s")
	echo(t, "unix", sock)
	for name, from := range map[string]forward.Addr{"a port in use": taken, "a socket in use": socket(sock), "no address of this machine": port("203.0.113.1", 8080)} {
		fw := forward.New(forward.Config{
			Local: []forward.Rule{{From: port("127.0.0.1", free(t)), To: taken}, {From: from, To: taken}},
		})
		if err := fw.Listen(); err == nil || fault.Remedy(err) == "" {
			t.Errorf("%s: got %v, want an error with what to do", name, err)
		}
	}
	f := newTestNode(t)
	f.refuse = "role ops does not allow forward-remote"
	_, err := start(
		t,
		f,
		forward.Config{
			Remote: []forward.Rule{{From: port("localhost", 8080), To: taken}},
			Notify: func(string) {},
		},
	)
	if !fault.Is(err, fault.Denied) ||
		!strings.Contains(
			err.Error(),
			"the node does not listen on localhost:8080: role ops does not allow forward-remote",
		) {
		t.Errorf("got %v, want the node's reason", err)
	}
	f = newTestNode(t)
	f.refuse = "role ops does not allow forward-remote (ask an administrator)"
	_, err = start(
		t,
		f,
		forward.Config{
			Remote: []forward.Rule{{From: port("localhost", 8080), To: taken}},
			Notify: func(string) {},
		},
	)
	if got := fault.Message(err); !strings.HasSuffix(got, "allow forward-remote") ||
		fault.Remedy(err) != "ask an administrator" {
		t.Errorf("got %q and %q, want the node's own remedy for a hint", got, fault.Remedy(err))
	}
}

func TestPortChosenByTheNodeIsReported(t *testing.T) {
	to := local(echo(t, "tcp", "127.0.0.1:0"))
	var s said
	if _, err := start(t, newTestNode(t), forward.Config{Remote: []forward.Rule{{From: port("localhost", 0), To: to}}, Notify: s.say}); err != nil {
		t.Fatal(err)
	}
	words := strings.Fields(s.all()) // port N of the node …
	if len(words) < 2 {
		t.Fatalf("got %q, want the port", s.all())
	}
	if got := ask(t, "tcp", "127.0.0.1:"+words[1], "", 0); got != "echo hello" {
		t.Errorf("got %q, want the echo", got)
	}
}

// A node that was asked for nothing opens no way to this machine.
func TestChannelsThatWereNotRequestedAreRejected(t *testing.T) {
	to := local(echo(t, "tcp", "127.0.0.1:0"))
	f := newTestNode(t)
	if _, err := start(t, f, forward.Config{Remote: []forward.Rule{{From: port("localhost", free(t)), To: to}}, Notify: func(string) {}}); err != nil {
		t.Fatal(err)
	}
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
		if _, _, err := f.conn.OpenChannel(kind, extra); err == nil {
			t.Errorf("%s: got opened, want refused", kind)
		}
	}
	for _, garbage := range [][]byte{nil, {0, 0, 0, 9}} {
		if _, _, err := f.conn.OpenChannel("forwarded-tcpip", garbage); err == nil {
			t.Errorf("%q: got opened, want refused", garbage)
		}
	}
}

// A node that opens one way after the other to this side gets no more than its programs could need.
func TestConnectionsFromTheNodeAreBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agent")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	var held sync.WaitGroup
	held.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			held.Go(func() { // an agent that answers everything with a failure, and waits for more
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
			})
		}
	})
	t.Cleanup(func() { l.Close(); held.Wait() })
	var s said
	f := newTestNode(t)
	if _, err := start(t, f, forward.Config{Agent: path, Notify: s.say}); err != nil {
		t.Fatal(err)
	}
	open := func() (ssh.Channel, error) {
		ch, reqs, err := f.conn.OpenChannel("auth-agent@openssh.com", nil)
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
	if got := s.all(); strings.Count(got, "\n") != 0 || !strings.Contains(got, "more than 256 connections") {
		t.Errorf("got %q said, want it told once", got)
	}
	_ = last.Close()
	for late := time.Now().Add(10 * time.Second); ; {
		if _, err := open(); err == nil {
			break
		} else if time.Now().After(late) {
			t.Fatalf("got %v once one had ended, want a place", err)
		}
	}
}

// A path that begins with @ is a file's: an abstract socket would be everybody's.
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
	if info, err := os.Lstat("@/s"); err != nil || info.Mode().Type() != os.ModeSocket ||
		info.Mode().Perm()&0o077 != 0 {
		t.Errorf("got %v, %v, want a socket of its owner's alone at @/s", info, err)
	}
}

// What lies where a socket shall be stays, a link is not followed.
func TestNoListenerReplacesAFileOrFollowsALink(t *testing.T) {
	dir := t.TempDir()
	for name, make := range map[string]func(string) error{
		"a file":          func(p string) error { return os.WriteFile(p, []byte("mine"), 0o600) },
		"a dangling link": func(p string) error { return os.Symlink(filepath.Join(dir, "elsewhere"), p) },
	} {
		path := filepath.Join(dir, strings.ReplaceAll(name, " ", "-"))
		if err := make(path); err != nil {
			t.Fatal(err)
		}
		fw := forward.New(forward.Config{Local: []forward.Rule{{From: socket(path), To: port("db", 80)}}})
		if err := fw.Listen(); err == nil || fault.Remedy(err) == "" {
			t.Errorf("%s: got %v, want it refused with what to do", name, err)
		}
		fw.Close()
		if _, err := os.Lstat(path); err != nil {
			t.Errorf("%s: got %v, want it still there", name, err)
		}
	}
	if _, err := os.Lstat(filepath.Join(dir, "elsewhere")); err == nil {
		t.Error("got a socket where the link leads, want none")
	}
}

func TestDrainLetsConnectionsEnd(t *testing.T) {
	to := local(echo(t, "tcp", "127.0.0.1:0"))
	from := port("127.0.0.1", free(t))
	fw, err := start(
		t,
		newTestNode(t),
		forward.Config{Local: []forward.Rule{{From: from, To: to}}, Notify: func(string) {}},
	)
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("tcp", from.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, _ = io.WriteString(c, "x")
	for tick := time.NewTicker(time.Millisecond); fw.Open() == 0; <-tick.C {
	}
	fw.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	fw.Drain(ctx) // returns although one is open
	if fw.Open() != 1 {
		t.Errorf("got %d open, want the one", fw.Open())
	}
	_ = c.(end).CloseWrite()
	if b, _ := io.ReadAll(c); !bytes.Equal(b, []byte("echo x")) {
		t.Errorf("got %q, want the echo although no more connections are taken", b)
	}
	fw.Drain(t.Context())
	if _, err := net.Dial("tcp", from.String()); err == nil {
		t.Error("got a new connection, want none after Close")
	}
}
