package sshd_test

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/audit"
)

// Output, input and exit of commands arrive as with OpenSSH.
func TestACommandRunsAndReportsItsExit(t *testing.T) {
	t.Parallel()
	c := newFixture(t, nil).client()
	for _, tt := range []struct {
		name, command, stdin string
		want                 result
	}{
		{"output", "echo hello", "", result{out: "hello\n"}},
		{"stdout and stderr stay apart", "echo out; echo err >&2", "", result{out: "out\n", err: "err\n"}},
		{"exit status", "exit 42", "", result{status: 42}},
		{"exit status 255", "exit 255", "", result{status: 255}},
		{"a command that is not there", "/no/such/program 2>/dev/null", "", result{status: 127}},
		{"death by signal", "kill -TERM $$", "", result{status: 0, signal: "TERM"}},
		{"death by kill", "kill -9 $$", "", result{signal: "KILL"}},
		{"stdin to its end", "cat; echo done", "abc", result{out: "abcdone\n"}},
		{"no stdin at all", "cat </dev/null", "", result{}},
		{"a login shell's quoting", `printf '%s|' "a b" 'c"d' \$x`, "", result{out: `a b|c"d|$x|`}},
		{
			"output of a child that lives longer", "(sleep 0.2; echo late) & echo soon", "",
			result{out: "soon\nlate\n"},
		},
		{"NUL bytes", `printf 'a\0b'`, "", result{out: "a\x00b"}},
		{"nothing", "true", "", result{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := run(t, c, tt.command, tt.stdin)
			if tt.want.signal != "" {
				got.status = 0 // x/crypto invents one
			}
			if got != tt.want {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
		})
	}
}

// Clients may set locales only, and a program gets nothing of the environment of the node.
func TestTheEnvironmentIsClean(t *testing.T) {
	t.Setenv("NODE_SECRET", "must not be seen")
	f := newFixture(t, nil)
	s := newSession(t, f.client())
	for _, v := range [][2]string{{"LANG", "C.UTF-8"}, {"LC_TIME", "ko_KR.UTF-8"}} {
		if err := s.Setenv(v[0], v[1]); err != nil {
			t.Errorf("%s: got %v, want it allowed", v[0], err)
		}
	}
	for _, name := range []string{
		"LD_PRELOAD", "LD_LIBRARY_PATH", "PATH", "HOME", "BASH_ENV", "ENV", "IFS", "PYTHONPATH", "PERL5LIB",
		"LC_", "LANGUAGE", "LC_X\nY", "THRESHOLD_USER",
	} {
		if err := s.Setenv(name, "x"); err == nil {
			t.Errorf("%s: got it allowed, want refused", name)
		}
	}
	if err := s.Setenv("LC_ALL", "../../tmp/x"); err == nil {
		t.Error("a locale that is a path: got it allowed, want refused")
	}
	out, err := s.Output("env")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"LANG=C.UTF-8", "LC_TIME=ko_KR.UTF-8", "HOME=" + f.home(), "USER=" + testAccount(),
		"LOGNAME=" + testAccount(), "THRESHOLD_USER=alice@example.com", "THRESHOLD_NODE=web-1",
		"PATH=/usr/local",
	} {
		if !strings.Contains("\n"+string(out), "\n"+want) {
			t.Errorf("got no %s in %s", want, out)
		}
	}
	for _, hidden := range []string{
		"NODE_SECRET", "LD_PRELOAD", "LD_LIBRARY_PATH", "BASH_ENV", "GOCOVERDIR",
	} {
		if strings.Contains(string(out), hidden) {
			t.Errorf("got %s in the environment:\n%s", hidden, out)
		}
	}
}

func TestEightMegabytesRoundTrip(t *testing.T) {
	t.Parallel()
	data := make([]byte, 8<<20)
	_, _ = rand.Read(data)
	f := newFixture(t, nil)
	got := run(t, f.client(), "cat", string(data))
	if sha256.Sum256([]byte(got.out)) != sha256.Sum256(data) {
		t.Errorf("got %d bytes back, want the same %d", len(got.out), len(data))
	}
	end, size := bodyOf[audit.SessionEnd](t, f.awaitEnd(t)), int64(len(data))
	if end.BytesIn != size || end.BytesOut != size || !hasStatus(end, 0) {
		t.Errorf("got %+v, want both byte counts %d and status 0", end, size)
	}
}

