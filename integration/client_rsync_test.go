//go:build integration

package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/threshold-access/threshold/integration/harness"
)

// smallFiles creates a folder with small files.
func smallFiles(t *testing.T, dir string, many int) {
	t.Helper()
	for i := range many {
		sub := filepath.Join(dir, fmt.Sprint(i%10))
		if err := os.MkdirAll(sub, 0o755); err != nil {
			t.Fatal(err)
		}
		file, content := filepath.Join(sub, fmt.Sprint("file ", i)), fmt.Appendf(nil, "content %d\n", i)
		if err := os.WriteFile(file, content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// sameTree fails the test unless both folders have the same files.
func sameTree(t *testing.T, a, b string) {
	t.Helper()
	if r := harness.Run(t, nil, nil, "diff", "-r", a, b); r.Code != 0 {
		t.Errorf("the folders differ:\n%s%s", r.Stdout, r.Stderr)
	}
}

// rsyncStory copies folders with rsync over ssh.
func rsyncStory(t *testing.T, o *clientFixture, e *harness.ClientReport) {
	dir := t.TempDir()
	from, back := filepath.Join(dir, "from"), filepath.Join(dir, "back")
	smallFiles(t, from, 2000)
	rsync := func(t *testing.T, args ...string) string {
		t.Helper()
		return o.run(t, "rsync", append([]string{"-a", "--stats", "-e", o.sshCommand()}, args...)...).OK(t)
	}
	e.Supports(t, "copies 2,000 small files both ways", func(t *testing.T) {
		rsync(t, from+"/", o.target()+":rsync/")
		rsync(t, o.target()+":rsync/", back+"/")
		sameTree(t, from, back)
	}, harness.Certificate, harness.Exec, harness.ByCommand)
	e.Supports(t, "--delete both ways", func(t *testing.T) {
		if err := os.RemoveAll(filepath.Join(from, "3")); err != nil {
			t.Fatal(err)
		}
		rsync(t, "--delete", from+"/", o.target()+":rsync/")
		sameTree(t, from, o.home("rsync"))
		rsync(t, "--delete", o.target()+":rsync/", back+"/")
		sameTree(t, from, back)
	})
	e.Supports(t, "resumes a file that was copied in part", func(t *testing.T) {
		big := filepath.Join(dir, "big")
		data := writeRandomFile(t, big, 8<<20)
		rsync(t, big, o.target()+":big")
		if err := os.Truncate(o.home("big"), 6<<20); err != nil {
			t.Fatal(err)
		}
		out := rsync(t, "--append-verify", big, o.target()+":big")
		wantFile(t, o.home("big"), data)
		if n := literal(t, out); n > 3<<20 {
			t.Errorf("got %d bytes sent, want only the missing part", n)
		}
	})
	e.Supports(t, "through ssh -J", func(t *testing.T) {
		node := o.account.Username + "@bellows:rsync-j/"
		o.run(t, "rsync", "-a", "-e", o.sshCommand()+" -J x@"+o.Proxy, filepath.Join(from, "1")+"/", node).
			OK(t)
		sameTree(t, filepath.Join(from, "1"), o.home("rsync-j"))
	}, harness.ByJump)
}

var literalRE = regexp.MustCompile(`Literal data: ([\d,]+)`)

// literal is the number of bytes that rsync sent as data, according to its --stats.
func literal(t *testing.T, stats string) int {
	t.Helper()
	m := literalRE.FindStringSubmatch(stats)
	if m == nil {
		t.Fatalf("no literal data in %q", stats)
	}
	n, err := strconv.Atoi(strings.ReplaceAll(m[1], ",", ""))
	if err != nil {
		t.Fatal(err)
	}
	return n
}
