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

// Upload copies local files, and with Recursive folders, to the node. If to is a folder on the node, it
// copies each source into that folder under the source's name. Otherwise to is the new name of the one
// source: several sources, or a slash at the end of to, are an Invalid fault. Upload stops at the first
// error; what it has copied before stays. Its errors are localFault, remoteFault, and the error of ctx if ctx
// ends.
func (c *Copier) Upload(ctx context.Context, sources []string, to string) error {
	info, err := c.remote.Stat(to)
	intoDir := err == nil && info.IsDir()
	if !intoDir && (len(sources) > 1 || strings.HasSuffix(to, "/")) {
		return copyNodeTargetNotFolder.New("", fault.Args{"target": to})
	}
	for _, src := range sources {
		dst := to
		if intoDir {
			absolute, err := filepath.Abs(src) // so that "." has a name
			if err != nil {
				return localFault(src, err)
			}
			dst = path.Join(to, filepath.Base(absolute))
		}
		if err := c.put(ctx, src, dst); err != nil {
			return err
		}
	}
	return nil
}

// put copies the local file or folder src to dst on the node. Without Recursive a folder is an Invalid fault.
// With it, put copies everything in the folder except special files, which it reports to c.skipped. Symbolic
// links are followed.
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
		return copySourceIsFolder.New("", fault.Args{"path": src})
	}
	entries, err := os.ReadDir(src)
	if err != nil {
		return localFault(src, err)
	}
	if err := c.remote.MkdirAll(dst); err != nil {
		return remoteFault(ctx, dst, err)
	}
	for _, entry := range entries {
		entryPath := filepath.Join(src, entry.Name())
		if isSpecial(entry.Type()) {
			c.skipped(terminal.Clean(entryPath))
			continue
		}
		if err := c.put(ctx, entryPath, path.Join(dst, entry.Name())); err != nil {
			return err
		}
	}
	if c.opts.Preserve {
		return c.preserveRemote(ctx, dst, info)
	}
	return nil
}

// putFile copies the local file src to dst on the node. If dst is a symbolic link, it replaces the file to
// which the link leads. It writes to a temporary file beside that file and renames the temporary file when it
// is complete, so a copy that fails leaves the previous file as it was. On an error it removes the temporary
// file. An existing device or pipe is written to directly, because renaming would replace it by a file.
func (c *Copier) putFile(ctx context.Context, src, dst string) error {
	in, err := os.Open(src)
	if err != nil {
		return localFault(src, err)
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return localFault(src, err)
	}
	target, err := c.resolveLinks(ctx, dst)
	if err != nil {
		return err
	}
	isDeviceOrPipe := target.old != nil && !target.old.Mode().IsRegular()
	if isDeviceOrPipe {
		return c.send(ctx, in, info, target.path, target.path)
	}
	temp := path.Join(path.Dir(target.path), tempName(path.Base(target.path)))
	err = c.send(ctx, in, info, temp, target.path)
	if err == nil {
		err = c.setRemoteMode(ctx, temp, info, target.old)
	}
	if err == nil {
		if renameErr := c.remote.PosixRename(temp, target.path); renameErr != nil {
			err = remoteFault(ctx, target.path, renameErr)
		}
	}
	if err != nil { // without a connection the file stays on the node; its name shows what it is
		_ = c.remote.Remove(temp)
	}
	return err
}

// maxLinks bounds how many symbolic links are followed at a destination, as kernels do.
const maxLinks = 40

// remoteTarget is the file on the node that an upload creates or replaces. It is no folder and no symbolic
// link.
type remoteTarget struct {
	path string
	old  fs.FileInfo // the file that exists at path; nil: none that the node shows
}

// resolveLinks returns the file to which dst leads on the node, which is dst itself if that is no symbolic
// link. putFile renames its temporary file to this path: a rename to a link would replace the link.
// resolveLinks follows the links one by one, because not every server follows them in SFTP's REALPATH.
//
// If LSTAT fails, for whatever reason, the path counts as free: the upload then fails with the node's reason
// if it is not. resolveLinks returns an Invalid fault for a folder and after maxLinks links, which are
// probably a loop. Names in its messages are cleaned, because they can come from links on the node.
func (c *Copier) resolveLinks(ctx context.Context, dst string) (remoteTarget, error) {
	at := dst
	for range maxLinks {
		info, err := c.remote.Lstat(at)
		switch {
		case err != nil:
			return remoteTarget{path: at}, nil
		case info.IsDir():
			return remoteTarget{}, copyNodeTargetIsFolder.New("", fault.Args{"path": terminal.Clean(at)})
		case info.Mode()&fs.ModeSymlink == 0:
			return remoteTarget{path: at, old: info}, nil
		}
		next, err := c.remote.ReadLink(at)
		if err != nil {
			return remoteTarget{}, remoteFault(ctx, at, err)
		}
		if !path.IsAbs(next) {
			next = path.Join(path.Dir(at), next)
		}
		at = next
	}
	return remoteTarget{}, copyLinksLooped.New("", fault.Args{"path": terminal.Clean(dst), "most": maxLinks})
}

// send writes the contents of the local file in, which info describes, to the file out on the node and shows
// the progress. dst is the final name, used in the progress line and in errors. out is dst itself, or a
// temporary file, which must not exist yet. On an error send does not remove the partial file. It returns
// localFault for an error of reading, remoteFault for one of the node, and the error of ctx if ctx ends.
func (c *Copier) send(ctx context.Context, in *os.File, info fs.FileInfo, out, dst string) error {
	flags := os.O_WRONLY | os.O_CREATE | os.O_TRUNC
	if out != dst {
		flags |= os.O_EXCL
	}
	w, err := c.remote.OpenFile(out, flags)
	if err != nil {
		return remoteFault(ctx, dst, err)
	}
	bar := c.progress.start(dst, info.Size())
	defer bar.end()
	r := bar.reader(ctx, in)
	if info.Mode().IsRegular() {
		_, err = w.ReadFromWithConcurrency(r, MaxConcurrentRequests)
	} else { // the size of a pipe or device is unknown: write in order, without w's own ReadFrom
		_, err = io.Copy(struct{ io.Writer }{w}, r)
	}
	if closeErr := w.Close(); err == nil {
		err = closeErr
	}
	var readErr *fs.PathError // SFTP has no errors of this type
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.As(err, &readErr):
		return localFault(in.Name(), err)
	}
	return remoteFault(ctx, dst, err)
}

// setRemoteMode gives the new file name on the node its mode: with Preserve the mode of the source src, else
// the mode of old, the file that it replaces. If old is nil, the new file keeps the mode that the node gave
// it, and everybody who may read the new file may also execute it if they might execute the source.
func (c *Copier) setRemoteMode(ctx context.Context, name string, src, old fs.FileInfo) error {
	if c.opts.Preserve {
		return c.preserveRemote(ctx, name, src)
	}
	created, err := c.remote.Stat(name)
	if err != nil {
		return remoteFault(ctx, name, err)
	}
	mode := withExecuteBits(created.Mode().Perm(), src.Mode().Perm())
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
