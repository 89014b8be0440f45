package sftp_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/threshold-access/threshold/node/sftp"
)

// serveArg is the argument that makes this test binary a file server, for OpenSSH's client to start.
const serveArg = "serve-files"

func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == serveArg {
		if err := sftp.Serve(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// opensshServer is OpenSSH's own server, which ours must equal.
const opensshServer = "/usr/lib/openssh/sftp-server"

// ownServer is the command line of our server: this test binary.
func ownServer(t testing.TB) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return self + " " + serveArg
}

// runSFTP runs OpenSSH's client against a server, in a directory, and returns what it printed.
func runSFTP(t testing.TB, server, dir, batch string, options ...string) (out, errs string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sftp", append(options, "-b", "-", "-D", server)...)
	var stdout, stderr bytes.Buffer
	cmd.Dir, cmd.Stdin, cmd.Stdout, cmd.Stderr = dir, strings.NewReader(batch), &stdout, &stderr
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "HOME="+dir)
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return stdout.String(), stderr.String()
}

// A script in which nearly every line is another request. After a line with a dash it goes on even if the
// line fails.
const script = `
-pwd
-ls -la
-mkdir made
-mkdir made
-cd made
-put local/plain
-put -p local/plain copied
-ls -la
-ls -1n
-chmod 600 plain
-chmod 4755 copied
-ls -l
-ln plain hard
-ln -s plain soft
-ln -s ../local/nowhere dangling
-ln -s ../local/deep over
-ls -la
-rename -l plain copied
-rename -l plain aside
-rename aside plain
-rename plain moved
-ls -1
-ls -la over/..
-cd over/..
-pwd
-cd ../made
-get moved local/back
-get -p copied local/back-p
-reput local/longer copied
-reget moved local/part
-df .
-df -hi nowhere
-get nowhere
-rm nowhere
-rmdir ..
-rmdir moved
-cd moved
-chmod 644 dangling
-chmod -h 600 moved
-chmod -h 600 soft
-chown 0 nowhere
-ls nowhere
-copy copied again
-cp moved moved
-ls -l again
-put -f local/plain synced
-get -f synced local/synced
-put -r local/deep
-get -r deep local/deep-back
-rm hard
-rm soft
-ls -lr
-symlink a/b/c relative
-rm relative
-!true
-cd ~
-pwd
-cd ~/made/../made
-pwd
-cd ~root
-cd ~nobody-at-all
`

// workDir makes a directory with files, the same each time except for the clock.
func workDir(t testing.TB) string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	deep := filepath.Join(dir, "local", "deep", "er", "still")
	old := time.Date(2020, 2, 3, 4, 5, 6, 0, time.UTC)
	plain := bytes.Repeat([]byte("0123456789abcdef"), 20000)
	err = errors.Join(os.MkdirAll(deep, 0o755),
		os.WriteFile(filepath.Join(dir, "local/plain"), plain, 0o640),
		os.WriteFile(filepath.Join(dir, "local/longer"), append(plain, "and more"...), 0o640),
		os.WriteFile(filepath.Join(dir, "local/part"), plain[:77777], 0o640),
		os.WriteFile(filepath.Join(deep, "leaf"), []byte("leaf"), 0o444),
		os.WriteFile(filepath.Join(dir, "local/deep/ umlaut ä"), nil, 0o644),
		os.Chtimes(filepath.Join(dir, "local/plain"), old, old))
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// normalize replaces what differs between any two runs: directories, today's dates, free space. A file that
// was changed in this very second may seem to be of the future, which ls shows with the year.
func normalize(text, dir, server string) string {
	text = strings.ReplaceAll(strings.ReplaceAll(text, dir, "DIR"), server, "SERVER")
	now := `[A-Z][a-z]{2} [ \d]\d (?:\d\d:\d\d| ` + strconv.Itoa(time.Now().Year()) + `)`
	text = regexp.MustCompile(now).ReplaceAllString(text, "NOW")
	text = regexp.MustCompile(`(?m)^ *\d+ +\d+ +\d+ +\d+ +\d+%.*$`).ReplaceAllString(text, "SPACE")
	return text
}

