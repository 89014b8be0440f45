//go:build integration

package integration

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/creack/pty"

	"github.com/threshold-access/threshold/integration/harness"
)

// A new user starts the demo, logs in, lists nodes, opens a shell and copies files.
func TestANewUserLogsInAndOpensAShell(t *testing.T) {
	d := harness.StartDemo(t)
	c := harness.NewClient(t)
	c.Login(d, d.Alice())

	t.Run("status shows the user and the logins", func(t *testing.T) {
		out := c.Tsh("status").OK(t)
		for _, want := range []string{d.Alice().Email, d.Login} {
			if !strings.Contains(out, want) {
				t.Errorf("got %q, want %q in it", out, want)
			}
		}
	})
	t.Run("ls lists the node, also as JSON", func(t *testing.T) {
		if out := c.Tsh("ls").OK(t); !strings.Contains(out, d.Node) {
			t.Errorf("got %q, want the node", out)
		}
		var nodes []map[string]any
		out := c.Tsh("ls", "env=demo", "--format=json").OK(t)
		if err := json.Unmarshal([]byte(out), &nodes); err != nil || len(nodes) != 1 {
			t.Errorf("got %v, %v, want one node", nodes, err)
		}
		if out := c.Tsh("ls", "env=other", "--format=json").OK(t); strings.Contains(out, d.Node) {
			t.Errorf("got %q, want no node with that label", out)
		}
	})
	t.Run("a command runs as the account with separate output, errors and exit status", func(t *testing.T) {
		r := c.Tsh("ssh", d.Login+"@"+d.Node, "id -un; echo oops >&2; exit 7")
		if strings.TrimSpace(r.Stdout) != d.Login || strings.TrimSpace(r.Stderr) != "oops" || r.Code != 7 {
			t.Errorf("got %+v, want the account, oops and 7", r)
		}
	})
	t.Run("binary input and output are not changed", func(t *testing.T) {
		in := make([]byte, 3<<20)
		_, _ = rand.Read(in)
		r := harness.Run(t, c.Env, bytes.NewReader(in), c.Path(), "ssh", d.Node, "cat")
		if r.Code != 0 || r.Stdout != string(in) {
			t.Errorf("got status %d and %d bytes, want the %d bytes sent", r.Code, len(r.Stdout), len(in))
		}
	})
	t.Run("a shell has a terminal of the right size", func(t *testing.T) {
		usesATerminal(t, c.Command("ssh", d.Login+"@"+d.Node))
	})
	t.Run("scp copies a file both ways", func(t *testing.T) { copyBothWays(t, d, c) })
	t.Run("after logout a command needs a login", func(t *testing.T) {
		c.Tsh("logout").OK(t)
		c.Tsh("ssh", d.Node, "true").Refused(t, "tsh: error: ", "tsh login")
	})
}

// usesATerminal opens a shell with the client, changes the size of its terminal, and ends it with exit
// status 3.
func usesATerminal(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	term, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 33, Cols: 101})
	if err != nil {
		t.Fatal(err)
	}
	defer term.Close()
	screen := harness.Watch(t, term)
	if _, err := term.WriteString("stty size; test -t 0 && echo is-a-\"terminal\"\r"); err != nil {
		t.Fatal(err)
	}
	screen.Wait("33 101")
	screen.Wait("is-a-terminal")
	if err := pty.Setsize(term, &pty.Winsize{Rows: 20, Cols: 77}); err != nil {
		t.Fatal(err)
	}
	const wait = "until stty size | grep -q 77; do :; done; echo now-\"smaller\"; exit 3\r"
	if _, err := term.WriteString(wait); err != nil {
		t.Fatal(err)
	}
	screen.Wait("now-smaller")
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 3 {
		t.Errorf("got %v, want exit status 3", err)
	}
}

// copyBothWays copies a file to the node and back, and checks that a failed copy changes nothing.
func copyBothWays(t *testing.T, d *harness.Demo, c *harness.Client) {
	dir := t.TempDir()
	data := make([]byte, 5<<20)
	_, _ = rand.Read(data)
	from, remote, back := filepath.Join(dir, "from"), filepath.Join(dir, "remote"), filepath.Join(dir, "back")
	if err := os.WriteFile(from, data, 0o640); err != nil {
		t.Fatal(err)
	}
	c.Tsh("scp", from, d.Login+"@"+d.Node+":"+remote).OK(t)
	c.Tsh("scp", d.Node+":"+remote, back).OK(t)
	if got, err := os.ReadFile(back); err != nil || !bytes.Equal(got, data) {
		t.Errorf("got %d bytes, %v, want the %d bytes sent", len(got), err, len(data))
	}
	c.Tsh("scp", d.Node+":"+filepath.Join(dir, "missing"), back).Refused(t, "missing")
	if got, _ := os.ReadFile(back); !bytes.Equal(got, data) {
		t.Error("a failed copy damaged the existing file")
	}
}
