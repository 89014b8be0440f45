package tsh_test

import (
	"context"
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/threshold-access/threshold/tsh"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"tsh": func() {
		os.Exit(
			tsh.Main(
				context.Background(),
				tsh.Env{
					Args:    os.Args[1:],
					Stdin:   os.Stdin,
					Stdout:  os.Stdout,
					Stderr:  os.Stderr,
					Getenv:  os.Getenv,
					Version: "v1.2.3",
				},
			),
		)
	}})
}

// Stories tell how tsh behaves where no cluster is needed.
func TestStories(t *testing.T) {
	testscript.Run(
		t,
		testscript.Params{Dir: "testdata", RequireExplicitExec: true, Setup: func(e *testscript.Env) error {
			e.Setenv("TSH_HOME", e.WorkDir+"/home")
			e.Setenv("SSH_AUTH_SOCK", "")
			return nil
		}},
	)
}
