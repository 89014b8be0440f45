package sshd_test

import (
	"bufio"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/audit"
)

// startStalled starts a program of whose output nobody reads more than the first line: its process id.
func startStalled(t *testing.T, c *ssh.Client) (*ssh.Session, int) {
	t.Helper()
	s := newSession(t, c)
	out, err := s.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	startProgram(t, s, "echo $$; exec yes")
	line, err := bufio.NewReaderSize(io.LimitReader(out, 16), 16).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	return s, pid
}

func processGone(pid int) bool { return syscall.Kill(pid, 0) == syscall.ESRCH }

// A client that reads nothing of one session is refused many things on it. Other sessions must not notice.
func TestUnreadRefusalsDoNotBlockTheConnection(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	c := f.client()
	s, pid := startStalled(t, c)
	command := execPayload("true")
	// Each of these is refused with a message for which the window has no space. They are more than fit into
	// any queue.
	for range 100 {
		if _, err := s.SendRequest("exec", false, command); err != nil {
			t.Fatal(err)
		}
		if _, err := s.SendRequest("auth-agent-req@openssh.com", false, nil); err != nil {
			t.Fatal(err)
		}
	}
	if got := run(t, c, "echo still here", ""); got.out != "still here\n" {
		t.Errorf("got %+v while another session is stalled, want an answer", got)
	}
	c.Close()
	f.awaitClosed(t)
	if !processGone(pid) {
		t.Error("got the program of a closed connection still there, want it ended")
	}
}

// Refusals beyond a bound are neither audited nor logged one by one.
func TestAFloodOfRefusalsIsAuditedInPart(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	f.allow(fullRole("ops", "exec"))
	c := f.client()
	for range 500 {
		ch, _, err := c.OpenChannel("direct-tcpip", nil)
		if err == nil {
			ch.Close()
			t.Fatal("got a local forward, want it refused")
		}
		if ok, _, _ := c.SendRequest("tcpip-forward", true, nil); ok {
			t.Fatal("got a remote forward, want it refused")
		}
	}
	if n := len(f.recorded(audit.SessionRefused)); n == 0 || n > 100 {
		t.Errorf("got %d events of 1000 refusals on one connection, want more than 0 and at most 100", n)
	}
	if !strings.Contains(f.logged(), "further refusals on this connection are not recorded") {
		t.Error("the log does not say that refusals are left out")
	}
	if got := run(t, c, "echo still here", ""); got.out != "still here\n" {
		t.Errorf("got %+v after the flood, want the connection to go on", got)
	}
}

func TestHandshakesOfOneAddressDoNotBlockOthers(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	elsewhere := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}
	for i := range 80 {
		conn, err := elsewhere.Dial("tcp", f.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if i < 16 { // these use up the quota of their address; the others wait
			_, _ = conn.Read(make([]byte, 4))
		}
	}
	f.client()
}

func TestManySimultaneousLoginsAllSucceed(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	signer := f.signer()
	var all sync.WaitGroup
	for range 60 {
		all.Go(func() {
			if _, banner, err := f.dial(testAccount(), signer); err != nil {
				t.Errorf("got %v (%s), want every client logged in", err, banner)
			}
		})
	}
	all.Wait()
}

// encode writes values as SSH does (RFC 4251 section 5).
func encode(parts ...any) (b []byte) {
	for _, p := range parts {
		switch p := p.(type) {
		case string:
			b = append(b, ssh.Marshal(struct{ S string }{p})...)
		case uint32:
			b = append(b, ssh.Marshal(struct{ N uint32 }{p})...)
		case []byte:
			b = append(b, p...)
		}
	}
	return b
}

// Each of these requests gets an answer, and the connection goes on after it. None may cause a panic or put
// escape sequences into the log.
func TestMalformedRequestPayloads(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	c := f.client()
	const most = ^uint32(0)
	long := strings.Repeat("A", 100<<10)
	manyModes := strings.Repeat("\x35\x00\x00\x00\x01", 10_000)
	for name, req := range map[string]struct {
		name    string
		payload []byte
	}{
		"a terminal without a payload": {"pty-req", nil},
		"a terminal cut short":         {"pty-req", encode("xterm", uint32(80))},
		"a terminal of no size": {
			"pty-req",
			encode("xterm", uint32(0), uint32(0), uint32(0), uint32(0), ""),
		},
		"a terminal without bounds": {
			"pty-req",
			encode("xterm", most, most, most, most, "\x80\xff\xff\xff\xff\x01"),
		},
		"a terminal with many modes": {
			"pty-req",
			encode("xterm", uint32(80), uint32(24), uint32(0), uint32(0), manyModes),
		},
		"modes cut short": {
			"pty-req",
			encode("xterm", uint32(80), uint32(24), uint32(0), uint32(0), "\x35\x00"),
		},
		"a terminal of a type that is a path": {
			"pty-req",
			encode("../../etc/passwd\x00", uint32(80), uint32(24), uint32(0), uint32(0), ""),
		},
		"a length beyond the payload": {"pty-req", []byte{0xff, 0xff, 0xff, 0xff, 'x'}},
		"a window of no size": {
			"window-change",
			encode(uint32(0), uint32(0), uint32(0), uint32(0)),
		},
		"a window without bounds":                    {"window-change", encode(most, most, most, most)},
		"a window cut short":                         {"window-change", encode(uint32(1))},
		"a variable cut short":                       {"env", encode("LANG")},
		"a long variable":                            {"env", encode("LANG", long)},
		"a variable with a line's end":               {"env", encode("LANG", "C\nLD_PRELOAD=/tmp/x.so")},
		"a variable whose name is another's":         {"env", encode("LANG=C\x00LD_PRELOAD", "x")},
		"a signal without a name":                    {"signal", encode("")},
		"a signal by its number":                     {"signal", encode("9")},
		"a signal before there is a program":         {"signal", encode("KILL")},
		"a long signal":                              {"signal", encode(long)},
		"a subsystem cut short":                      {"subsystem", []byte{0, 0}},
		"a subsystem without a name":                 {"subsystem", encode("")},
		"a command cut short":                        {"exec", []byte{0, 0, 0, 9, 'x'}},
		"a command with a NUL":                       {"exec", encode("true\x00false")},
		"a command that is too long":                 {"exec", encode(strings.Repeat("A", 125<<10))},
		"a request with a long name":                 {long, nil},
		"a request whose name is an escape sequence": {"\x1b]0;x\x07", nil},
	} {
		s := newSession(t, c)
		_, err := s.SendRequest(req.name, true, req.payload)
		if err != nil && err != io.EOF { // a refused program ends its channel
			t.Errorf("%s: got %v, want an answer", name, err)
		}
		s.Close()
		if got := run(t, c, "echo alive", ""); got.out != "alive\n" {
			t.Fatalf("%s: got %+v after it, want the connection to go on", name, got)
		}
	}
	s := newSession(t, c)
	for i := range 1000 {
		name := "LC_" + strings.Repeat("A", 1+i/26%30) + string(rune('A'+i%26))
		if _, err := s.SendRequest("env", false, encode(name, "x")); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := s.Output("env | grep -c ^LC_"); strings.TrimSpace(string(out)) != "64" {
		t.Errorf("got %s variables of 1000 into a session (%v), want 64", out, err)
	}
	if strings.Contains(f.logged(), "panic on a connection") || strings.Contains(f.logged(), "\x1b") {
		t.Errorf("got a panic or an escape sequence in the log:\n%s", f.logged())
	}
}
