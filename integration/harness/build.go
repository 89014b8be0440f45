// Package harness answers: how does an integration test start the real programs and use them as a user would?
//
// It builds the binaries once, runs them as separate processes, and submits the login pages through
// internal/formbrowser. When a test fails, the output of its processes is printed. The kernel chooses every
// port. "Test" in this package means the running test: a user story of package integration, or a benchmark.
package harness

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// build has the result of building the programs, once for all tests.
var build struct {
	once sync.Once
	dir  string
	err  error
}

// Bin returns the path of a built program: threshold, threshold-node, threshold-demo or tsh.
func Bin(t testing.TB, name string) string {
	t.Helper()
	build.once.Do(func() { build.dir, build.err = buildAll() })
	if build.err != nil {
		t.Fatal(build.err)
	}
	return filepath.Join(build.dir, name)
}

// buildAll runs make build in the module's root, and returns the folder with the programs, bin/. It takes
// little time when nothing has changed since the last build.
func buildAll() (string, error) {
	const module = "github.com/threshold-access/threshold"
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", module).Output()
	if err != nil {
		return "", fmt.Errorf("find the module: %w", err)
	}
	root := strings.TrimSpace(string(out))
	dir := filepath.Join(root, "bin")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	if out, err := Build("make", "-C", root, "build"); err != nil {
		return "", fmt.Errorf("make build: %w\n%s", err, out)
	}
	return dir, nil
}
