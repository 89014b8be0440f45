package harness

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// AccountFixture is a set of folders that stand in for /etc, /home, /run, /var/log and /var/mail of this
// machine, with accounts of the test's own. Only commands that are run with CommandPrefix see them; the
// machine's own accounts are not touched.
type AccountFixture struct {
	Dir string // holds the folders: etc, home, run, var/log, var/mail
	t   testing.TB
}

// accountFixtureScript mounts the folders and then executes the command.
const accountFixtureScript = `set -e
for dir in etc home run var/log var/mail; do mount --bind "$0/$dir" "/$dir"; done
exec "$@"`

// copyEtcScript copies /etc into a folder. Stories that run beside this one create and remove accounts, so
// files such as /etc/passwd.lock come and go meanwhile; tar passes over them, where cp would fail.
const copyEtcScript = `tar -C / -cf - --ignore-failed-read \
	--warning=no-file-removed --warning=no-file-changed etc |
	tar -C "$1" -xpf -`

// NewAccountFixture copies the machine's /etc. The other folders are empty. It needs root.
func NewAccountFixture(t testing.TB) *AccountFixture {
	t.Helper()
	h := &AccountFixture{Dir: t.TempDir(), t: t}
	for _, dir := range []string{"home", "run", "var/log", "var/mail"} {
		if err := os.MkdirAll(filepath.Join(h.Dir, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.Command("sh", "-c", copyEtcScript, "sh", h.Dir).CombinedOutput(); err != nil {
		t.Fatalf("copy /etc: %v %s", err, out)
	}
	for _, name := range []string{"run/utmp", "var/log/wtmp", "var/log/lastlog"} {
		h.Put(name, "")
	}
	return h
}

// Add creates an account with useradd, with a home directory and bash. more are further options of useradd.
func (h *AccountFixture) Add(name string, more ...string) {
	h.t.Helper()
	args := []string{"useradd", "--prefix", h.Dir, "--create-home", "--shell", "/bin/bash"}
	AsRoot(h.t, append(append(args, more...), name)...)
}

// AddGroup creates a group with groupadd.
func (h *AccountFixture) AddGroup(name string) {
	h.t.Helper()
	AsRoot(h.t, "groupadd", "--prefix", h.Dir, name)
}

// Put writes a file of mode 0644. name is relative to Dir.
func (h *AccountFixture) Put(name, text string) {
	h.t.Helper()
	path := filepath.Join(h.Dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		h.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		h.t.Fatal(err)
	}
}

// Remove removes a file. name is relative to Dir.
func (h *AccountFixture) Remove(name string) {
	h.t.Helper()
	if err := os.Remove(filepath.Join(h.Dir, name)); err != nil {
		h.t.Fatal(err)
	}
}

// CommandPrefix is to be put in front of a command that shall see the fixture.
func (h *AccountFixture) CommandPrefix() []string {
	return []string{"unshare", "--mount", "--propagation", "private", "sh", "-c", accountFixtureScript, h.Dir}
}
