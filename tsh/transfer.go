package tsh

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/fault"
)

// transfer copies between this machine and one node at a time.
type transfer struct {
	scpOptions
	app    *app
	ctx    context.Context // of the one command; its fields live no longer
	remote *sftp.Client
	meter  *meter
}

// graceful is how long an interrupted transfer may tidy up on the node before the connection is cut.
const graceful = 2 * time.Second

// cutLater closes the connection some time after ctx ends, unless stopped before.
func cutLater(ctx context.Context, client *ssh.Client) (stop func()) {
	ended := make(chan struct{})
	release := context.AfterFunc(ctx, func() {
		timer := time.NewTimer(graceful)
		defer timer.Stop()
		select {
		case <-timer.C:
			_ = client.Close()
		case <-ended:
		}
	})
	return func() { release(); close(ended) }
}

// upload copies files here to a path on the node.
func (t *transfer) upload(sources []place, to string) error {
	info, err := t.remote.Stat(to)
	into := err == nil && info.IsDir()
	if !into && (len(sources) > 1 || strings.HasSuffix(to, "/")) {
		return fault.New(fault.Invalid, "", to+" is no folder on the node", "make it first, with tsh ssh NODE mkdir")
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
			fmt.Fprintf(t.app.Stderr, "tsh: %s is no plain file, left out\n", clean(filepath.Join(src, e.Name())))
			continue
		}
		if err := t.put(filepath.Join(src, e.Name()), path.Join(dst, e.Name())); err != nil {
			return err
		}
	}
	if t.preserve {
		return t.keepThere(dst, info)
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
		part = path.Join(path.Dir(dst), partName(path.Base(dst)))
		defer func() {
			if err != nil {
				_ = t.remote.Remove(part) // if the connection is gone, the part stays; its name says what it is
			}
		}()
	}
	if err := t.send(f, info, part, dst); err != nil {
		return err
	}
	if part == dst {
		return nil
	}
	if err := t.modeThere(part, info, old); err != nil {
		return err
	}
	if err := t.remote.PosixRename(part, dst); err != nil {
		return t.remoteFault(dst, err)
	}
	return nil
}

// maxLinks bounds how many links are followed at a destination, as kernels do.
const maxLinks = 40

