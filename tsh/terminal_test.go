package tsh_test

import (
	"bytes"
	"io"
	"os"
	"reflect"
	"strings"
	"syscall"
	"testing"

	"github.com/creack/pty"
	"golang.org/x/crypto/ssh"
	"golang.org/x/term"

	"github.com/threshold-access/threshold/tsh"
)

// The tests in this file send signals to the whole process, so none of them is parallel.

// startAtTerminal runs tsh at a terminal of 101 columns and 33 rows. It returns the user's end of it, where
// keys are typed and output is read, tsh's end, and a channel for the exit code.
func (c *client) startAtTerminal(stderr io.Writer, args ...string) (user, tty *os.File, codes <-chan int) {
	c.t.Helper()
	user, tty, err := pty.Open()
	if err != nil {
		c.t.Fatal(err)
	}
	if err := pty.Setsize(user, &pty.Winsize{Rows: 33, Cols: 101}); err != nil {
		c.t.Fatal(err)
	}
	done := make(chan int, 1)
	go func() { done <- tsh.Main(c.t.Context(), c.environ(tty, tty, stderr, args)) }()
	c.t.Cleanup(func() { _ = tty.Close(); _ = user.Close() })
	return user, tty, done
}

// readUntil reads from r until it has read the text.
func readUntil(t *testing.T, r io.Reader, text string) {
	t.Helper()
	var seen []byte
	for b := make([]byte, 256); !strings.Contains(string(seen), text); {
		n, err := r.Read(b)
		if seen = append(seen, b[:n]...); err != nil {
			t.Fatalf("got %q, then %v, want %q", seen, err, text)
		}
	}
}

// sendSignal sends this process, and so tsh, a signal.
func sendSignal(t *testing.T, s syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(syscall.Getpid(), s); err != nil {
		t.Fatal(err)
	}
}

// At a terminal every key reaches the program as a byte, a new size is sent to the node, and ~. ends the
// connection.
func TestTerminalRawModeResizeAndDisconnect(t *testing.T) {
	tc := newTestCluster(t)
	node := tc.addNode("web-1")
	node.events = make(chan string, 8)
	node.command = func(_ string, ch ssh.Channel) ssh.Signal {
		_, _ = io.WriteString(ch, "ready\r\n")
		b := make([]byte, 64)
		for n, err := ch.Read(b); err == nil; n, err = ch.Read(b) {
			_, _ = ch.Write(bytes.ToUpper(b[:n]))
		}
		return ""
	}
	c := tc.loggedIn()
	var stderr bytes.Buffer
	user, _, codes := c.startAtTerminal(&stderr, "ssh", "web-1")
	readUntil(t, user, "ready")
	_, _ = io.WriteString(user, "x\x03y\r") // Ctrl-C is a byte for the node, not a signal for tsh
	readUntil(t, user, "X\x03Y")
	if err := pty.Setsize(user, &pty.Winsize{Rows: 20, Cols: 77}); err != nil {
		t.Fatal(err)
	}
	sendSignal(t, syscall.SIGWINCH)
	if got := <-node.events; got != "size 77x20" {
		t.Errorf("got %s, want the new size", got)
	}
	_, _ = io.WriteString(user, "~.")
	if code := <-codes; code != 255 || !strings.Contains(stderr.String(), "ended by ~.") {
		t.Errorf("got %d %q, want the connection ended by the user", code, stderr.String())
	}
}

// A signal ends tsh at a terminal, and the terminal gets its previous mode back.
func TestSignalAtATerminalRestoresTheTerminal(t *testing.T) {
	tc := newTestCluster(t)
	tc.addNode("web-1").command = func(_ string, ch ssh.Channel) ssh.Signal {
		_, _ = io.WriteString(ch, "ready\r\n")
		_, _ = io.Copy(io.Discard, ch)
		return ""
	}
	c := tc.loggedIn()
	var stderr bytes.Buffer
	user, tty, codes := c.startAtTerminal(&stderr, "ssh", "web-1")
	other, fresh, err := pty.Open() // in the state that tty had
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	defer fresh.Close()
	before, err := term.GetState(int(fresh.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	readUntil(t, user, "ready")
	sendSignal(t, syscall.SIGTERM)
	if code := <-codes; code != 128+15 || strings.Contains(stderr.String(), "error") {
		t.Errorf("got %d %q, want 143 and no error", code, stderr.String())
	}
	if after, err := term.GetState(int(tty.Fd())); err != nil || !reflect.DeepEqual(after, before) {
		t.Errorf("got %+v, %v, want the terminal as it was: %+v", after, err, before)
	}
}

func TestSignalsReachTheCommand(t *testing.T) {
	tc := newTestCluster(t)
	node := tc.addNode("web-1")
	node.events = make(chan string, 8)
	node.command = func(_ string, ch ssh.Channel) ssh.Signal {
		_, _ = io.WriteString(ch, "ready\n")
		<-node.events
		return ssh.SIGTERM
	}
	c := tc.loggedIn()
	out, stdout := io.Pipe()
	codes := c.start(stdout, io.Discard, "ssh", "web-1", "sleep")
	readUntil(t, out, "ready")
	sendSignal(t, syscall.SIGTERM)
	if code := <-codes; code != 128+15 {
		t.Errorf("got %d, want 143: the remote command ended by SIGTERM", code)
	}
}
