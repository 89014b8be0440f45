// Package harness answers: how does a story start the real programs and use them as a person would?
//
// It builds the binaries once, runs them as processes of their own, drives the login pages through
// internal/formbrowser, and prints what a process said when a story fails. Every port is chosen by the
// kernel.
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

var build struct {
	once sync.Once
	dir  string
	err  error
}

// Bin gives the path of one of the built programs: threshold, threshold-node, threshold-demo or tsh.
func Bin(t testing.TB, name string) string {
	t.Helper()
	build.once.Do(func() { build.dir, build.err = buildAll() })
	if build.err != nil {
		t.Fatal(build.err)
	}
	return filepath.Join(build.dir, name)
}

// buildAll builds into the module's bin/, as make build does: the go command does nothing when nothing
// changed.
func buildAll() (string, error) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/threshold-access/threshold").
		Output()
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
