package transfer

import (
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

// Download copies files, and with Recursive folders, of the node to this machine. Sources may contain the
// wildcards *, ? and [...]. If intoDir is true, to is an existing folder, and each file is copied into it
// under the file's name. Otherwise to is the new name of the one file that a source matches; several are an
// Invalid fault. Download stops at the first error; what it has copied before stays. A name of the node that
// is not safe on this machine is a Denied fault. Its other errors are localFault, remoteFault, and the error
// of ctx if ctx ends.
func (c *Copier) Download(ctx context.Context, sources []string, to string, intoDir bool) error {
	for _, src := range sources {
		names, err := c.expand(ctx, src)
		if err != nil {
			return err
		}
		if len(names) > 1 && !intoDir {
			return copyTargetForSeveral.New("", fault.Args{"source": src, "count": len(names), "target": to})
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
			const depth = 0 // no folder above it is copied
			if err := c.get(ctx, name, dst, depth); err != nil {
				return err
			}
		}
	}
	return nil
}

// expand returns the paths on the node that pattern matches: pattern itself if it has no wildcard or names an
// existing file. If nothing matches, it returns a NotFound fault. It checks the paths that the node sends:
// one that pattern does not match, or whose last element is not safe as a name on this machine, is a Denied
// fault, so that the node cannot choose which files are created here.
func (c *Copier) expand(ctx context.Context, pattern string) ([]string, error) {
	if !strings.ContainsAny(pattern, "*?[") {
		return []string{pattern}, nil
	}
	if _, err := c.remote.Lstat(pattern); err == nil {
		return []string{pattern}, nil
	}
	names, err := c.remote.Glob(pattern)
	if err != nil {
		return nil, remoteFault(ctx, pattern, err)
	}
	if len(names) == 0 {
		return nil, remoteFault(ctx, pattern, fs.ErrNotExist)
	}
	for _, name := range names {
		matches, err := path.Match(path.Clean(pattern), path.Clean(name))
		if err != nil || !matches || checkName(path.Base(name)) != nil {
			return nil, unsafeNameFault(name)
		}
	}
	return names, nil
}

// baseName returns the name that a copy of the remote path name gets on this machine: its last element, or,
// if that is "." or "..", the folder's real name, which the node tells. It returns a Denied fault for a name
// that is not safe on this machine.
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

// get copies the file or folder src of the node to dst on this machine. Without Recursive a folder is an
// Invalid fault. With it, get copies everything in the folder except special files, which it reports to
// c.skipped. depth is the number of folders above src that are being copied; more than maxDepth are an
// Invalid fault.
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
		return copySourceIsRemoteFolder.New("", fault.Args{"path": terminal.Clean(src)})
	case depth >= maxDepth:
		return copyTreeTooDeep.New("", fault.Args{"most": maxDepth, "path": terminal.Clean(src)})
	}
	entries, err := c.remote.ReadDir(src)
	if err != nil {
		return remoteFault(ctx, src, err)
	}
	if err := makeLocalDir(dst); err != nil {
		return err
	}
	for _, entry := range entries {
		if err := c.getEntry(ctx, src, dst, entry, depth); err != nil {
			return err
		}
	}
	if c.opts.Preserve {
		return preserveLocal(dst, info)
	}
	return nil
}

// getEntry copies one entry of the folder src into the folder dst. An unsafe name is a Denied fault. A
// special file is not copied but reported to c.skipped. depth is the depth of src: see get.
func (c *Copier) getEntry(ctx context.Context, src, dst string, entry fs.FileInfo, depth int) error {
	name := entry.Name()
	if name == "." || name == ".." {
		return nil
	}
	if checkName(name) != nil {
		return unsafeNameFault(name)
	}
	if isSpecial(entry.Mode()) {
		c.skipped(terminal.Clean(path.Join(src, name)))
		return nil
	}
	return c.get(ctx, path.Join(src, name), filepath.Join(dst, name), depth+1)
}

