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

// accountComment begins the comment of every account that a test run creates; the process id of the run
// follows. By it a later run finds the accounts that a killed run has left behind.
const accountComment = "made by the stories of process "

// MakeAccount creates an operating-system account with a home directory and bash. Its name is prefix and the
// process id. The account is removed when the test ends. MakeAccount needs root.
func MakeAccount(t testing.TB, prefix string) *user.User {
	t.Helper()
	removeOrphans(t)
	name := fmt.Sprintf("%s%d", prefix, os.Getpid())
	comment := accountComment + strconv.Itoa(os.Getpid())
	AsRoot(t, "useradd", "--create-home", "--shell", "/bin/bash", "--comment", comment, name)
	t.Cleanup(func() { removeAccount(t, name) })
	u, err := user.Lookup(name)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// removeOrphans removes the accounts of runs that have ended.
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

// removeAccount kills the processes of the account, then removes it with its home directory.
func removeAccount(t testing.TB, name string) {
	t.Helper()
	running, _ := exec.Command("pgrep", "-u", name).Output() // fails when nothing runs
	for _, word := range strings.Fields(string(running)) {
		if pid, err := strconv.Atoi(word); err == nil {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended already
		}
	}
	AsRoot(t, "userdel", "--force", "--remove", name)
}
