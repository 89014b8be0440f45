//go:build integration

package integration

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/threshold-access/threshold/integration/harness"
)

// Users transfer files as the account they log in to, with the sftp and scp of OpenSSH.
func TestFilesAreTransferredAsTheAccount(t *testing.T) {
	h := newSessionFixture(t, func(h *harness.AccountFixture) {
		h.AddGroup("painters")
		h.Add("lena", "--groups", "painters")
		h.Add("otto")
		harness.AsRoot(t, "chmod", "700", filepath.Join(h.Dir, "home/otto"))
		h.Put("etc/login.defs", "UMASK 027\n")
	}, "lena", "otto")
	local := filepath.Join(h.c.Home, "files")
	data := make([]byte, 3<<20+1)
	_, _ = rand.Read(data)
	odd := []string{"-dash", "new\nline", "not \xff utf-8", strings.Repeat("n", 255), "*"}
	err := errors.Join(
		os.MkdirAll(filepath.Join(local, "tree/deep"), 0o755),
		os.WriteFile(filepath.Join(local, "data"), data, 0o666),
		os.WriteFile(filepath.Join(local, "part"), data[:1<<20], 0o600),
	)
	for _, name := range odd {
		err = errors.Join(err, os.WriteFile(filepath.Join(local, "tree/deep", name), []byte(name), 0o600))
	}
	if err != nil {
		t.Fatal(err)
	}
	sftp := func(login string, lines ...string) harness.Result {
		return h.run("lcd "+local+"\n"+strings.Join(lines, "\n")+"\n", "sftp", "-b", "-", h.target(login))
	}
	same := func(name string) {
		t.Helper()
		if got, err := os.ReadFile(filepath.Join(local, name)); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%s: got %d bytes, %v, want the same %d", name, len(got), err, len(data))
		}
	}

	t.Run("files are uploaded, downloaded and resumed in the home, with the umask", func(t *testing.T) {
		out := sftp("lena", "pwd", "put data", "put part", "reput data part", "mkdir made", "get data back",
			"get -p part back-part", "reget data part", "put -f data synced", "cp data copied", "cd made",
			"pwd", "!true").OK(t)
		contains(t, out,
			"Remote working directory: /home/lena\n", "Remote working directory: /home/lena/made\n")
		for _, name := range []string{"back", "back-part", "part"} {
			same(name)
		}
		got := h.ssh("lena", "stat -c '%a %U:%G %s %n' data made synced copied").Stdout
		want := fmt.Sprintf(`640 lena:lena %[1]d data
750 lena:lena 4096 made
640 lena:lena %[1]d synced
640 lena:lena %[1]d copied
`, len(data))
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	})
	t.Run("modes, groups and links are set", func(t *testing.T) {
		group := strings.TrimSpace(h.ssh("lena", "getent group painters | cut -d: -f3").Stdout)
		sftp("lena", "chmod 2600 data", "chgrp "+group+" data", "ln -s data soft", "ln data hard",
			"rename data moved", "rename soft moved-soft").OK(t)
		got := h.ssh("lena", "stat -c '%a %G %h' moved; readlink moved-soft; stat -c %h hard").Stdout
		const links = " painters 2\ndata\n2\n"
		if got != "600"+links && got != "2600"+links { // a new group clears the bit
			t.Errorf("got %q, want the mode, the group and the links", got)
		}
	})
	t.Run("what the account may not do is denied", func(t *testing.T) {
		for _, line := range []string{
			"get /etc/shadow", "ls /home/otto", "put data /home/otto/x", "chown 0 moved",
			"rm /etc/passwd", "mkdir /mine", "rename moved /home/otto/moved", "ln moved /home/moved",
		} {
			if r := sftp("lena", line); r.Code == 0 || !strings.Contains(r.Stderr, "ermission denied") {
				t.Errorf("%s: got %+v, want it denied", line, r)
			}
		}
		if r := sftp("root", "get /etc/shadow"); r.Code != 0 {
			t.Errorf("got %+v, want root to read root's file", r)
		}
	})
	t.Run("a tree of files with unusual names is transferred", func(t *testing.T) {
		sftp("lena", "put -r tree", "get -r tree tree-back").OK(t)
		for _, name := range odd {
			got, err := os.ReadFile(filepath.Join(local, "tree-back/deep", name))
			if err != nil || string(got) != name {
				t.Errorf("%q: got %q, %v", name, got, err)
			}
		}
	})
	t.Run("a folder of 5,000 files is listed and transferred", func(t *testing.T) {
		h.ssh("lena", "mkdir many && cd many && seq 5000 | xargs touch").OK(t)
		if got := strings.Count(sftp("lena", "ls -1 many").OK(t), "many/"); got != 5000 {
			t.Errorf("got %d entries, want 5000", got)
		}
		sftp("lena", "get -r many").OK(t)
		if list, err := os.ReadDir(filepath.Join(local, "many")); err != nil || len(list) != 5000 {
			t.Errorf("got %d files back, %v", len(list), err)
		}
	})
	for _, mode := range []string{"-s", "-O"} {
		t.Run("scp "+mode, func(t *testing.T) {
			there := h.target("otto") + ":"
			h.run("", "scp", mode, "-p", filepath.Join(local, "data"), there+"data").OK(t)
			h.run("", "scp", mode, "-r", filepath.Join(local, "tree"), there).OK(t)
			h.run("", "scp", mode, there+"data", filepath.Join(local, "scp"+mode)).OK(t)
			same("scp" + mode)
			h.run("", "scp", mode, there+"~/data", local+"/tilde"+mode).OK(t)
			same("tilde" + mode)
			h.run("", "scp", mode, "-3", there+"data", h.target("lena")+":by"+mode).OK(t)
			r := h.run("", "scp", mode, there+"/etc/shadow", local)
			if r.Code == 0 || !strings.Contains(r.Stderr, "ermission denied") {
				t.Errorf("got %+v, want it denied", r)
			}
		})
	}
}

