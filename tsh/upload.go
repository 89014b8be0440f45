package tsh

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/threshold-access/threshold/internal/fault"
)

// upload copies files here to a path on the node.
func (t *transfer) upload(sources []place, to string) error {
	info, err := t.remote.Stat(to)
	into := err == nil && info.IsDir()
	if !into && (len(sources) > 1 || strings.HasSuffix(to, "/")) {
		return fault.New(
			fault.Invalid,
			"",
			to+" is no folder on the node",
			"make it first, with tsh ssh NODE mkdir",
		)
	}
	for _, src := range sources {
		dst := to
		if into {
			name, err := filepath.Abs(src.path)
			if err != nil {
				return localFault(src.path, err)
			}
			dst = path.Join(to, filepath.Base(name))
		}
		if err := t.put(src.path, dst); err != nil {
			return err
		}
	}
	return nil
}

func (t *transfer) put(src, dst string) error {
	if err := t.ctx.Err(); err != nil {
		return err
	}
	info, err := os.Stat(src)
	switch {
	case err != nil:
		return localFault(src, err)
	case !info.IsDir():
		return t.putFile(src, dst)
	case !t.recursive:
		return fault.New(fault.Invalid, "", src+" is a folder", "add -r to copy folders")
	}
	entries, err := os.ReadDir(src)
	if err != nil {
		return localFault(src, err)
	}
	if err := t.remote.MkdirAll(dst); err != nil {
		return t.remoteFault(dst, err)
	}
	for _, e := range entries {
		if special(e.Type()) {
			fmt.Fprintf(
				t.app.Stderr,
				"tsh: %s is no plain file, left out\n",
				clean(filepath.Join(src, e.Name())),
			)
			continue
		}
		if err := t.put(filepath.Join(src, e.Name()), path.Join(dst, e.Name())); err != nil {
			return err
		}
	}
	if t.preserve {
		return t.preserveRemote(dst, info)
	}
	return nil
}

// special reports what a recursive copy leaves out: devices, pipes and sockets.
func special(m fs.FileMode) bool {
	return m&(fs.ModeDevice|fs.ModeNamedPipe|fs.ModeSocket|fs.ModeCharDevice|fs.ModeIrregular) != 0
}

// putFile writes beside the destination, then takes its name.
func (t *transfer) putFile(src, dst string) (err error) {
	f, err := os.Open(src)
	if err != nil {
		return localFault(src, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return localFault(src, err)
	}
	dst, old, err := t.target(dst)
	if err != nil {
		return err
	}
	part := dst
	if old == nil || old.Mode().IsRegular() {
		part = path.Join(path.Dir(dst), tempName(path.Base(dst)))
		defer func() {
			if err != nil {
				_ = t.remote.Remove(
					part,
				) // if the connection is gone, the part stays; its name says what it is
			}
		}()
	}
	if err := t.send(f, info, part, dst); err != nil {
		return err
	}
	if part == dst {
		return nil
	}
	if err := t.setRemoteMode(part, info, old); err != nil {
		return err
	}
	if err := t.remote.PosixRename(part, dst); err != nil {
		return t.remoteFault(dst, err)
	}
	return nil
}

// maxLinks bounds how many links are followed at a destination, as kernels do.
const maxLinks = 40

// target follows links at the destination, so that what they lead to is replaced, not the link. RealPath
// would not do: not every file service follows links in it.
func (t *transfer) target(dst string) (string, fs.FileInfo, error) {
	for range maxLinks {
		old, err := t.remote.Lstat(dst)
		switch {
		case err != nil:
			return dst, nil, nil // writing tells what is wrong, if anything is
		case old.IsDir():
			return dst, old, fault.New(
				fault.Invalid,
				"",
				dst+" is a folder on the node",
				"name a file, or remove the folder",
			)
		case old.Mode()&fs.ModeSymlink == 0:
			return dst, old, nil
		}
		to, err := t.remote.ReadLink(dst)
		if err != nil {
			return dst, nil, t.remoteFault(dst, err)
		}
		if !path.IsAbs(to) {
			to = path.Join(path.Dir(dst), to)
		}
		dst = to
	}
	return dst, nil, fault.New(fault.Invalid, "", clean(dst)+" leads in a circle on the node", "name a file")
}

func (t *transfer) send(f *os.File, info fs.FileInfo, part, shown string) (err error) {
	flags := os.O_WRONLY | os.O_CREATE | os.O_TRUNC
	if part != shown {
		flags |= os.O_EXCL
	}
	out, err := t.remote.OpenFile(part, flags)
	if err != nil {
		return t.remoteFault(shown, err)
	}
	bar := t.meter.begin(shown, info.Size())
	defer bar.end()
	if info.Mode().IsRegular() {
		_, err = out.ReadFromWithConcurrency(bar.reader(t.ctx, f), 64)
	} else {
		_, err = io.Copy(struct{ io.Writer }{out}, bar.reader(t.ctx, f))
	}
	if err2 := out.Close(); err == nil {
		err = err2
	}
	var local *fs.PathError
	switch {
	case err == nil:
		bar.done()
		return nil
	case t.ctx.Err() != nil:
		return t.ctx.Err()
	case errors.As(err, &local):
		return localFault(f.Name(), err)
	}
	return t.remoteFault(shown, err)
}

// setRemoteMode gives the new file the mode of the one it replaces; with -p the source's; else x where the
// source has it and the node's own umask lets others read.
func (t *transfer) setRemoteMode(part string, src, old fs.FileInfo) error {
	if t.preserve {
		return t.preserveRemote(part, src)
	}
	made, err := t.remote.Stat(part)
	if err != nil {
		return t.remoteFault(part, err)
	}
	mode := made.Mode().Perm()
	mode |= src.Mode().Perm() & 0o111 & (mode >> 2)
	if old != nil {
		mode = old.Mode().Perm()
	}
	if mode == made.Mode().Perm() {
		return nil
	}
	if err := t.remote.Chmod(part, mode); err != nil {
		return t.remoteFault(part, err)
	}
	return nil
}

func (t *transfer) preserveRemote(name string, info fs.FileInfo) error {
	if err := t.remote.Chmod(name, info.Mode().Perm()); err != nil {
		return t.remoteFault(name, err)
	}
	if err := t.remote.Chtimes(name, info.ModTime(), info.ModTime()); err != nil {
		return t.remoteFault(name, err)
	}
	return nil
}