// The events of one session say who ran what, from where, by which rule, and how it ended.
func TestStartAndEndAreAudited(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	run(t, f.client(), "exit 3", "")
	end := bodyOf[audit.SessionEnd](t, f.awaitEnd(t))
	event := f.recorded(audit.SessionStarted)[0]
	start := bodyOf[audit.SessionStart](t, event)
	for what, pair := range map[string][2]string{
		"user":       {event.Actor.Name, "alice@example.com"},
		"connector":  {event.Actor.Connector, "corp"},
		"subject":    {event.Actor.Subject, "sub-alice@example.com"},
		"machine":    {event.Machine.Name, "web-1"},
		"proxy":      {event.Proxy.Name, "proxy-1"},
		"proxy id":   {string(event.Proxy.ID), string(proxyID)},
		"connection": {string(event.Connection), string(connectionID)},
		"login":      {string(start.Login), testAccount()},
		"rule":       {start.Rule, "role ops, allow 1"},
		"command":    {start.Command, "exit 3"},
		"program":    {start.Program, "exec"},
		"protocol":   {start.Protocol, "dial"},
	} {
		if pair[0] != pair[1] {
			t.Errorf("got the %s %q in the event of the start, want %q", what, pair[0], pair[1])
		}
	}
	if start.Session == "" || !strings.HasPrefix(event.From, "127.0.0.1:") {
		t.Errorf("got start %+v, want a session id and the client's address", event)
	}
	if end.Session != start.Session || !hasStatus(end, 3) {
		t.Errorf("got end %+v, want session %s with status 3", end, start.Session)
	}
}

func TestSignalsReachTheProcessGroup(t *testing.T) {
	t.Parallel()
	c := newFixture(t, nil).client()
	s := newSession(t, c)
	out, err := s.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	startProgram(t, s, `trap 'echo caught; exit 7' USR1; echo ready; while :; do sleep 0.05; done`)
	readLine(t, out, "ready")
	if err := s.Signal(ssh.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	readLine(t, out, "caught")
	if err, ok := s.Wait().(*ssh.ExitError); !ok || err.ExitStatus() != 7 {
		t.Errorf("got %v, want exit status 7", err)
	}
}

// readLine reads one line of a program's output, which must be want.
func readLine(t *testing.T, r io.Reader, want string) {
	t.Helper()
	got := make(chan string, 1)
	go func() {
		var line []byte
		var b [1]byte
		for {
			if _, err := r.Read(b[:]); err != nil || b[0] == '\n' {
				got <- strings.TrimRight(string(line), "\r")
				return
			}
			line = append(line, b[0])
		}
	}()
	if line := receive(t, want, got); line != want {
		t.Fatalf("got line %q, want %q", line, want)
	}
}

// A program on a terminal gets its size, type and modes, and later changes of the size.
func TestATerminal(t *testing.T) {
	t.Parallel()
	c := newFixture(t, nil).client()
	s := newSession(t, c)
	modes := ssh.TerminalModes{ssh.ECHO: 0, ssh.TTY_OP_ISPEED: 38400}
	if err := s.RequestPty("xterm-256color", 24, 80, modes); err != nil {
		t.Fatal(err)
	}
	in, _ := s.StdinPipe()
	out, _ := s.StdoutPipe()
	startProgram(t, s, `test -t 0 && test -t 1 && test -t 2 && echo tty; stty size; echo $TERM
		read line; echo "got $line"
		trap 'stty size; exit 5' WINCH; echo armed; while :; do sleep 0.05; done`)
	for _, want := range []string{"tty", "24 80", "xterm-256color"} {
		readLine(t, out, want)
	}
	fmt.Fprintln(in, "input")
	readLine(t, out, "got input")
	readLine(t, out, "armed")
	if err := s.WindowChange(50, 132); err != nil {
		t.Fatal(err)
	}
	readLine(t, out, "50 132")
	if err, ok := s.Wait().(*ssh.ExitError); !ok || err.ExitStatus() != 5 {
		t.Errorf("got %v, want exit status 5", err)
	}
}

func TestAShellWithATerminalIsALoginShellAndEndsWithItsInput(t *testing.T) {
	t.Parallel()
	c := newFixture(t, nil).client()
	s := newSession(t, c)
	requestTerminal(t, s, "dumb")
	var out bytes.Buffer
	s.Stdout, s.Stdin = &out, strings.NewReader("echo zero=$0 $((40+2))\nexit 9\n")
	if err := s.Shell(); err != nil {
		t.Fatal(err)
	}
	if err, ok := s.Wait().(*ssh.ExitError); !ok || err.ExitStatus() != 9 {
		t.Errorf("got %v, want exit status 9", err)
	}
	if !strings.Contains(out.String(), "zero=-") || !strings.Contains(out.String(), " 42") {
		t.Errorf("got %q, want a login shell that answers", out.String())
	}
}

func TestControlCReachesTheProgramInTheTerminal(t *testing.T) {
	t.Parallel()
	c := newFixture(t, nil).client()
	s := newSession(t, c)
	requestTerminal(t, s, "dumb")
	in, _ := s.StdinPipe()
	out, _ := s.StdoutPipe()
	startProgram(t, s, `trap 'exit 11' INT; echo ready; while :; do sleep 0.05; done`)
	readLine(t, out, "ready")
	fmt.Fprint(in, "\x03")
	if err, ok := s.Wait().(*ssh.ExitError); !ok || err.ExitStatus() != 11 {
		t.Errorf("got %v, want exit status 11", err)
	}
}

// The client vanishes while a program runs: its whole process group must end.
func TestNoProcessIsLeftWhenTheConnectionCloses(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, command string }{
		{"a program that ends on SIGHUP", `echo $$; exec sleep 1000`},
		{
			"a program that ignores SIGHUP, and its child",
			`trap '' HUP; echo $$; sleep 1000 & while :; do sleep 1; done`,
		},
	} {
		for _, terminal := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, terminal %v", tt.name, terminal), func(t *testing.T) {
				t.Parallel()
				f := newFixture(t, nil)
				c := f.client()
				s := newSession(t, c)
				if terminal {
					requestTerminal(t, s, "dumb")
				}
				out, _ := s.StdoutPipe()
				startProgram(t, s, tt.command)
				var pid int
				if _, err := fmt.Fscanln(out, &pid); err != nil {
					t.Fatal(err)
				}
				c.Close()
				eventually(t, "the process group is gone", func() bool { return processGone(-pid) })
				f.awaitEnd(t)
			})
		}
	}
}