// BenchmarkFiles transfers 1 GiB in both directions with OpenSSH's sftp, in turns through Threshold to a
// node's file server and through an sshd jump host to OpenSSH's file server.
func BenchmarkFiles(b *testing.B) {
	p := startBenchmark(b)
	zeros, back := filepath.Join(b.TempDir(), "zeros"), filepath.Join(b.TempDir(), "back")
	if err := errors.Join(os.WriteFile(zeros, nil, 0o600), os.Truncate(zeros, gigabyte)); err != nil {
		b.Fatal(err)
	}
	for _, direction := range [][2]string{
		{"put", "put " + zeros + " there"},
		{"get", "get there " + back}, // of the file that put stored
	} {
		what, line := direction[0], direction[1]
		b.Run(what, func(b *testing.B) {
			sftp := func(way *exec.Cmd) func() {
				return func() {
					cmd := exec.Command("sftp", "-q", "-b", "-", "-D", strings.Join(way.Args, " "))
					cmd.Env, cmd.Stdin = way.Env, strings.NewReader(line+"\n")
					must(b, cmd)
				}
			}
			for b.Loop() {
				t := harness.MedianTimes(1,
					sftp(p.near.viaProxy("sftp", "-s")),
					sftp(p.near.viaSSHD("/usr/lib/openssh/sftp-server")))
				ours, theirs := gigabyte/1e6/t[0].Seconds(), gigabyte/1e6/t[1].Seconds()
				harness.Report(b, harness.Measurement{
					What:    "1 GiB by sftp, " + what + ", against `sftp -J`",
					Unit:    "MB/s",
					Ours:    ours,
					Peer:    theirs,
					Bound:   1,
					AtLeast: true,
				})
				b.ReportMetric(ours/theirs, "of-sftp-J")
			}
		})
	}
}
