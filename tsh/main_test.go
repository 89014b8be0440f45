package tsh_test

import (
	"context"
	"fmt"
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"go.uber.org/goleak"

	"github.com/threshold-access/threshold/tsh"
)

// leakCheck runs the tests and then fails if they left goroutines behind. testscript.Main ends the process
// with the exit code, so goleak.VerifyTestMain cannot do it.
type leakCheck struct{ m *testing.M }

func (l leakCheck) Run() int {
	code := l.m.Run()
	if code != 0 {
		return code
	}
	if err := goleak.Find(); err != nil {
		fmt.Fprintln(os.Stderr, "goroutines are left after the tests:", err)
		return 1
	}
	return 0
}

// TestMain runs the tests, or tsh if the test's own program is called by that name.
func TestMain(m *testing.M) {
	testscript.Main(leakCheck{m}, map[string]func(){"tsh": func() {
		os.Exit(tsh.Main(context.Background(), tsh.Env{
			Args:    os.Args[1:],
			Stdin:   os.Stdin,
			Stdout:  os.Stdout,
			Stderr:  os.Stderr,
			Getenv:  os.Getenv,
			Version: "v1.2.3",
		}))
	}})
}

// TestStories runs the scripts in testdata: how tsh behaves without a cluster.
func TestStories(t *testing.T) {
	setup := func(e *testscript.Env) error {
		e.Setenv("TSH_HOME", e.WorkDir+"/home")
		e.Setenv("SSH_AUTH_SOCK", "")
		return nil
	}
	testscript.Run(t, testscript.Params{Dir: "testdata", RequireExplicitExec: true, Setup: setup})
}