// makeLocalDir creates the folder dst, or does nothing if it exists. It accepts a symbolic link to a folder:
// that is safe, because a download creates no links, so the node cannot have chosen where the link leads.
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
	isOtherFolder := name == "" || name == "." || name == ".." || strings.ContainsAny(name, `/\`)
	isPrintable := utf8.ValidString(name) && terminal.Clean(name) == name
	if isOtherFolder || !isPrintable {
		return fmt.Errorf("name %q", name)
	}
	return nil
}

// unsafeNameFault is the error of a name that checkName refuses. It quotes the name, which makes it safe to
// print.
func unsafeNameFault(name string) error {
	return copyNameUnsafe.New("", fault.Args{"name": name})
}

// getFile copies the remote file src, which info describes, to dst on this machine. dst is the previous file,
// or none, until the copy is complete: see localFile.
func (c *Copier) getFile(ctx context.Context, src, dst string, info fs.FileInfo) error {
	in, err := c.remote.Open(src)
	if err != nil {
		return remoteFault(ctx, src, err)
	}
	defer in.Close()
	out, err := createLocal(dst, info.Mode().Perm())
	if err != nil {
		return localFault(dst, err)
	}
	bar := c.progress.start(dst, info.Size())
	defer bar.end()
	w := bar.writer(ctx, out)
	_, err = in.WriteTo(w)
	switch {
	case ctx.Err() != nil:
		out.abort()
		return ctx.Err()
	case w.writeErr != nil:
		out.abort()
		return localFault(dst, w.writeErr)
	case err != nil:
		out.abort()
		return remoteFault(ctx, src, err)
	}
	if err := out.commit(); err != nil {
		return localFault(dst, err)
	}
	bar.end()
	if c.opts.Preserve {
		return preserveLocal(dst, info)
	}
	return nil
}

// localFile is a file on this machine that a download writes. The bytes go to a temporary file beside the
// destination, which commit renames. So the destination is always the previous file or the complete new one.
// The caller must call commit or abort once.
type localFile struct {
	*os.File
	temp   string      // path of the temporary file; empty: File is an existing device or pipe itself
	dst    string      // path of the destination, without symbolic links
	old    fs.FileInfo // the file that is replaced; nil: there is none
	source fs.FileMode // permission bits of the file on the node
}

// createLocal opens a localFile for the destination dst. source has the permission bits of the file on the
// node. If dst is a symbolic link, the file to which it leads is the destination, and the link stays. An
// existing device or pipe is opened itself, because a rename would replace it by a file. A folder is the
// error EISDIR.
func createLocal(dst string, source fs.FileMode) (*localFile, error) {
	if resolved, err := filepath.EvalSymlinks(dst); err == nil {
		dst = resolved
	}
	old, err := os.Stat(dst)
	exists := err == nil
	switch {
	case exists && old.IsDir():
		return nil, syscall.EISDIR
	case exists && !old.Mode().IsRegular():
		device, err := os.OpenFile(dst, os.O_WRONLY, 0 /* creates nothing */)
		if err != nil {
			return nil, err
		}
		return &localFile{File: device}, nil
	}
	temp := filepath.Join(filepath.Dir(dst), tempName(filepath.Base(dst)))
	file, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666&source|0o600)
	if err != nil {
		return nil, err
	}
	return &localFile{File: file, temp: temp, dst: dst, old: old, source: source}, nil
}

// commit ends a complete file: it sets the mode, flushes the file to disk, closes it and renames it to the
// destination. On an error it removes the temporary file, and the destination is unchanged.
func (f *localFile) commit() error {
	if f.temp == "" {
		return f.Close()
	}
	err := f.setModeAndSync() // before the rename, so that a crash leaves no incomplete file at dst
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(f.temp, f.dst)
	}
	if err != nil {
		_ = os.Remove(f.temp)
	}
	return err
}

// abort closes and removes the temporary file; the destination is unchanged.
func (f *localFile) abort() {
	_ = f.Close()
	if f.temp != "" {
		_ = os.Remove(f.temp)
	}
}

// setModeAndSync gives the temporary file its final mode and flushes it to disk. If it replaces a file, it
// gets the mode of that file. Otherwise it keeps the mode that it has by the umask, and everybody who may
// read it may also execute it if they might execute the source.
func (f *localFile) setModeAndSync() error {
	created, err := f.Stat()
	if err != nil {
		return err
	}
	mode := withExecuteBits(created.Mode().Perm(), f.source)
	if f.old != nil {
		mode = f.old.Mode().Perm()
	}
	if mode != created.Mode().Perm() {
		if err := f.Chmod(mode); err != nil {
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
