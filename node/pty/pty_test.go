package pty_test

import (
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/node/pty"
)

// payload makes the payload of a pty-req.
func payload(term string, cols, rows uint32, modes string) []byte {
	return ssh.Marshal(struct {
		Term       string
		Cols, Rows uint32
		W, H       uint32
		Modes      string
	}{term, cols, rows, 0, 0, modes})
}

// A terminal type that a program could take for a path or print as an escape becomes "dumb". Only a malformed
// payload is an error.
func TestParseRequest(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		in   []byte
		term string
		bad  bool
	}{
		{"an ordinary request", payload("xterm-256color", 80, 24, "\x00"), "xterm-256color", false},
		{"no type", payload("", 80, 24, ""), "dumb", false},
		{"a type that is a path", payload("../../etc/passwd", 80, 24, ""), "dumb", false},
		{"a type with an escape", payload("x\x1b[2J", 80, 24, ""), "dumb", false},
		{"a window that is too large", payload("vt100", 1<<31, 1<<31, ""), "vt100", false},
		{"modes cut short", payload("vt100", 80, 24, "\x35\x00"), "vt100", false},
		{"cut short", []byte{0, 0, 0, 9, 'x'}, "", true},
		{"empty", nil, "", true},
	} {
		r, err := pty.ParseRequest(tt.in)
		if (err != nil) != tt.bad || r.Term != tt.term {
			t.Errorf("%s: got %q, %v, want %q and an error %v", tt.name, r.Term, err, tt.term, tt.bad)
		}
	}
}

// runInTerminal runs a command in a terminal with the modes, and returns what it printed.
func runInTerminal(t *testing.T, modes string, command string) string {
	t.Helper()
	r, err := pty.ParseRequest(payload("vt100", 97, 31, modes))
	if err != nil {
		t.Fatal(err)
	}
	term, err := pty.Open(r, -1, -1, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer term.Close()
	cmd := exec.Command("/bin/sh", "-c", command)
	term.Attach(cmd)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	term.CloseSlave()
	_ = term.Master().SetReadDeadline(time.Now().Add(10 * time.Second))
	var out strings.Builder
	buf := make([]byte, 4096)
	for {
		n, err := term.Master().Read(buf)
		out.Write(buf[:n])
		if err != nil {
			break
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("%s: %v", command, err)
	}
	return out.String()
}

// Encoded modes: an opcode of RFC 4254 section 8 and a 32-bit value.
const (
	noEcho       = "\x35\x00\x00\x00\x00"
	noOpost      = "\x46\x00\x00\x00\x00"
	noIcanon     = "\x33\x00\x00\x00\x00"
	intrIsCtrlG  = "\x01\x00\x00\x00\x07"
	endOfModes   = "\x00"
	unknownModes = "\xff\x00\x00\x00\x01\x63\x00\x00\x00\x01"
)

func TestSizeAndModesAreApplied(t *testing.T) {
	t.Parallel()
	if got := runInTerminal(t, "", "stty size"); got != "31 97\r\n" {
		t.Errorf("got size %q, want 31 97", got)
	}
	got := runInTerminal(t, noEcho+noOpost+intrIsCtrlG+endOfModes, "stty -a")
	for _, want := range []string{"-echo ", "-opost", "intr = ^G"} {
		if !strings.Contains(got, want) {
			t.Errorf("got %q, want %q in it", got, want)
		}
	}
	if got := runInTerminal(t, unknownModes, "stty size"); got != "31 97\r\n" {
		t.Errorf("got %q with unknown modes, want them skipped", got)
	}
}

func TestTerminalIsTheControllingTerminal(t *testing.T) {
	t.Parallel()
	if got := runInTerminal(t, "", "echo ok >/dev/tty"); got != "ok\r\n" {
		t.Errorf("got %q, want ok from /dev/tty", got)
	}
}

func TestEndOfInputOnlyInCanonicalMode(t *testing.T) {
	t.Parallel()
	const ctrlD = 4
	for modes, want := range map[string]byte{"": ctrlD, noIcanon: 0} {
		r, _ := pty.ParseRequest(payload("vt100", 80, 24, modes))
		term, err := pty.Open(r, -1, -1, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		if got := term.EndOfInput(); got != want {
			t.Errorf("modes %q: got %d, want %d", modes, got, want)
		}
		term.Close()
		if got := term.EndOfInput(); got != 0 {
			t.Errorf("got %d from a closed terminal, want 0", got)
		}
	}
}

func FuzzParseRequest(f *testing.F) {
	f.Add(payload("xterm", 80, 24, "\x35\x00\x00\x00\x01\x00"))
	f.Add(payload("", 0, 0, strings.Repeat("\x01\xff\xff\xff\xff", 300)))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := pty.ParseRequest(b)
		if err == nil && (r.Term == "" || strings.ContainsAny(r.Term, "/ \n\x1b")) {
			t.Errorf("got terminal type %q", r.Term)
		}
		_, _ = pty.ParseSize(b)
	})
}
