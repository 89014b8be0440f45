package repocheck_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

const module = "github.com/threshold-access/threshold"

// root is the top of the repository, seen from this folder.
const root = "../.."

// pkg is what go list says of a package of this module.
type pkg struct {
	ImportPath   string
	Dir          string
	Doc          string
	GoFiles      []string
	Imports      []string
	TestImports  []string // of tests inside the package
	XTestImports []string // of tests outside of it
	Deps         []string
}

// name is the package's folder, as "auth/login".
func (p pkg) name() string { return folderOf(p.ImportPath) }

// folderOf returns an import path's folder in this repository, or "" for a package of another module.
func folderOf(importPath string) string {
	name, ok := strings.CutPrefix(importPath, module+"/")
	if !ok {
		return ""
	}
	return name
}

// packages lists the packages of this module whose files belong to the repository.
var packages = sync.OnceValues(func() ([]pkg, error) {
	const fields = "-json=ImportPath,Dir,Doc,GoFiles,Imports,TestImports,XTestImports,Deps"
	cmd := exec.Command("go", "list", "-e", fields, "-tags=integration", "./...")
	cmd.Dir = root
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, err
	}
	kept, err := files()
	if err != nil {
		return nil, err
	}
	var all []pkg
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		err := dec.Decode(&p)
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(kept, func(f string) bool { return path.Dir(f) == p.name() }) {
			all = append(all, p)
		}
	}
})

// files lists the files of the repository: those that git tracks or would add, without the deleted ones. In a
// folder that is no git repository, as an unpacked release, it lists all files.
var files = sync.OnceValues(func() ([]string, error) {
	cmd := exec.Command("git", "ls-files", "--cached", "--others", "--exclude-standard", "-z")
	cmd.Dir = root
	out, err := cmd.Output()
	if err != nil {
		return walkFiles()
	}
	var all []string
	for name := range strings.SplitSeq(strings.TrimSuffix(string(out), "\x00"), "\x00") {
		// git lists a deleted file until the deletion is committed.
		if _, err := os.Stat(filepath.Join(root, name)); err == nil {
			all = append(all, name)
		}
	}
	return all, nil
})

// walkFiles lists all files below root.
func walkFiles() ([]string, error) {
	var all []string
	err := filepath.WalkDir(root, func(name string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			rel, _ := filepath.Rel(root, name)
			all = append(all, filepath.ToSlash(rel))
		}
		return err
	})
	return all, err
}

func listPackages(t *testing.T) []pkg {
	t.Helper()
	all, err := packages()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	return all
}

func listFiles(t *testing.T) []string {
	t.Helper()
	all, err := files()
	if err != nil {
		t.Fatalf("list files: %v", err)
	}
	return all
}

// The other tests would pass on empty lists.
func TestTheListsAreComplete(t *testing.T) {
	t.Parallel()
	var names []string
	for _, p := range listPackages(t) {
		names = append(names, p.name())
	}
	for _, want := range []string{"internal/fault", "internal/identity", "internal/repocheck"} {
		if !slices.Contains(names, want) {
			t.Errorf("got packages %v, want %s among them", names, want)
		}
	}
	if !slices.Contains(listFiles(t), "go.mod") {
		t.Error("got no go.mod among the files")
	}
}
