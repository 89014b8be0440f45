package durable_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/threshold-access/threshold/internal/durable"
)

// WriteFile replaces a file, with mode 0600. When it fails it leaves no temporary file behind.
func TestWriteFileReplacesOrLeavesAlone(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	for _, body := range []string{"one", "two"} {
		if err := durable.WriteFile(path, []byte(body)); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != body {
			t.Errorf("got %q (%v), want %q", got, err, body)
		}
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("got %v (%v), want mode 0600", info.Mode(), err)
	}
	if err := os.Mkdir(filepath.Join(dir, "folder"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := durable.WriteFile(filepath.Join(dir, "folder"), []byte("x")); err == nil {
		t.Error("over a folder: got no error, want one")
	}
	if err := durable.WriteFile(filepath.Join(dir, "missing", "f"), []byte("x")); err == nil {
		t.Error("in a folder that is not there: got no error, want one")
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 2 {
		t.Errorf("got %v (%v), want no file left over", entries, err)
	}
}
