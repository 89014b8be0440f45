package sshd_test

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
)

// Without the extension the command runs all the same, without a terminal, and the user is told why.
func TestATerminalNeedsThePermitPTYExtension(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	for name, tt := range map[string]struct {
		extensions map[string]string
		allowed    bool
	}{
		"with permit-pty": {map[string]string{"permit-pty": ""}, true},
		"with other extensions": {
			map[string]string{"permit-agent-forwarding": "", "permit-pty@example.com": ""},
			false,
		},
	} {
		t.Run(name, func(t *testing.T) {
			cert := f.cluster.UserSigner(
				f.cluster.User("alice@example.com", "ops"),
				func(c *ssh.Certificate) {
					delete(c.Extensions, "permit-pty")
					for k, v := range tt.extensions {
						c.Extensions[k] = v
					}
				},
				testAccount(),
			)
			s := newSession(t, f.client(cert))
			var out, errs bytes.Buffer
			s.Stdout, s.Stderr = &out, &errs
			if err := s.RequestPty("vt100", 24, 80, nil); (err == nil) != tt.allowed {
				t.Errorf("got %v, want allowed %v", err, tt.allowed)
			}
			got := resultOf(t, s.Run("tty || true"), &out, &errs)
			if strings.HasPrefix(got.out, "/dev/pts/") != tt.allowed ||
				strings.Contains(got.err, "does not have the extension permit-pty") == tt.allowed {
				t.Errorf("got %+v, want a terminal: %v, or the command without one and the reason",
					got, tt.allowed)
			}
		})
	}
}

// A break needs a program with a terminal, and does not end the session.
func TestABreakIsSentToTheTerminal(t *testing.T) {
	t.Parallel()
	c := newFixture(t, nil).client()
	for _, terminal := range []bool{true, false} {
		s := newSession(t, c)
		if terminal {
			requestTerminal(t, s, "vt100")
		}
		length := ssh.Marshal(struct{ Milliseconds uint32 }{500})
		if ok, err := s.SendRequest("break", true, length); err != nil || ok {
			t.Errorf("terminal %v: got %v, %v before there is a program, want a refusal", terminal, ok, err)
		}
		in, _ := s.StdinPipe()
		out, _ := s.StdoutPipe()
		startProgram(t, s, "echo ready; read line; echo got $line")
		readLine(t, out, "ready")
		if ok, err := s.SendRequest("break", true, length); err != nil || ok != terminal {
			t.Errorf("terminal %v: got %v, %v", terminal, ok, err)
		}
		fmt.Fprintln(in, "on")
		if rest, err := io.ReadAll(out); err != nil || !strings.Contains(string(rest), "got on") {
			t.Errorf("terminal %v: got %q, %v, want the session to go on", terminal, rest, err)
		}
	}
}

// Every signal of RFC 4254 section 6.9 reaches the program, and its end by that signal is reported by name.
func TestEverySignalIsDeliveredAndReported(t *testing.T) {
	t.Parallel()
	c := newFixture(t, nil).client()
	for _, sig := range []ssh.Signal{
		ssh.SIGABRT, ssh.SIGALRM, ssh.SIGFPE, ssh.SIGHUP, ssh.SIGILL, ssh.SIGINT, ssh.SIGKILL, ssh.SIGPIPE,
		ssh.SIGQUIT, ssh.SIGSEGV, ssh.SIGTERM, ssh.SIGUSR1, ssh.SIGUSR2,
	} {
		s := newSession(t, c)
		out, _ := s.StdoutPipe()
		startProgram(t, s, "exec /bin/sh -c 'ulimit -c 0; echo ready; exec sleep 20'") // bash ignores QUIT
		readLine(t, out, "ready")
		if err := s.Signal(sig); err != nil {
			t.Errorf("%s: %v", sig, err)
		}
		if err, ok := s.Wait().(*ssh.ExitError); !ok || err.Signal() != string(sig) {
			t.Errorf("%s: got %v, want it to end the program", sig, err)
		}
	}
}

func TestASessionWaitsForHoldersOfItsOutputUnlessItHasATerminal(t *testing.T) {
	t.Parallel()
	c := newFixture(t, nil).client()
	if got := run(t, c, "(sleep 0.3; echo late) & echo soon", ""); got.out != "soon\nlate\n" {
		t.Errorf("got %+v, want the late output too, as with sshd", got)
	}
	const withoutOutput = "setsid sh -c 'exec >/dev/null 2>&1 </dev/null; sleep 5' & echo $!"
	if got := run(t, c, withoutOutput, ""); got.status != 0 || got.out == "" {
		t.Errorf("got %+v, want an end at once, because no process has the output open", got)
	}
	s := newSession(t, c)
	requestTerminal(t, s, "vt100")
	out, err := s.Output("setsid sh -c 'trap \"\" HUP; sleep 5' & echo soon")
	if err != nil || string(out) != "soon\r\n" {
		t.Errorf("got %q, %v, want the end of the terminal to end it", out, err)
	}
}
