package transfer

import (
	"cmp"
	"context"
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
	"github.com/threshold-access/threshold/tsh/terminal"
)

// maxDepth bounds how many nested folders a download follows: a hostile node could send an endless tree.
const maxDepth = 256

// Download copies files of the node to this machine. Sources may contain the wildcards *, ? and [...]. If
// intoDir is true, to is an existing folder and each file keeps its name in it. Otherwise to is the new name
// of the one file that the sources match; several files are an error. It stops at the first error and returns
// the error of ctx if that ends.
func (c *Copier) Download(ctx context.Context, sources []string, to string, intoDir bool) error {
	for _, src := range sources {
		names, err := c.expand(ctx, src)
		if err != nil {
			return err
		}
		if len(names) > 1 && !intoDir {
			const format = "%s matches %d files, but %s is not a folder on this machine"
			msg := fmt.Sprintf(format, src, len(names), to)
			return fault.New(fault.Invalid, "", msg, "create it first: mkdir -p "+to)
		}
		for _, name := range names {
			dst := to
			if intoDir {
				base, err := c.baseName(ctx, name)
				if err != nil {
					return err
				}
				dst = filepath.Join(to, base)
			}
			if err := c.get(ctx, name, dst, 0); err != nil {
				return err
			}
		}
	}
	return nil
}

// expand returns the files of the node that pattern matches. It checks every returned name against the
// pattern, so that the node cannot choose names on this machine.
func (c *Copier) expand(ctx context.Context, pattern string) ([]string, error) {
	if _, err := c.remote.Lstat(pattern); err == nil || !strings.ContainsAny(pattern, "*?[") {
		return []string{pattern}, nil
	}
	names, err := c.remote.Glob(pattern)
	if err != nil {
		return nil, remoteFault(ctx, pattern, err)
	}
	if len(names) == 0 {
		return nil, remoteFault(ctx, pattern, fs.ErrNotExist)
	}
	for _, n := range names {
		matches, err := path.Match(path.Clean(pattern), path.Clean(n))
		if err != nil || !matches || checkName(path.Base(n)) != nil {
			return nil, unsafeNameFault(n)
		}
	}
	return names, nil
}

// baseName returns the local name of a remote path: its last element, or the folder's real name for "." and
// "..".
func (c *Copier) baseName(ctx context.Context, name string) (string, error) {
	base := path.Base(path.Clean(name))
	if base == "." || base == ".." || base == "/" {
		real, err := c.remote.RealPath(name)
		if err != nil {
			return "", remoteFault(ctx, name, err)
		}
		base = path.Base(real)
	}
	if checkName(base) != nil {
		return "", unsafeNameFault(base)
	}
	return base, nil
}

// get copies the remote file or folder src to dst. It is an error if src is a folder and Recursive is not
// set. depth is the number of folders above src in this copy.
func (c *Copier) get(ctx context.Context, src, dst string, depth int) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	info, err := c.remote.Stat(src)
	switch {
	case err != nil:
		return remoteFault(ctx, src, err)
	case !info.IsDir():
		return c.getFile(ctx, src, dst, info)
	case !c.opts.Recursive:
		msg := terminal.Clean(src) + " is a folder on the node"
		return fault.New(fault.Invalid, "", msg, "add -r to copy folders")
	case depth >= maxDepth:
		const format = "folders on the node are nested more than %d deep at %s"
		msg := fmt.Sprintf(format, maxDepth, terminal.Clean(src))
		return fault.New(fault.Invalid, "", msg, "copy a part of the tree at a time")
	}
	entries, err := c.remote.ReadDir(src)
	if err != nil {
		return remoteFault(ctx, src, err)
	}
	if err := makeLocalDir(dst); err != nil {
		return err
	}
	for _, e := range entries {
		if err := c.getEntry(ctx, src, dst, e, depth); err != nil {
			return err
		}
	}
	if c.opts.Preserve {
		return preserveLocal(dst, info)
	}
	return nil
}

