package harness

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
)

// accountComment begins the comment of every account that a test run creates; the process id of the run comes
// after it. By the comment a later run finds the accounts of a run that was killed.
const accountComment = "made by the stories of process "

// accounts counts the accounts that this process has created.
var accounts atomic.Uint32

// MakeAccount creates an operating-system account with a home directory and bash, and returns it. Its name is
// prefix, the process id and a number. The account is removed when the test ends. MakeAccount also removes
// accounts that an earlier run has left. It needs root.
func MakeAccount(t testing.TB, prefix string) *user.User {
	t.Helper()
	removeOrphans(t)
	name := fmt.Sprintf("%s%d-%d", prefix, os.Getpid(), accounts.Add(1))
	comment := accountComment + strconv.Itoa(os.Getpid())
	AsRoot(t, "useradd", "--create-home", "--shell", "/bin/bash", "--comment", comment, name)
	t.Cleanup(func() { removeAccount(t, name) })
	u, err := user.Lookup(name)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// removeOrphans removes the accounts of test runs that have ended. It finds them by accountComment.
func removeOrphans(t testing.TB) {
	t.Helper()
	all, err := exec.Command("getent", "passwd").Output()
	if err != nil {
		t.Fatalf("getent passwd: %v", err)
	}
	for line := range strings.Lines(string(all)) {
		fields := strings.Split(line, ":") // passwd(5)
		if len(fields) != 7 {
			continue
		}
		name, comment := fields[0], fields[4]
		pid, isOurs := strings.CutPrefix(comment, accountComment)
		if !isOurs {
			continue
		}
		if _, err := os.Stat("/proc/" + pid); errors.Is(err, os.ErrNotExist) { // that run has ended
			removeAccount(t, name)
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
