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

// files gives a node with a home folder, a person, and a folder here.
func files(t *testing.T) (c *client, there, here string) {
	t.Helper()
	w := newTestCluster(t)
	there, here = t.TempDir(), t.TempDir()
	w.addNode("web-1").root = there
	return w.loggedIn(), there, here
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

// wantNoParts checks that no half file is left.
func wantNoParts(t *testing.T, dirs ...string) {
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
	c, there, here := files(t)
	big := make([]byte, 5<<20+123)
	_, _ = rand.Read(big)
	write(t, filepath.Join(here, "big file"), big, 0o755)
	write(t, filepath.Join(here, "empty"), nil, 0o644)
	c.ok("scp", filepath.Join(here, "big file"), filepath.Join(here, "empty"), "web-1:")
	if info := wantFile(t, filepath.Join(there, "big file"), big); info.Mode().Perm()&0o100 == 0 {
		t.Errorf("got mode %v, want it executable as here", info.Mode())
	}
	wantFile(t, filepath.Join(there, "empty"), nil)
	c.ok("scp", "alice@web-1:big file", filepath.Join(here, "back"))
	wantFile(t, filepath.Join(here, "back"), big)
	c.ok("scp", "web-1:~/big*", "web-1:empty", here)
	wantFile(t, filepath.Join(here, "big file"), big)
	wantNoParts(t, here, there)
}

func TestSCPKeepsTimesAndModesWhenAsked(t *testing.T) {
	c, there, here := files(t)
	then := time.Date(2020, 2, 2, 2, 2, 2, 0, time.UTC)
	src := filepath.Join(here, "f")
	write(t, src, []byte("x"), 0o640)
	if err := os.Chtimes(src, then, then); err != nil {
		t.Fatal(err)
	}
	c.ok("scp", "-p", src, "web-1:g")
	c.ok("scp", "-p", "web-1:g", filepath.Join(here, "h"))
	for _, path := range []string{filepath.Join(there, "g"), filepath.Join(here, "h")} {
		if info := wantFile(t, path, []byte("x")); info.Mode().Perm() != 0o640 ||
			!info.ModTime().Equal(then) {
			t.Errorf("%s: got %v %v, want mode and time kept", path, info.Mode(), info.ModTime())
		}
	}
}

func TestSCPReplacesWithoutLosingModeOrLink(t *testing.T) {
	c, there, here := files(t)
	write(t, filepath.Join(here, "new"), []byte("new"), 0o644)
	write(t, filepath.Join(there, "old"), []byte("old"), 0o600)
	if err := os.Symlink("old", filepath.Join(there, "link")); err != nil {
		t.Fatal(err)
	}
	c.ok("scp", filepath.Join(here, "new"), "web-1:link")
	if info := wantFile(t, filepath.Join(there, "old"), []byte("new")); info.Mode().Perm() != 0o600 {
		t.Errorf("got %v, want the old mode", info.Mode())
	}
	if _, err := os.Readlink(filepath.Join(there, "link")); err != nil {
		t.Errorf("got %v, want the link still there", err)
	}
	write(t, filepath.Join(here, "mine"), []byte("old"), 0o640)
	if err := os.Symlink("mine", filepath.Join(here, "way")); err != nil {
		t.Fatal(err)
	}
	c.ok("scp", "web-1:old", filepath.Join(here, "way"))
	if info := wantFile(t, filepath.Join(here, "mine"), []byte("new")); info.Mode().Perm() != 0o640 {
		t.Errorf("got %v, want the old mode", info.Mode())
	}
}

func TestSCPCopiesFolders(t *testing.T) {
	c, there, here := files(t)
	for i := range 5 {
		write(
			t,
			filepath.Join(here, "tree", fmt.Sprint("d", i%2), fmt.Sprint("f", i)),
			[]byte{byte(i)},
			0o644,
		)
	}
	c.refused(1, []string{"scp", filepath.Join(here, "tree"), "web-1:"}, "-r")
	c.ok("scp", "-r", filepath.Join(here, "tree"), "web-1:")
	c.ok("scp", "-r", "web-1:tree", filepath.Join(here, "back"))
	c.ok("scp", "-r", "web-1:.", here) // the home folder under its own name
	for i := range 5 {
		for _, dir := range []string{filepath.Join(there, "tree"), filepath.Join(here, "back"), filepath.Join(here, filepath.Base(there), "tree")} {
			wantFile(t, filepath.Join(dir, fmt.Sprint("d", i%2), fmt.Sprint("f", i)), []byte{byte(i)})
		}
	}
	c.refused(1, []string{"scp", "web-1:tree", here}, "-r")
}

func TestSCPRefuses(t *testing.T) {
	c, there, here := files(t)
	write(t, filepath.Join(here, "a"), []byte("a"), 0o644)
	write(t, filepath.Join(here, "kept"), []byte("kept"), 0o644)
	write(t, filepath.Join(there, "locked"), []byte("x"), 0o600)
	for _, tt := range []struct {
		name  string
		args  []string
		words []string
	}{
		{"from node to node", []string{"web-1:a", "web-2:b"}, []string{"one node to another"}},
		{"from here to here", []string{"a", "b"}, []string{"NODE:PATH"}},
		{"a node name that is none", []string{"a", "we b:"}, []string{"./we b:"}},
		{"a file that is not here", []string{filepath.Join(here, "missing"), "web-1:"}, []string{"missing is not here"}},
		{"a file that is not there", []string{"web-1:missing", filepath.Join(here, "kept")}, []string{"missing is not on the node"}},
		{"wildcards that match nothing", []string{"web-1:*.none", here}, []string{"*.none"}},
		{"several into no folder", []string{"web-1:a", "web-1:b", filepath.Join(here, "kept")}, []string{"no folder here"}},
		{"several into no folder there", []string{filepath.Join(here, "a"), filepath.Join(here, "kept"), "web-1:x"}, []string{"no folder on the node"}},
		{"into a folder that is not there", []string{filepath.Join(here, "a"), "web-1:no/where"}, []string{"not on the node"}},
		{"into a folder that is not here", []string{"web-1:locked", filepath.Join(here, "no", "where")}, []string{"not here"}},
		{"an empty path", []string{"", "web-1:"}, []string{"empty"}},
	} {
		c.wantRefusal(c.run(append([]string{"scp"}, tt.args...)...), tt.name, 1, tt.words...)
	}
	wantFile(t, filepath.Join(here, "kept"), []byte("kept"))
	wantNoParts(t, here, there)
	c.w.addNode("no-files")
	c.refused(
		1,
		[]string{"scp", filepath.Join(here, "a"), "no-files:"},
		"no file transfer: no role of alice allows sftp",
		"tsh: hint: ask for one that does",
	)
}

func TestSCPRefusesUnsafeNamesFromTheNode(t *testing.T) {
	c, there, here := files(t)
	for _, name := range []string{"a\nb", "x\x1b[2J", `back\slash`, "\u202eright", "bad\xff"} {
		dir := filepath.Join(there, "d")
		write(t, filepath.Join(dir, name), []byte("x"), 0o644)
		r := c.run("scp", "-r", "web-1:d", here)
		c.wantRefusal(r, fmt.Sprintf("%q", name), 1, "does not write here")
		if strings.ContainsAny(strings.ReplaceAll(r.stderr, "\n", ""), "\x1b\u202e") {
			t.Errorf("%q: got %q, want the name made safe", name, r.stderr)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	}
}

func TestSCPReportsAFullDisk(t *testing.T) {
	c, there, here := files(t)
	write(t, filepath.Join(here, "f"), []byte("x"), 0o644)
	write(t, filepath.Join(there, "f"), []byte("x"), 0o644)
	c.refused(1, []string{"scp", "web-1:f", "/dev/full"}, "this machine's disk is full", "free some space")
	c.refused(
		1,
		[]string{"scp", filepath.Join(here, "f"), "web-1:/dev/full"},
		"the node's disk is full",
		"free some space",
	)
}