// target follows links at the destination, so that what they lead to is replaced, not the link. RealPath would not do: not every file
// service follows links in it.
func (t *transfer) target(dst string) (string, fs.FileInfo, error) {
	for range maxLinks {
		old, err := t.remote.Lstat(dst)
		switch {
		case err != nil:
			return dst, nil, nil // writing tells what is wrong, if anything is
		case old.IsDir():
			return dst, old, fault.New(fault.Invalid, "", dst+" is a folder on the node", "name a file, or remove the folder")
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

// modeThere gives the new file the mode of the one it replaces; with -p the source's; else x where the source has it and the node's
// own umask lets others read.
func (t *transfer) modeThere(part string, src, old fs.FileInfo) error {
	if t.preserve {
		return t.keepThere(part, src)
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

func (t *transfer) keepThere(name string, info fs.FileInfo) error {
	if err := t.remote.Chmod(name, info.Mode().Perm()); err != nil {
		return t.remoteFault(name, err)
	}
	if err := t.remote.Chtimes(name, info.ModTime(), info.ModTime()); err != nil {
		return t.remoteFault(name, err)
	}
	return nil
}

// download copies files of the node to a path here.
func (t *transfer) download(sources []place, to string, into bool) error {
	for _, src := range sources {
		names, err := t.expand(src.path)
		if err != nil {
			return err
		}
		if len(names) > 1 && !into {
			return fault.New(fault.Invalid, "", fmt.Sprintf("%s means %d files, and %s is no folder here", src.path, len(names), to), "make it first: mkdir -p "+to)
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

// expand finds what a path with wildcards means on the node. Every answer must match the pattern: a node does not choose names here.
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
		if ok, err := path.Match(path.Clean(pattern), path.Clean(n)); err != nil || !ok || checkName(path.Base(n)) != nil {
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

// maxFolders bounds how deep a download follows folders: a node could make them up without end.
const maxFolders = 256

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
	case depth >= maxFolders:
		return fault.New(fault.Invalid, "", fmt.Sprintf("folders on the node are more than %d deep at %s", maxFolders, clean(src)), "copy a part at a time")
	}
	entries, err := t.remote.ReadDir(src)
	if err != nil {
		return t.remoteFault(src, err)
	}
	if err := makeFolder(dst); err != nil {
		return err
	}
	for _, e := range entries {
		if err := t.getEntry(src, dst, e, depth); err != nil {
			return err
		}
	}
	if t.preserve {
		return keepHere(dst, info)
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

// makeFolder makes the folder, or takes one that is there. A link to a folder may be the person's own: a download makes no links.
func makeFolder(dst string) error {
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
	if name == "" || name == "." || name == ".." || strings.ContainsAny(name, `/\`) || !utf8.ValidString(name) || clean(name) != name {
		return fmt.Errorf("name %q", name)
	}
	return nil
}

func badName(name string) error {
	return fault.New(fault.Denied, "", fmt.Sprintf("the node offers a file by the name %q, which tsh does not write here", name),
		"copy such a file by itself, under a name that you choose")
}

// getFile writes beside the destination, then takes its name.
func (t *transfer) getFile(src, dst string, info fs.FileInfo) (err error) {
	in, err := t.remote.Open(src)
	if err != nil {
		return t.remoteFault(src, err)
	}
	defer in.Close()
	out, finish, err := createHere(dst, info.Mode().Perm())
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
		return keepHere(dst, info)
	}
	return nil
}

// createHere opens a file that takes the name dst when finish is called with nil, and else vanishes. What is there already keeps its
// mode; a device or pipe is written to as it is; a link is followed.
func createHere(dst string, mode fs.FileMode) (*os.File, func(error) error, error) {
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
	name := filepath.Join(filepath.Dir(dst), partName(filepath.Base(dst)))
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

func keepHere(dst string, info fs.FileInfo) error {
	err := os.Chmod(dst, info.Mode().Perm())
	if err == nil {
		err = os.Chtimes(dst, info.ModTime(), info.ModTime())
	}
	return localFault(dst, err)
}

// partName is what a file is called until it is whole. Long names are cut: a file system takes 255 bytes.
func partName(base string) string {
	var b [6]byte
	_, _ = rand.Read(b[:]) // crypto/rand never fails since Go 1.24
	return "." + strings.ToValidUTF8(base[:min(len(base), 200)], "") + ".tsh-" + hex.EncodeToString(b[:])
}

func localFault(name string, err error) error {
	if err == nil {
		return nil
	}
	why := err
	var pe *fs.PathError
	if errors.As(err, &pe) {
		why = pe.Err
	}
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return fault.Wrap(err, fault.Exhausted, "", "this machine's disk is full: "+name+" is not written", "free some space, then copy again; what was there before is untouched")
	case errors.Is(err, fs.ErrNotExist):
		return fault.Wrap(err, fault.NotFound, "", name+" is not here", "check the path")
	}
	return fault.Wrap(err, fault.Invalid, "", clean(name)+": "+why.Error(), "check the path and its mode")
}

// remoteFault words what the node's file service says. SFTP has no status for a full disk: servers say so in their message.
func (t *transfer) remoteFault(name string, err error) error {
	name = clean(name)
	var status *sftp.StatusError
	switch text := strings.ToLower(err.Error()); {
	case t.ctx.Err() != nil:
		return t.ctx.Err()
	case strings.Contains(text, "no space left"), strings.Contains(text, "quota exceeded"):
		return fault.Wrap(err, fault.Exhausted, "", "the node's disk is full: "+name+" is not written", "free some space there, then copy again; what was there before is untouched")
	case errors.Is(err, fs.ErrNotExist):
		return fault.Wrap(err, fault.NotFound, "", name+" is not on the node", "check the path; without / in front it is under the home folder")
	case errors.Is(err, fs.ErrPermission):
		return fault.Wrap(err, fault.Denied, "", "the node's account may not touch "+name, "use another path or login: LOGIN@NODE:PATH")
	case errors.As(err, &status):
		return fault.Wrap(err, fault.Invalid, "", name+": "+clean(strings.TrimPrefix(status.Error(), "sftp: ")), "check the path on the node")
	}
	return fault.Wrap(err, fault.Unavailable, "", "the transfer of "+name+" broke off: "+clean(err.Error()), "copy again; what was there before is untouched")
}
