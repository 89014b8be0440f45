//go:build integration

package harness

import (
	"errors"
	"fmt"
	"os/exec"
	"os/user"
	"testing"
)

func TestAccountsOfEndedRunsAreRemoved(t *testing.T) {
	ended := exec.Command("true")
	if err := ended.Run(); err != nil {
		t.Fatal(err)
	}
	name := fmt.Sprintf("thorphan%d", ended.Process.Pid)
	AsRoot(t, "useradd", "--create-home", "--comment", fmt.Sprint(accountComment, ended.Process.Pid), name)
	own := MakeAccount(t, "thown")
	var unknown user.UnknownUserError
	if _, err := user.Lookup(name); !errors.As(err, &unknown) {
		t.Errorf("got %v, want the account of a run that has ended removed", err)
	}
	MakeAccount(t, "thother")
	if _, err := user.Lookup(own.Username); err != nil {
		t.Errorf("got %v, want the account of this run kept", err)
	}
}
