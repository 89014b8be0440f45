package transfer

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/tsh/terminal"
)

// MaxConcurrentRequests bounds the SFTP requests in flight for one file.
const MaxConcurrentRequests = 64

// Upload copies local files to the node. If to is a folder there, each file keeps its name in it. Otherwise
// to is the new name of the one source; several sources, or a to that ends in a slash, are an error. It stops
// at the first error and returns the error of ctx if that ends.
func (c *Copier) Upload(ctx context.Context, sources []string, to string) error {
	info, err := c.remote.Stat(to)
	intoDir := err == nil && info.IsDir()
	if !intoDir && (len(sources) > 1 || strings.HasSuffix(to, "/")) {
		hint := "create it first: tsh ssh NODE mkdir -p PATH"
		return fault.New(fault.Invalid, "", to+" is not a folder on the node", hint)
	}
	for _, src := range sources {
		dst := to
		if intoDir {
			name, err := filepath.Abs(src)
			if err != nil {
				return localFault(src, err)
			}
			dst = path.Join(to, filepath.Base(name))
		}
		if err := c.put(ctx, src, dst); err != nil {
			return err
		}
	}
	return nil
}

// put copies the local file or folder src to dst on the node. It is an error if src is a folder and Recursive
// is not set.
func (c *Copier) put(ctx context.Context, src, dst string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	info, err := os.Stat(src)
	switch {
	case err != nil:
		return localFault(src, err)
	case !info.IsDir():
		return c.putFile(ctx, src, dst)
	case !c.opts.Recursive:
		return fault.New(fault.Invalid, "", src+" is a folder", "add -r to copy folders")
	}
	entries, err := os.ReadDir(src)
	if err != nil {
		return localFault(src, err)
	}
	if err := c.remote.MkdirAll(dst); err != nil {
		return remoteFault(ctx, dst, err)
	}
	for _, e := range entries {
		if isSpecial(e.Type()) {
			c.skipped(terminal.Clean(filepath.Join(src, e.Name())))
			continue
		}
		if err := c.put(ctx, filepath.Join(src, e.Name()), path.Join(dst, e.Name())); err != nil {
			return err
		}
	}
	if c.opts.Preserve {
		return c.preserveRemote(ctx, dst, info)
	}
	return nil
}

// putFile copies one local file to dst on the node. It writes to a temporary file beside dst and renames it
// when it is complete; on an error it removes the temporary file. An existing device or pipe is written to
// directly.
func (c *Copier) putFile(ctx context.Context, src, dst string) (err error) {
	f, err := os.Open(src)
	if err != nil {
		return localFault(src, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return localFault(src, err)
	}
	dst, old, err := c.resolveLinks(ctx, dst)
	if err != nil {
		return err
	}
	temp := dst
	if old == nil || old.Mode().IsRegular() {
		temp = path.Join(path.Dir(dst), tempName(path.Base(dst)))
		defer func() {
			if err != nil { // without a connection the file stays on the node; its name shows what it is
				_ = c.remote.Remove(temp)
			}
		}()
	}
	if err := c.send(ctx, f, info, temp, dst); err != nil {
		return err
	}
	if temp == dst {
		return nil
	}
	if err := c.setRemoteMode(ctx, temp, info, old); err != nil {
		return err
	}
	if err := c.remote.PosixRename(temp, dst); err != nil {
		return remoteFault(ctx, dst, err)
	}
	return nil
}

// maxLinks bounds how many symbolic links are followed at a destination, as kernels do.
const maxLinks = 40

// resolveLinks returns the path that dst leads to through symbolic links, and the file there, which is nil if
// there is none. The file is then replaced by renaming, which would otherwise replace the link. SFTP's
// RealPath is of no use: not every server follows links in it. An existing folder and a loop of links are
// errors.
func (c *Copier) resolveLinks(ctx context.Context, dst string) (string, fs.FileInfo, error) {
	for range maxLinks {
		old, err := c.remote.Lstat(dst)
		switch {
		case err != nil:
			return dst, nil, nil // writing reports what is wrong, if anything is
		case old.IsDir():
			msg := dst + " is a folder on the node"
			return dst, old, fault.New(fault.Invalid, "", msg, "name a file, or remove the folder")
		case old.Mode()&fs.ModeSymlink == 0:
			return dst, old, nil
		}
		to, err := c.remote.ReadLink(dst)
		if err != nil {
			return dst, nil, remoteFault(ctx, dst, err)
		}
		if !path.IsAbs(to) {
			to = path.Join(path.Dir(dst), to)
		}
		dst = to
	}
	msg := terminal.Clean(dst) + " is part of a loop of symbolic links on the node"
	return dst, nil, fault.New(fault.Invalid, "", msg, "name the file itself")
}

// send writes the contents of f to the file temp on the node and shows the progress. temp must not exist
// unless it is the destination itself. shown is the name of the destination for progress and errors.
func (c *Copier) send(ctx context.Context, f *os.File, info fs.FileInfo, temp, shown string) (err error) {
	flags := os.O_WRONLY | os.O_CREATE | os.O_TRUNC
	if temp != shown {
		flags |= os.O_EXCL
	}
	out, err := c.remote.OpenFile(temp, flags)
	if err != nil {
		return remoteFault(ctx, shown, err)
	}
	bar := c.progress.start(shown, info.Size())
	defer bar.end()
	if info.Mode().IsRegular() {
		_, err = out.ReadFromWithConcurrency(bar.reader(ctx, f), MaxConcurrentRequests)
	} else { // the size of a pipe or device is unknown: write in order
		_, err = io.Copy(struct{ io.Writer }{out}, bar.reader(ctx, f))
	}
	if closeErr := out.Close(); err == nil {
		err = closeErr
	}
	var local *fs.PathError
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.As(err, &local):
		return localFault(f.Name(), err)
	}
	return remoteFault(ctx, shown, err)
}

// setRemoteMode gives the new file its mode: the source's with Preserve, else that of the file that it
// replaces. A new file is executable for those who may read it where the source was.
func (c *Copier) setRemoteMode(ctx context.Context, name string, src, old fs.FileInfo) error {
	if c.opts.Preserve {
		return c.preserveRemote(ctx, name, src)
	}
	created, err := c.remote.Stat(name)
	if err != nil {
		return remoteFault(ctx, name, err)
	}
	mode := created.Mode().Perm()
	mode |= src.Mode().Perm() & 0o111 & (mode >> 2)
	if old != nil {
		mode = old.Mode().Perm()
	}
	if mode == created.Mode().Perm() {
		return nil
	}
	if err := c.remote.Chmod(name, mode); err != nil {
		return remoteFault(ctx, name, err)
	}
	return nil
}

// preserveRemote gives a remote file the mode and the modification time of the local one.
func (c *Copier) preserveRemote(ctx context.Context, name string, info fs.FileInfo) error {
	if err := c.remote.Chmod(name, info.Mode().Perm()); err != nil {
		return remoteFault(ctx, name, err)
	}
	if err := c.remote.Chtimes(name, info.ModTime(), info.ModTime()); err != nil {
		return remoteFault(ctx, name, err)
	}
	return nil
}
