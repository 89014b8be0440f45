package harness

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// AccountFixture is the accounts, homes and records of a machine of the story's own, seen by what it runs
// alone: /etc, /home, /run, /var/log and /var/mail. The machine's own accounts stay as they are.
type AccountFixture struct {
	Dir string
	t   testing.TB
}

// accountFixtureScript puts the folders in place and becomes the command.
const accountFixtureScript = `set -e
for dir in etc home run var/log var/mail; do mount --bind "$0/$dir" "/$dir"; done
exec "$@"`

// NewAccountFixture makes one with the machine's configuration and nobody new in it. It needs root.
func NewAccountFixture(t testing.TB) *AccountFixture {
	t.Helper()
	h := &AccountFixture{Dir: t.TempDir(), t: t}
	for _, dir := range []string{"home", "run", "var/log", "var/mail"} {
		if err := os.MkdirAll(filepath.Join(h.Dir, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.Command("cp", "-a", "/etc", h.Dir).CombinedOutput(); err != nil {
		t.Fatalf("copy /etc: %v %s", err, out)
	}
	for _, name := range []string{"run/utmp", "var/log/wtmp", "var/log/lastlog"} {
		h.Put(name, "")
	}
	return h
}

// Add makes an account with useradd, a home and bash, in the groups given, which are made as well.
func (h *AccountFixture) Add(name string, more ...string) {
	h.t.Helper()
	AsRoot(
		h.t,
		append(
			append([]string{"useradd", "--prefix", h.Dir, "--create-home", "--shell", "/bin/bash"}, more...),
			name,
		)...)
}

// AddGroup makes a group with groupadd.
func (h *AccountFixture) AddGroup(name string) {
	h.t.Helper()
	AsRoot(h.t, "groupadd", "--prefix", h.Dir, name)
}

// Put writes a file that everyone there may read.
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

// Remove removes a file.
func (h *AccountFixture) Remove(name string) {
	h.t.Helper()
	if err := os.Remove(filepath.Join(h.Dir, name)); err != nil {
		h.t.Fatal(err)
	}
}

// CommandPrefix is what to put in front of a command that shall run there.
func (h *AccountFixture) CommandPrefix() []string {
	return []string{"unshare", "--mount", "--propagation", "private", "sh", "-c", accountFixtureScript, h.Dir}
}
