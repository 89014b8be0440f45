package sftp

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// onPath serves a request that names one path and has no result but success.
func (s *server) onPath(req *packet, fn func(path string) error) error {
	path := req.readPath()
	if !req.ok() {
		return errMalformed
	}
	if err := fn(path); err != nil {
		return err
	}
	return s.replyOK(req.id)
}

// onPaths is onPath for requests that name two paths.
func (s *server) onPaths(req *packet, fn func(a, b string) error) error {
	a, b := req.readPath(), req.readPath()
	if !req.ok() {
		return errMalformed
	}
	if err := fn(a, b); err != nil {
		return err
	}
	return s.replyOK(req.id)
}

func (s *server) remove(req *packet) error { return s.onPath(req, unix.Unlink) }
func (s *server) rmdir(req *packet) error  { return s.onPath(req, unix.Rmdir) }

// mkdir serves SSH_FXP_MKDIR (draft section 6.6). Of the attributes it uses the mode, like OpenSSH's server.
func (s *server) mkdir(req *packet) error {
	path, attributes := req.readPath(), req.readAttrs()
	if !req.ok() {
		return errMalformed
	}
	if err := unix.Mkdir(path, attributes.modeOr(0o777)); err != nil {
		return err
	}
	return s.replyOK(req.id)
}

// symlink reads its arguments in the order in which OpenSSH, and so every client, sends them: first the
// link's target, then its path (OpenSSH PROTOCOL section 4.1). The target is not changed.
func (s *server) symlink(req *packet) error { return s.onPaths(req, unix.Symlink) }

// setstat serves SSH_FXP_SETSTAT. It follows symbolic links; lsetstat@openssh.com does not.
func (s *server) setstat(req *packet) error {
	path, changes := req.readPath(), req.readAttrs()
	if !req.ok() {
		return errMalformed
	}
	if err := changes.apply(pathTarget(path)); err != nil {
		return err
	}
	return s.replyOK(req.id)
}

// rename fails if the new path exists, as version 3 of the protocol requires (draft section 6.5).
func (s *server) rename(req *packet) error { return s.onPaths(req, renameNoReplace) }

// renameNoReplace renames from to to, and returns EEXIST if there is a file at to. Where the file system can,
// it checks and renames in one step. Elsewhere another process may create the new path between the two steps,
// and the rename then replaces it.
func renameNoReplace(from, to string) error {
	err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
	if err != unix.EINVAL && err != unix.ENOSYS {
		return err
	}
	var st unix.Stat_t // the file system has no such rename: check first
	if unix.Lstat(to, &st) == nil {
		return unix.EEXIST
	}
	return unix.Rename(from, to)
}

func (s *server) stat(req *packet) error  { return s.statBy(req, unix.Stat) }
func (s *server) lstat(req *packet) error { return s.statBy(req, unix.Lstat) }

// statBy serves SSH_FXP_STAT, which follows symbolic links, and SSH_FXP_LSTAT, which does not.
func (s *server) statBy(req *packet, stat func(string, *unix.Stat_t) error) error {
	path := req.readPath()
	if !req.ok() {
		return errMalformed
	}
	var st unix.Stat_t
	if err := stat(path, &st); err != nil {
		return err
	}
	return s.replyAttrs(req.id, &st)
}

// replyAttrs replies with attributes.
func (s *server) replyAttrs(id uint32, st *unix.Stat_t) error {
	s.reply(typeAttrs, func(b []byte) []byte { return appendAttrs(binary.BigEndian.AppendUint32(b, id), st) })
	return nil
}

// replyName replies with one name, without attributes.
func (s *server) replyName(id uint32, name string) error {
	s.reply(typeName, func(b []byte) []byte {
		b = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(b, id), 1)
		return binary.BigEndian.AppendUint32(appendString(appendString(b, name), name), 0)
	})
	return nil
}

// readlink serves SSH_FXP_READLINK. The target is returned as it is stored, absolute or relative.
func (s *server) readlink(req *packet) error {
	path := req.readPath()
	if !req.ok() {
		return errMalformed
	}
	target, err := os.Readlink(path)
	if err != nil {
		return err
	}
	return s.replyName(req.id, target)
}

// realpath serves SSH_FXP_REALPATH (draft section 6.11). Clients ask it for their first directory, with the
// path ".".
func (s *server) realpath(req *packet) error {
	path := req.readPath()
	if !req.ok() {
		return errMalformed
	}
	resolved, err := resolve(path)
	if err != nil {
		return err
	}
	return s.replyName(req.id, resolved)
}

// resolve returns the absolute path with all symbolic links followed. The last element of the path need not
// exist; it is kept as it is then. A relative path starts at the working directory.
func resolve(path string) (string, error) {
	if !strings.HasPrefix(path, "/") {
		wd, err := os.Getwd()
		if err != nil {
			return "", err
		}
		path = wd + "/" + path // not filepath.Join, which would remove ".." without following symbolic links
	}
	resolved, err := filepath.EvalSymlinks(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return resolved, err
	}
	// The path does not exist. If all of it but the last element does, that is enough.
	dir, last := filepath.Split(strings.TrimRight(path, "/"))
	if last == "" || last == "." || last == ".." {
		return "", err
	}
	if resolved, err = filepath.EvalSymlinks(dir); err != nil {
		return "", err
	}
	return filepath.Join(resolved, last), nil
}