// getEntry copies one entry of a folder. It refuses unsafe names and leaves special files out.
func (c *Copier) getEntry(ctx context.Context, src, dst string, e fs.FileInfo, depth int) error {
	name := e.Name()
	if name == "." || name == ".." {
		return nil
	}
	if checkName(name) != nil {
		return unsafeNameFault(name)
	}
	if isSpecial(e.Mode()) {
		c.skipped(terminal.Clean(path.Join(src, name)))
		return nil
	}
	return c.get(ctx, path.Join(src, name), filepath.Join(dst, name), depth+1)
}

// makeLocalDir creates the folder. An existing folder is used, also through a symbolic link: the link is the
// user's own, because a download creates none.
func makeLocalDir(dst string) error {
	err := os.Mkdir(dst, 0o777) // less the umask
	if errors.Is(err, fs.ErrExist) {
		if info, err := os.Stat(dst); err == nil && info.IsDir() {
			return nil
		}
	}
	return localFault(dst, err)
}

// checkName refuses a file name that a node must not choose on this machine: one that leads to another
// folder, or one with characters that a terminal obeys or that cannot be seen.
func checkName(name string) error {
	if name == "" || name == "." || name == ".." || strings.ContainsAny(name, `/\`) ||
		!utf8.ValidString(name) || terminal.Clean(name) != name {
		return fmt.Errorf("name %q", name)
	}
	return nil
}

// unsafeNameFault is the error of a name that checkName refuses. It quotes the name, which makes it safe to
// print.
func unsafeNameFault(name string) error {
	msg := fmt.Sprintf("the node sent the unsafe file name %q: tsh does not create it on this machine", name)
	return fault.New(fault.Denied, "", msg, "copy this file by itself, to a name that you choose")
}

// getFile copies the remote file src to dst. It writes to a temporary file beside dst and renames it when it
// is complete; on an error it removes the temporary file. info describes src.
func (c *Copier) getFile(ctx context.Context, src, dst string, info fs.FileInfo) (err error) {
	in, err := c.remote.Open(src)
	if err != nil {
		return remoteFault(ctx, src, err)
	}
	defer in.Close()
	out, finish, err := createLocal(dst, info.Mode().Perm())
	if err != nil {
		return localFault(dst, err)
	}
	bar := c.progress.start(dst, info.Size())
	defer bar.end()
	w := bar.writer(ctx, out)
	_, err = in.WriteTo(w)
	switch {
	case ctx.Err() != nil:
		_ = finish(ctx.Err())
		return ctx.Err()
	case w.writeErr != nil:
		return localFault(dst, finish(w.writeErr))
	case err != nil:
		_ = finish(err)
		return remoteFault(ctx, src, err)
	}
	if err := finish(nil); err != nil {
		return localFault(dst, err)
	}
	bar.end()
	if c.opts.Preserve {
		return preserveLocal(dst, info)
	}
	return nil
}

// createLocal opens a temporary file beside dst for writing. The caller must call finish once: with nil when
// the file is complete, which renames it to dst, or with the error that prevents that, which removes it;
// finish returns this error. So dst is always the previous file or the complete new one. A symbolic link is
// followed, because the user wants to replace its target. An existing device or pipe is opened itself,
// because it cannot be replaced by a file.
func createLocal(dst string, mode fs.FileMode) (out *os.File, finish func(error) error, err error) {
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
	finish = func(failed error) error {
		if failed == nil {
			failed = setModeAndSync(f, old, mode)
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

// setModeAndSync gives the temporary file its final mode and flushes it to disk, both before it is renamed.
// The mode is that of the file that it replaces. A new file is executable for those who may read it where the
// source was.
func setModeAndSync(f *os.File, old fs.FileInfo, source fs.FileMode) error {
	created, err := f.Stat()
	if err != nil {
		return err
	}
	perm := created.Mode().Perm() | source&0o111&(created.Mode().Perm()>>2)
	if old != nil {
		perm = old.Mode().Perm()
	}
	if perm != created.Mode().Perm() {
		if err := f.Chmod(perm); err != nil {
			return err
		}
	}
	return f.Sync()
}

// preserveLocal gives a local file the mode and the modification time of the remote one.
func preserveLocal(dst string, info fs.FileInfo) error {
	err := os.Chmod(dst, info.Mode().Perm())
	if err == nil {
		err = os.Chtimes(dst, info.ModTime(), info.ModTime())
	}
	return localFault(dst, err)
}
