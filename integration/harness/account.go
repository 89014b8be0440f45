package harness

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// accountComment is the comment of the accounts that a run makes, before its process id: what a killed run
// leaves behind is known by it.
const accountComment = "made by the stories of process "

// MakeAccount makes an operating-system account with a home and bash, under a name of this run's own that
// begins with prefix, until the story ends. It needs root.
func MakeAccount(t testing.TB, prefix string) *user.User {
	t.Helper()
	removeOrphans(t)
	name := fmt.Sprintf("%s%d", prefix, os.Getpid())
	AsRoot(
		t,
		"useradd",
		"--create-home",
		"--shell",
		"/bin/bash",
		"--comment",
		accountComment+strconv.Itoa(os.Getpid()),
		name,
	)
	t.Cleanup(func() { removeAccount(t, name) })
	u, err := user.Lookup(name)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// removeOrphans removes the accounts of runs that are no more.
func removeOrphans(t testing.TB) {
	t.Helper()
	all, err := exec.Command("getent", "passwd").Output()
	if err != nil {
		t.Fatalf("getent passwd: %v", err)
	}
	for line := range strings.Lines(string(all)) {
		fields := strings.Split(line, ":")
		if len(fields) != 7 {
			continue
		}
		pid, ours := strings.CutPrefix(fields[4], accountComment)
		if _, err := os.Stat("/proc/" + pid); ours && errors.Is(err, os.ErrNotExist) {
			removeAccount(t, fields[0])
		}
	}
}

// removeAccount ends what runs as the account, then removes it with its home.
func removeAccount(t testing.TB, name string) {
	t.Helper()
	running, _ := exec.Command("pgrep", "-u", name).Output() // it fails where nothing runs
	for _, word := range strings.Fields(string(running)) {
		if pid, err := strconv.Atoi(word); err == nil {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended by itself
		}
	}
	AsRoot(t, "userdel", "--force", "--remove", name)
}
