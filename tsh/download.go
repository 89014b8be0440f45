package tsh

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"unicode/utf8"

	"github.com/threshold-access/threshold/internal/fault"
)

// download copies files of the node to a path here.
func (t *transfer) download(sources []place, to string, into bool) error {
	for _, src := range sources {
		names, err := t.expand(src.path)
		if err != nil {
			return err
		}
		if len(names) > 1 && !into {
			return fault.New(
				fault.Invalid,
				"",
				fmt.Sprintf("%s means %d files, and %s is no folder here", src.path, len(names), to),
				"make it first: mkdir -p "+to,
			)
		}
		for _, name := range names {
			dst := to
			if into {
				base, err := t.baseName(name)
				if err != nil {
					return err
				}
				dst = filepath.Join(to, base)
			}
			if err := t.get(name, dst, 0); err != nil {
				return err
			}
		}
	}
	return nil
}

// expand finds what a path with wildcards means on the node. Every answer must match the pattern: a node does
// not choose names here.
func (t *transfer) expand(pattern string) ([]string, error) {
	if _, err := t.remote.Lstat(pattern); err == nil || !strings.ContainsAny(pattern, "*?[") {
		return []string{pattern}, nil
	}
	names, err := t.remote.Glob(pattern)
	if err != nil {
		return nil, t.remoteFault(pattern, err)
	}
	if len(names) == 0 {
		return nil, t.remoteFault(pattern, fs.ErrNotExist)
	}
	for _, n := range names {
		if ok, err := path.Match(path.Clean(pattern), path.Clean(n)); err != nil || !ok ||
			checkName(path.Base(n)) != nil {
			return nil, badName(n)
		}
	}
	return names, nil
}

// baseName is what a remote path is called here: its last part, or for "." and ".." the folder's true name.
func (t *transfer) baseName(name string) (string, error) {
	base := path.Base(path.Clean(name))
	if base == "." || base == ".." || base == "/" {
		real, err := t.remote.RealPath(name)
		if err != nil {
			return "", t.remoteFault(name, err)
		}
		base = path.Base(real)
	}
	if checkName(base) != nil {
		return "", badName(base)
	}
	return base, nil
}

// maxDepth bounds how deep a download follows folders: a node could make them up without end.
const maxDepth = 256

func (t *transfer) get(src, dst string, depth int) error {
	if err := t.ctx.Err(); err != nil {
		return err
	}
	info, err := t.remote.Stat(src)
	switch {
	case err != nil:
		return t.remoteFault(src, err)
	case !info.IsDir():
		return t.getFile(src, dst, info)
	case !t.recursive:
		return fault.New(fault.Invalid, "", clean(src)+" is a folder on the node", "add -r to copy folders")
	case depth >= maxDepth:
		return fault.New(
			fault.Invalid,
			"",
			fmt.Sprintf("folders on the node are more than %d deep at %s", maxDepth, clean(src)),
			"copy a part at a time",
		)
	}
	entries, err := t.remote.ReadDir(src)
	if err != nil {
		return t.remoteFault(src, err)
	}
	if err := makeLocalDir(dst); err != nil {
		return err
	}
	for _, e := range entries {
		if err := t.getEntry(src, dst, e, depth); err != nil {
			return err
		}
	}
	if t.preserve {
		return preserveLocal(dst, info)
	}
	return nil
}

func (t *transfer) getEntry(src, dst string, e fs.FileInfo, depth int) error {
	name := e.Name()
	if name == "." || name == ".." {
		return nil
	}
	if checkName(name) != nil {
		return badName(name)
	}
	if special(e.Mode()) {
		fmt.Fprintf(t.app.Stderr, "tsh: %s is no plain file, left out\n", clean(path.Join(src, name)))
		return nil
	}
	return t.get(path.Join(src, name), filepath.Join(dst, name), depth+1)
}