// The server part of an editor must survive a lost connection, so that the editor can reconnect to it.
func TestProgramsStartedWithNohupSurvive(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	c := f.client()
	s := newSession(t, c)
	out, _ := s.StdoutPipe()
	startProgram(t, s, `nohup sleep 1000 >/dev/null 2>&1 </dev/null &
		while ! grep -qs '^SigIgn:.*[13579bdf]$' /proc/$!/status; do sleep 0.01; done
		echo $!; wait`)
	var pid int
	if _, err := fmt.Fscanln(out, &pid); err != nil {
		t.Fatal(err)
	}
	c.Close()
	f.awaitEnd(t)
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Errorf("got %v, want the process still there", err)
	}
}

func TestServerShutdownHangsUpSessions(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	c := f.client()
	s := newSession(t, c)
	out, _ := s.StdoutPipe()
	startProgram(t, s, `echo ready; exec sleep 1000`)
	readLine(t, out, "ready")
	f.cancel()
	if err := c.Wait(); err == nil {
		t.Error("got no error from the connection, want it closed")
	}
	if got := bodyOf[audit.SessionEnd](t, f.awaitEnd(t)); got.Signal != "HUP" || got.Status != nil {
		t.Errorf("got %+v, want the signal HUP in place of a status", got)
	}
}

// An SFTP client writes a file with a space in its name, lists it and reads it back.
func TestFilesRoundTripOverSFTP(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	c, err := sftp.NewClient(f.client())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	dir := t.TempDir()
	data := make([]byte, 3<<20)
	_, _ = rand.Read(data)
	file, err := c.Create(filepath.Join(dir, "a file with spaces"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := file.ReadFrom(bytes.NewReader(data)); err != nil {
		t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	list, err := c.ReadDir(dir)
	if err != nil || len(list) != 1 || list[0].Name() != "a file with spaces" ||
		list[0].Size() != int64(len(data)) {
		t.Errorf("got %v, %v, want the one file of %d bytes", list, err, len(data))
	}
	copied, err := c.Open(filepath.Join(dir, "a file with spaces"))
	if err != nil {
		t.Fatal(err)
	}
	var back bytes.Buffer
	if _, err := copied.WriteTo(&back); err != nil || !bytes.Equal(back.Bytes(), data) {
		t.Errorf("got %d bytes back (%v), want the same %d", back.Len(), err, len(data))
	}
	copied.Close()
	if wd, err := c.Getwd(); err != nil || wd != f.home() {
		t.Errorf("got working directory %q (%v), want %q", wd, err, f.home())
	}
	c.Close()
	f.awaitEnd(t)
}

func TestManySessionsOnOneConnection(t *testing.T) {
	t.Parallel()
	c := newFixture(t, nil).client()
	done := make(chan result, 20)
	for i := range 20 {
		go func() { done <- run(t, c, fmt.Sprintf("echo %d; exit %d", i, i), "") }()
	}
	sum := 0
	for range 20 {
		sum += receive(t, "a session", done).status
	}
	if sum != 190 {
		t.Errorf("got statuses that sum to %d, want 190", sum)
	}
}
