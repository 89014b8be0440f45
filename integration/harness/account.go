package harness

import (
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// MakeAccount makes an operating-system account with a home and bash, under a name of this run's own that begins with prefix, until
// the story ends. It needs root.
func MakeAccount(t testing.TB, prefix string) *user.User {
	t.Helper()
	name := fmt.Sprintf("%s%d", prefix, os.Getpid())
	AsRoot(t, "useradd", "--create-home", "--shell", "/bin/bash", name)
	t.Cleanup(func() { removeAccount(t, name) })
	u, err := user.Lookup(name)
	if err != nil {
		t.Fatal(err)
	}
	return u
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