// listTree lists everything below a directory: type, mode, size, target, the end of the content.
func listTree(t testing.TB, dir string) string {
	t.Helper()
	var out strings.Builder
	err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := os.Lstat(path)
		if err != nil {
			return err
		}
		fmt.Fprintf(&out, "%s %s", info.Mode(), strings.TrimPrefix(path, dir))
		switch {
		case info.Mode().IsRegular():
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			links, old := info.Sys().(*syscall.Stat_t).Nlink, info.ModTime().Year() == 2020
			fmt.Fprintf(&out, " %d %x links %d old %v", len(b), b[max(0, len(b)-8):], links, old)
		case info.Mode()&os.ModeSymlink != 0:
			to, _ := os.Readlink(path)
			fmt.Fprintf(&out, " -> %s", to)
		}
		fmt.Fprintln(&out)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// OpenSSH's client must see no difference between our server and OpenSSH's: the same output and the same
// files, under any umask.
func TestOpenSSHClientSeesNoDifferenceFromOpenSSHServer(t *testing.T) {
	for _, umask := range []int{0o022, 0o077, 0} {
		t.Run(fmt.Sprintf("umask %03o", umask), func(t *testing.T) {
			before := syscall.Umask(umask)
			defer syscall.Umask(before)
			var want, wantTree string
			for _, server := range []string{opensshServer, ownServer(t)} {
				dir := workDir(t)
				out, errs := runSFTP(t, server, dir, script)
				got := normalize(out, dir, server) + "\n--\n" + normalize(errs, dir, server)
				if server == opensshServer {
					want, wantTree = got, listTree(t, dir)
					continue
				}
				compare(t, "output", got, want)
				compare(t, "files", listTree(t, dir), wantTree)
			}
			if !strings.Contains(want, "cd ~nobody-at-all") {
				t.Errorf("got a script that ended early:\n%s", want)
			}
		})
	}
}

func compare(t testing.TB, what, got, want string) {
	t.Helper()
	a, b := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range max(len(a), len(b)) {
		switch {
		case i >= len(a):
			t.Errorf("%s line %d: got nothing, want %q", what, i, b[i])
		case i >= len(b):
			t.Errorf("%s line %d: got %q, want nothing", what, i, a[i])
		case a[i] != b[i]:
			t.Errorf("%s line %d: got %q, want %q", what, i, a[i], b[i])
		}
	}
}

func TestOddNames(t *testing.T) {
	for _, name := range []string{
		"-dash", "new\nline", "not \xff\xfe utf-8", strings.Repeat("n", 255),
		" ", "*?[x]", `back\slash`, "quote\"'",
	} {
		dir := workDir(t)
		odd, data := filepath.Join(dir, "local/odd"), []byte("of "+name)
		err := errors.Join(os.MkdirAll(odd, 0o755), os.WriteFile(filepath.Join(odd, name), data, 0o600))
		if err != nil {
			t.Fatal(err)
		}
		batch := "put -r local/odd there\nget -r there local/back\nls -la there\n"
		out, errs := runSFTP(t, ownServer(t), dir, batch)
		got, err := os.ReadFile(filepath.Join(dir, "local/back", name))
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("%q: got %q, %v back\n%s\n%s", name, got, err, out, errs)
		}
	}
}

func TestDirectoryOfFiveThousandFiles(t *testing.T) {
	dir := workDir(t)
	many := filepath.Join(dir, "many")
	if err := os.Mkdir(many, 0o755); err != nil {
		t.Fatal(err)
	}
	for i := range 5000 {
		name := "file-" + strconv.Itoa(i) + strings.Repeat("x", 200)
		if err := os.WriteFile(filepath.Join(many, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	out, errs := runSFTP(t, ownServer(t), dir, "ls -1f many\n")
	if got := strings.Count(out, "file-"); got != 5000 {
		t.Errorf("got %d entries, want 5000 (%s)", got, errs)
	}
}

// Offsets beyond 4 GiB are right: reget transfers the missing end of a file of more than 5 GiB.
func TestLargeAndSparseFiles(t *testing.T) {
	dir := workDir(t)
	big := filepath.Join(dir, "big")
	f, err := os.Create(big)
	if err != nil {
		t.Fatal(err)
	}
	tail := make([]byte, 1<<20)
	_, _ = rand.Read(tail)
	if _, err := f.WriteAt(tail, 5<<30); err != nil {
		t.Fatal(err)
	}
	f.Close()
	// reget transfers only what is missing at the end.
	if err := os.Truncate(filepath.Join(dir, "local/part"), 5<<30); err != nil {
		t.Fatal(err)
	}
	runSFTP(t, ownServer(t), dir, "reget big local/part\nls -l big\n")
	part, err := os.Open(filepath.Join(dir, "local/part"))
	if err != nil {
		t.Fatal(err)
	}
	defer part.Close()
	got := make([]byte, len(tail))
	if _, err := part.ReadAt(got, 5<<30); err != nil && err != io.EOF || !bytes.Equal(got, tail) {
		t.Errorf("got other bytes past 5 GiB (%v)", err)
	}
}

func TestRequestsOfEverySize(t *testing.T) {
	dir := workDir(t)
	data := make([]byte, 3<<20+17)
	_, _ = rand.Read(data)
	if err := os.WriteFile(filepath.Join(dir, "data"), data, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, options := range [][]string{
		nil, {"-B", "1024"}, {"-B", "250000"}, {"-R", "1"}, {"-R", "512"}, {"-B", "260000", "-R", "256"},
	} {
		runSFTP(t, ownServer(t), dir, "put data there\nget there back\n", options...)
		if got, err := os.ReadFile(filepath.Join(dir, "back")); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%v: got %d bytes, %v, want the same %d", options, len(got), err, len(data))
		}
		_ = os.Remove(filepath.Join(dir, "back"))
	}
}

// BenchmarkBesideOpenSSH transfers a file with OpenSSH's client over a local pipe, in each direction, with
// our server and with OpenSSH's.
func BenchmarkBesideOpenSSH(b *testing.B) {
	const size = 256 << 20
	dir := b.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "data"), make([]byte, size), 0o600); err != nil {
		b.Fatal(err)
	}
	for _, verb := range []string{"put", "get"} {
		for name, server := range map[string]string{"threshold": ownServer(b), "openssh": opensshServer} {
			b.Run(verb+"/"+name, func(b *testing.B) {
				b.SetBytes(size)
				for b.Loop() {
					if _, errs := runSFTP(b, server, dir, verb+" data there\n"); errs != "" {
						b.Fatal(errs)
					}
				}
			})
		}
	}
}