// makeLocalDir makes the folder, or takes one that is there. A link to a folder may be the person's own: a
// download makes no links.
func makeLocalDir(dst string) error {
	err := os.Mkdir(dst, 0o777) // less the umask
	if errors.Is(err, fs.ErrExist) {
		if info, err := os.Stat(dst); err == nil && info.IsDir() {
			return nil
		}
	}
	return localFault(dst, err)
}

// checkName refuses what a node may not name a file here: a way to elsewhere, or what a terminal could obey.
func checkName(name string) error {
	if name == "" || name == "." || name == ".." || strings.ContainsAny(name, `/\`) ||
		!utf8.ValidString(name) ||
		clean(name) != name {
		return fmt.Errorf("name %q", name)
	}
	return nil
}

func badName(name string) error {
	return fault.New(
		fault.Denied,
		"",
		fmt.Sprintf("the node offers a file by the name %q, which tsh does not write here", name),
		"copy such a file by itself, under a name that you choose",
	)
}

// getFile writes beside the destination, then takes its name.
func (t *transfer) getFile(src, dst string, info fs.FileInfo) (err error) {
	in, err := t.remote.Open(src)
	if err != nil {
		return t.remoteFault(src, err)
	}
	defer in.Close()
	out, finish, err := createLocal(dst, info.Mode().Perm())
	if err != nil {
		return localFault(dst, err)
	}
	bar := t.meter.begin(dst, info.Size())
	defer bar.end()
	w := bar.writer(t.ctx, out)
	_, err = in.WriteTo(w)
	switch {
	case t.ctx.Err() != nil:
		_ = finish(t.ctx.Err())
		return t.ctx.Err()
	case w.failed != nil:
		return localFault(dst, finish(w.failed))
	case err != nil:
		_ = finish(err)
		return t.remoteFault(src, err)
	}
	if err := finish(nil); err != nil {
		return localFault(dst, err)
	}
	bar.done()
	if t.preserve {
		return preserveLocal(dst, info)
	}
	return nil
}

// createLocal opens a file that takes the name dst when finish is called with nil, and else vanishes. What is
// there already keeps its mode; a device or pipe is written to as it is; a link is followed.
func createLocal(dst string, mode fs.FileMode) (*os.File, func(error) error, error) {
	if real, err := filepath.EvalSymlinks(dst); err == nil {
		dst = real
	}
	old, err := os.Stat(dst)
	if err == nil && !old.Mode().IsRegular() {
		if old.IsDir() {
			return nil, nil, syscall.EISDIR
		}
		f, err := os.OpenFile(dst, os.O_WRONLY, 0)
		return f, func(failed error) error { return cmp.Or(failed, f.Close()) }, err
	}
	name := filepath.Join(filepath.Dir(dst), tempName(filepath.Base(dst)))
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666&mode|0o600)
	if err != nil {
		return nil, nil, err
	}
	finish := func(failed error) error {
		if failed == nil {
			failed = settle(f, old, mode)
		}
		if err := f.Close(); failed == nil {
			failed = err
		}
		if failed == nil {
			failed = os.Rename(name, dst)
		}
		if failed != nil {
			_ = os.Remove(name)
		}
		return failed
	}
	return f, finish, nil
}

// settle gives the file its mode and makes it durable before it takes its name.
func settle(f *os.File, old fs.FileInfo, mode fs.FileMode) error {
	made, err := f.Stat()
	if err != nil {
		return err
	}
	perm := made.Mode().Perm() | mode&0o111&(made.Mode().Perm()>>2)
	if old != nil {
		perm = old.Mode().Perm()
	}
	if perm != made.Mode().Perm() {
		if err := f.Chmod(perm); err != nil {
			return err
		}
	}
	return f.Sync()
}

func preserveLocal(dst string, info fs.FileInfo) error {
	err := os.Chmod(dst, info.Mode().Perm())
	if err == nil {
		err = os.Chtimes(dst, info.ModTime(), info.ModTime())
	}
	return localFault(dst, err)
}
