package tsh_test

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// scpFixture returns a client of a node web-1, the home folder remote and a folder on this machine.
func scpFixture(t *testing.T) (c *client, remote, local string) {
	t.Helper()
	tc := newTestCluster(t)
	remote, local = t.TempDir(), t.TempDir()
	tc.addNode("web-1").root = remote
	return tc.loggedIn(), remote, local
}

func write(t *testing.T, path string, body []byte, mode fs.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, body, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

func wantFile(t *testing.T, path string, body []byte) fs.FileInfo {
	t.Helper()
	got, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(got, body) {
		t.Errorf("%s: got %d bytes (%v), want %d", path, len(got), err, len(body))
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info
}

// wantNoTempFiles checks that no temporary file is left.
func wantNoTempFiles(t *testing.T, dirs ...string) {
	t.Helper()
	for _, dir := range dirs {
		_ = filepath.WalkDir(dir, func(path string, _ fs.DirEntry, _ error) error {
			if strings.Contains(path, ".tsh-") {
				t.Errorf("got %s left behind", path)
			}
			return nil
		})
	}
}

func TestSCPCopiesFilesBothWays(t *testing.T) {
	t.Parallel()
	c, remote, local := scpFixture(t)
	big := make([]byte, 5<<20+123)
	_, _ = rand.Read(big)
	write(t, filepath.Join(local, "big file"), big, 0o755)
	write(t, filepath.Join(local, "empty"), nil, 0o644)
	c.ok("scp", filepath.Join(local, "big file"), filepath.Join(local, "empty"), "web-1:")
	if info := wantFile(t, filepath.Join(remote, "big file"), big); info.Mode().Perm()&0o100 == 0 {
		t.Errorf("got mode %v, want it executable as here", info.Mode())
	}
	wantFile(t, filepath.Join(remote, "empty"), nil)
	c.ok("scp", "alice@web-1:big file", filepath.Join(local, "back"))
	wantFile(t, filepath.Join(local, "back"), big)
	c.ok("scp", "web-1:~/big*", "web-1:empty", local)
	wantFile(t, filepath.Join(local, "big file"), big)
	wantNoTempFiles(t, local, remote)
}

func TestSCPKeepsTimesAndModesWhenAsked(t *testing.T) {
	t.Parallel()
	c, remote, local := scpFixture(t)
	then := time.Date(2020, 2, 2, 2, 2, 2, 0, time.UTC)
	src := filepath.Join(local, "f")
	write(t, src, []byte("x"), 0o640)
	if err := os.Chtimes(src, then, then); err != nil {
		t.Fatal(err)
	}
	c.ok("scp", "-p", src, "web-1:g")
	c.ok("scp", "-p", "web-1:g", filepath.Join(local, "h"))
	for _, path := range []string{filepath.Join(remote, "g"), filepath.Join(local, "h")} {
		if info := wantFile(t, path, []byte("x")); info.Mode().Perm() != 0o640 ||
			!info.ModTime().Equal(then) {
			t.Errorf("%s: got %v %v, want mode and time kept", path, info.Mode(), info.ModTime())
		}
	}
}

// A copy to a symbolic link replaces the file to which the link leads, and this file keeps its mode. That
// holds in both directions.
func TestSCPReplacesWithoutLosingModeOrLink(t *testing.T) {
	t.Parallel()
	c, remote, local := scpFixture(t)
	write(t, filepath.Join(local, "new"), []byte("new"), 0o644)
	write(t, filepath.Join(remote, "old"), []byte("old"), 0o600)
	if err := os.Symlink("old", filepath.Join(remote, "link")); err != nil {
		t.Fatal(err)
	}
	c.ok("scp", filepath.Join(local, "new"), "web-1:link")
	if info := wantFile(t, filepath.Join(remote, "old"), []byte("new")); info.Mode().Perm() != 0o600 {
		t.Errorf("got %v, want the old mode", info.Mode())
	}
	if _, err := os.Readlink(filepath.Join(remote, "link")); err != nil {
		t.Errorf("got %v, want the link still there", err)
	}
	write(t, filepath.Join(local, "mine"), []byte("old"), 0o640)
	if err := os.Symlink("mine", filepath.Join(local, "link")); err != nil {
		t.Fatal(err)
	}
	c.ok("scp", "web-1:old", filepath.Join(local, "link"))
	if info := wantFile(t, filepath.Join(local, "mine"), []byte("new")); info.Mode().Perm() != 0o640 {
		t.Errorf("got %v, want the old mode", info.Mode())
	}
}

// Folders are copied only with -r, in both directions, also the home folder under its own name.
func TestSCPCopiesFolders(t *testing.T) {
	t.Parallel()
	c, remote, local := scpFixture(t)
	for i := range 5 {
		write(
			t,
			filepath.Join(local, "tree", fmt.Sprint("d", i%2), fmt.Sprint("f", i)),
			[]byte{byte(i)},
			0o644,
		)
	}
	c.refused(1, []string{"scp", filepath.Join(local, "tree"), "web-1:"}, "-r")
	c.ok("scp", "-r", filepath.Join(local, "tree"), "web-1:")
	c.ok("scp", "-r", "web-1:tree", filepath.Join(local, "back"))
	c.ok("scp", "-r", "web-1:.", local) // the home folder under its own name
	for i := range 5 {
		for _, dir := range []string{
			filepath.Join(remote, "tree"),
			filepath.Join(local, "back"),
			filepath.Join(local, filepath.Base(remote), "tree"),
		} {
			wantFile(t, filepath.Join(dir, fmt.Sprint("d", i%2), fmt.Sprint("f", i)), []byte{byte(i)})
		}
	}
	c.refused(1, []string{"scp", "web-1:tree", local}, "-r")
}

// A copy that cannot work is refused with the reason, leaves the previous file and leaves no temporary file.
func TestSCPRefuses(t *testing.T) {
	t.Parallel()
	c, remote, local := scpFixture(t)
	a, kept := filepath.Join(local, "a"), filepath.Join(local, "kept")
	missing, nowhere := filepath.Join(local, "missing"), filepath.Join(local, "no", "where")
	write(t, a, []byte("a"), 0o644)
	write(t, kept, []byte("kept"), 0o644)
	write(t, filepath.Join(remote, "locked"), []byte("x"), 0o600)
	for _, tt := range []struct {
		name string
		args []string
		text string
	}{
		{"from node to node", []string{"web-1:a", "web-2:b"}, "one node to another"},
		{"from this machine to itself", []string{"a", "b"}, "NODE:PATH"},
		{"an invalid node name", []string{"a", "we b:"}, "./we b:"},
		{"a missing local file", []string{missing, "web-1:"}, "missing does not exist on this machine"},
		{"a missing remote file", []string{"web-1:missing", kept}, "missing does not exist on the node"},
		{"wildcards that match nothing", []string{"web-1:*.none", local}, "*.none"},
		{"several files to a local file", []string{"web-1:a", "web-1:b", kept}, "not a folder on this"},
		{"several files to a remote file", []string{a, kept, "web-1:x"}, "not a folder on the node"},
		{"to a missing remote folder", []string{a, "web-1:no/where"}, "does not exist on the node"},
		{"to a missing local folder", []string{"web-1:locked", nowhere}, "does not exist on this machine"},
		{"an empty path", []string{"", "web-1:"}, "empty"},
	} {
		c.wantRefusal(c.run(append([]string{"scp"}, tt.args...)...), tt.name, 1, tt.text)
	}
	wantFile(t, kept, []byte("kept"))
	wantNoTempFiles(t, local, remote)
	c.tc.addNode("no-files")
	c.refused(
		1,
		[]string{"scp", filepath.Join(local, "a"), "no-files:"},
		"refused the file transfer: no role of alice allows sftp",
		"tsh: hint: the node says: ask for one that does",
	)
}

func TestSCPRefusesUnsafeNamesFromTheNode(t *testing.T) {
	t.Parallel()
	c, remote, local := scpFixture(t)
	for _, name := range []string{"a\nb", "x\x1b[2J", `back\slash`, "\u202eright", "bad\xff"} {
		dir := filepath.Join(remote, "d")
		write(t, filepath.Join(dir, name), []byte("x"), 0o644)
		r := c.run("scp", "-r", "web-1:d", local)
		c.wantRefusal(r, fmt.Sprintf("%q", name), 1, "unsafe file name")
		if strings.ContainsAny(strings.ReplaceAll(r.stderr, "\n", ""), "\x1b\u202e") {
			t.Errorf("%q: got %q, want the name made safe", name, r.stderr)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	}
}

// A destination that leads through links to a folder, or in a loop, is refused. The message contains a name
// that the node chose, so it is cleaned: a line break in it must not forge a hint of tsh.
func TestSCPRefusesUnsafeLinksOnTheNode(t *testing.T) {
	t.Parallel()
	c, remote, local := scpFixture(t)
	file := filepath.Join(local, "f")
	write(t, file, []byte("x"), 0o644)
	const unsafe = "x\ntsh: hint: run this\x1b[2J"
	if err := os.MkdirAll(filepath.Join(remote, "d", unsafe), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct{ target, want string }{
		"a link to a folder": {unsafe, "is a folder on the node"},
		"a link to itself":   {"f", "40 or more symbolic links"},
	} {
		link := filepath.Join(remote, "d", "f")
		if err := os.Symlink(tt.target, link); err != nil {
			t.Fatal(err)
		}
		r := c.run("scp", file, "web-1:d")
		c.wantRefusal(r, name, 1, tt.want)
		if strings.Contains(r.stderr, "\ntsh: hint: run this") || strings.Contains(r.stderr, "\x1b") {
			t.Errorf("%s: got %q, want the name made safe", name, r.stderr)
		}
		if err := os.Remove(link); err != nil {
			t.Fatal(err)
		}
	}
}

func TestSCPReportsAFullDisk(t *testing.T) {
	t.Parallel()
	c, remote, local := scpFixture(t)
	write(t, filepath.Join(local, "f"), []byte("x"), 0o644)
	write(t, filepath.Join(remote, "f"), []byte("x"), 0o644)
	c.refused(1, []string{"scp", "web-1:f", "/dev/full"}, "this machine's disk is full", "free disk space")
	c.refused(
		1,
		[]string{"scp", filepath.Join(local, "f"), "web-1:/dev/full"},
		"the node's disk is full",
		"free disk space",
	)
}
