package harness

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// AccountFixture is a set of folders with accounts for one test. A command that is started with CommandPrefix
// sees these folders in place of the machine's /etc, /home, /run, /var/log and /var/mail. The machine's own
// accounts are not changed.
type AccountFixture struct {
	Dir string // holds the folders: etc, home, run, var/log, var/mail
	t   testing.TB
}

// accountFixtureScript mounts the folders of the fixture in $0 over those of the machine and then executes
// the command in its other arguments.
const accountFixtureScript = `set -e
for dir in etc home run var/log var/mail; do mount --bind "$0/$dir" "/$dir"; done
exec "$@"`

// copyEtcScript copies /etc into the folder $1. It uses tar because other tests run at the same time and
// create and remove accounts: files such as /etc/passwd.lock can vanish while they are copied, on which cp
// would fail.
const copyEtcScript = `tar -C / -cf - --ignore-failed-read \
	--warning=no-file-removed --warning=no-file-changed etc |
	tar -C "$1" -xpf -`

// NewAccountFixture returns a fixture with a copy of the machine's /etc. The other folders are empty, except
// for empty files of login records: utmp, wtmp and lastlog. The folders are removed when the test ends. It
// needs root.
func NewAccountFixture(t testing.TB) *AccountFixture {
	t.Helper()
	f := &AccountFixture{Dir: t.TempDir(), t: t}
	for _, dir := range []string{"home", "run", "var/log", "var/mail"} {
		if err := os.MkdirAll(filepath.Join(f.Dir, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.Command("sh", "-c", copyEtcScript, "sh", f.Dir).CombinedOutput(); err != nil {
		t.Fatalf("copy /etc: %v %s", err, out)
	}
	for _, name := range []string{"run/utmp", "var/log/wtmp", "var/log/lastlog"} {
		f.Put(name, "")
	}
	return f
}

// Add creates an account with useradd, with a home directory and bash. more are further options of useradd.
func (f *AccountFixture) Add(name string, more ...string) {
	f.t.Helper()
	args := []string{"useradd", "--prefix", f.Dir, "--create-home", "--shell", "/bin/bash"}
	AsRoot(f.t, append(append(args, more...), name)...)
}

// AddGroup creates a group with groupadd.
func (f *AccountFixture) AddGroup(name string) {
	f.t.Helper()
	AsRoot(f.t, "groupadd", "--prefix", f.Dir, name)
}

// Put writes a file of mode 0644. name is relative to Dir.
func (f *AccountFixture) Put(name, text string) {
	f.t.Helper()
	path := filepath.Join(f.Dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		f.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		f.t.Fatal(err)
	}
}

// Remove removes a file. name is relative to Dir.
func (f *AccountFixture) Remove(name string) {
	f.t.Helper()
	if err := os.Remove(filepath.Join(f.Dir, name)); err != nil {
		f.t.Fatal(err)
	}
}

// CommandPrefix returns the words to put in front of a command that shall see the fixture. They run the
// command in a mount namespace of its own.
func (f *AccountFixture) CommandPrefix() []string {
	return []string{"unshare", "--mount", "--propagation", "private", "sh", "-c", accountFixtureScript, f.Dir}
}
