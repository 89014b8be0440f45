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

// inTerminal runs tsh in a terminal of its own and returns the other end of it, tsh's end, and a channel for
// the exit code.
func (c *client) inTerminal(stderr io.Writer, args ...string) (far, near *os.File, codes <-chan int) {
	c.t.Helper()
	far, near, err := pty.Open()
	if err != nil {
		c.t.Fatal(err)
	}
	if err := pty.Setsize(far, &pty.Winsize{Rows: 33, Cols: 101}); err != nil {
		c.t.Fatal(err)
	}
	done := make(chan int, 1)
	go func() {
		done <- tsh.Main(c.t.Context(), tsh.Env{Args: args, Stdin: near, Stdout: near, Stderr: stderr, Getenv: c.getenv, Now: c.now})
	}()
	c.t.Cleanup(func() { _ = near.Close(); _ = far.Close() })
	return far, near, done
}

// until reads from r until it has seen the text.
func until(t *testing.T, r io.Reader, text string) {
	t.Helper()
	var seen []byte
	for b := make([]byte, 256); !strings.Contains(string(seen), text); {
		n, err := r.Read(b)
		if seen = append(seen, b[:n]...); err != nil {
			t.Fatalf("got %q, then %v, want %q", seen, err, text)
		}
	}
}

func TestTerminalRawModeResizeAndDisconnect(t *testing.T) {
	w := newTestCluster(t)
	h := w.addNode("web-1")
	h.events = make(chan string, 8)
	h.command = func(_ string, ch ssh.Channel) ssh.Signal {
		_, _ = io.WriteString(ch, "ready\r\n")
		b := make([]byte, 64)
		for n, err := ch.Read(b); err == nil; n, err = ch.Read(b) {
			_, _ = ch.Write(bytes.ToUpper(b[:n]))
		}
		return ""
	}
	c := w.loggedIn()
	var stderr bytes.Buffer
	far, _, codes := c.inTerminal(&stderr, "ssh", "web-1")
	until(t, far, "ready")
	_, _ = io.WriteString(far, "x\x03y\r") // Ctrl-C is a byte for the node, not a signal for tsh
	until(t, far, "X\x03Y")
	if err := pty.Setsize(far, &pty.Winsize{Rows: 20, Cols: 77}); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(os.Getpid(), syscall.SIGWINCH); err != nil {
		t.Fatal(err)
	}
	if got := <-h.events; got != "size 77x20" {
		t.Errorf("got %s, want the new size", got)
	}
	_, _ = io.WriteString(far, "~.")
	if code := <-codes; code != 255 || !strings.Contains(stderr.String(), "ended by ~.") {
		t.Errorf("got %d %q, want the connection left", code, stderr.String())
	}
}

func TestSignalAtATerminalRestoresTheTerminal(t *testing.T) {
	w := newTestCluster(t)
	w.addNode("web-1").command = func(_ string, ch ssh.Channel) ssh.Signal {
		_, _ = io.WriteString(ch, "ready\r\n")
		_, _ = io.Copy(io.Discard, ch)
		return ""
	}
	c := w.loggedIn()
	var stderr bytes.Buffer
	far, near, codes := c.inTerminal(&stderr, "ssh", "web-1")
	other, fresh, err := pty.Open() // as near was
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	defer fresh.Close()
	before, err := term.GetState(int(fresh.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	until(t, far, "ready")
	if err := syscall.Kill(os.Getpid(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code := <-codes; code != 128+15 || strings.Contains(stderr.String(), "error") {
		t.Errorf("got %d %q, want 143 and no complaint", code, stderr.String())
	}
	if after, err := term.GetState(int(near.Fd())); err != nil || !reflect.DeepEqual(after, before) {
		t.Errorf("got %+v, %v, want the terminal as it was: %+v", after, err, before)
	}
}

func TestSignalsReachTheCommand(t *testing.T) {
	w := newTestCluster(t)
	h := w.addNode("web-1")
	h.events = make(chan string, 8)
	out, started := io.Pipe()
	h.command = func(_ string, ch ssh.Channel) ssh.Signal {
		_, _ = io.WriteString(ch, "ready\n")
		<-h.events
		return ssh.SIGTERM
	}
	c := w.loggedIn()
	codes := make(chan int, 1)
	go func() {
		codes <- tsh.Main(t.Context(), tsh.Env{Args: []string{"ssh", "web-1", "sleep"}, Stdin: strings.NewReader(""), Stdout: started, Stderr: io.Discard, Getenv: c.getenv})
	}()
	until(t, out, "ready")
	if err := syscall.Kill(os.Getpid(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code := <-codes; code != 128+15 {
		t.Errorf("got %d, want 143: the remote command ended by SIGTERM", code)
	}
}
