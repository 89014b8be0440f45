package sftp

import (
	"encoding/binary"
	"errors"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// extensions are the requests beyond the draft that clients are told of, with their versions (OpenSSH
// PROTOCOL section 4; copy-data and home-directory have drafts of their own).
var extensions = []struct{ name, version string }{
	{"posix-rename@openssh.com", "1"},
	{"statvfs@openssh.com", "2"},
	{"fstatvfs@openssh.com", "2"},
	{"hardlink@openssh.com", "1"},
	{"fsync@openssh.com", "1"},
	{"lsetstat@openssh.com", "1"},
	{"limits@openssh.com", "1"},
	{"expand-path@openssh.com", "1"},
	{"copy-data", "1"},
	{"home-directory", "1"},
	{"users-groups-by-id@openssh.com", "1"},
}

// extended serves SSH_FXP_EXTENDED (draft-ietf-secsh-filexfer-02 section 8): it reads the name of the
// extension and serves the request. It returns errUnsupported for an unknown name.
func (s *server) extended(req *packet) error {
	switch string(req.readBytes()) {
	case "posix-rename@openssh.com":
		return s.onPaths(req, unix.Rename)
	case "hardlink@openssh.com":
		return s.onPaths(req, unix.Link)
	case "statvfs@openssh.com":
		return s.statvfs(req)
	case "fstatvfs@openssh.com":
		return s.fstatvfs(req)
	case "fsync@openssh.com":
		return s.fsync(req)
	case "lsetstat@openssh.com":
		return s.lsetstat(req)
	case "limits@openssh.com":
		return s.limits(req)
	case "expand-path@openssh.com":
		return s.expandPath(req)
	case "copy-data":
		return s.copyData(req)
	case "home-directory":
		return s.homeDirectory(req)
	case "users-groups-by-id@openssh.com":
		return s.usersGroups(req)
	}
	return errUnsupported
}

// statvfs serves statvfs@openssh.com: it replies with the state of the file system at the path.
func (s *server) statvfs(req *packet) error {
	path := req.readPath()
	if !req.ok() {
		return errMalformed
	}
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return err
	}
	return s.replyStatvfs(req.id, &st)
}

// fstatvfs serves fstatvfs@openssh.com, which names an open file or directory in place of a path.
func (s *server) fstatvfs(req *packet) error {
	opened := s.handles[req.readHandleID()]
	if opened == nil {
		return unix.EBADF
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(opened.file.Fd()), &st); err != nil {
		return err
	}
	return s.replyStatvfs(req.id, &st)
}

// replyStatvfs replies with the fields of statvfs(3).
func (s *server) replyStatvfs(id uint32, st *unix.Statfs_t) error {
	fsid := uint64(uint32(st.Fsid.Val[0])) | uint64(uint32(st.Fsid.Val[1]))<<32
	flags := uint64(st.Flags) & (unix.ST_RDONLY | unix.ST_NOSUID)
	s.reply(typeExtendedReply, func(b []byte) []byte {
		b = binary.BigEndian.AppendUint32(b, id)
		for _, n := range []uint64{
			uint64(st.Bsize), uint64(st.Frsize),
			st.Blocks, st.Bfree, st.Bavail,
			st.Files, st.Ffree, st.Ffree, // the last for users other than root: Linux makes no difference
			fsid, flags, uint64(st.Namelen),
		} {
			b = binary.BigEndian.AppendUint64(b, n)
		}
		return b
	})
	return nil
}

// fsync serves fsync@openssh.com: it writes the file's data to the disk, and then replies.
func (s *server) fsync(req *packet) error {
	opened, err := s.fileHandle(req)
	if err != nil {
		return err
	}
	if err := unix.Fsync(int(opened.file.Fd())); err != nil {
		return err
	}
	return s.replyOK(req.id)
}

// lsetstat serves lsetstat@openssh.com: it is setstat, but changes a symbolic link itself.
func (s *server) lsetstat(req *packet) error {
	path, changes := req.readPath(), req.readAttrs()
	if !req.ok() {
		return errMalformed
	}
	if err := changes.apply(linkTarget(path)); err != nil {
		return err
	}
	return s.replyOK(req.id)
}

// reservedFiles is how many descriptors the process keeps for itself.
const reservedFiles = 10

// limits serves limits@openssh.com: it replies with the sizes of packets, reads and writes and the number of
// handles that a client may use.
func (s *server) limits(req *packet) error {
	var files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
		return err
	}
	handles := max(files.Cur, reservedFiles) - reservedFiles
	s.reply(typeExtendedReply, func(b []byte) []byte {
		b = binary.BigEndian.AppendUint32(b, req.id)
		for _, n := range []uint64{maxPacket, maxData, maxData, handles} {
			b = binary.BigEndian.AppendUint64(b, n)
		}
		return b
	})
	return nil
}

// expandPath serves expand-path@openssh.com: it replies with the absolute path, all symbolic links followed,
// for a path that may start with ~ or ~user.
func (s *server) expandPath(req *packet) error {
	path := req.readPath()
	if !req.ok() {
		return errMalformed
	}
	if rest, ok := strings.CutPrefix(path, "~"); ok {
		user, rest, _ := strings.Cut(rest, "/")
		home, known := s.homeOf(user)
		if !known {
			return unix.ENOENT
		}
		path = home + "/" + rest
	}
	resolved, err := resolve(path)
	if err != nil {
		return err
	}
	return s.replyName(req.id, resolved)
}

// homeOf returns the home of a user. The empty name means the account's own, from the environment.
func (s *server) homeOf(user string) (string, bool) {
	if user == "" {
		home := os.Getenv("HOME")
		return home, home != ""
	}
	return s.names.home(user)
}

// homeDirectory serves home-directory: it replies with the home of a user, as homeOf finds it.
func (s *server) homeDirectory(req *packet) error {
	user := req.readPath()
	if !req.ok() {
		return errMalformed
	}
	home, known := s.homeOf(user)
	if !known {
		return unix.ENOENT
	}
	return s.replyName(req.id, home)
}

// usersGroups serves users-groups-by-id@openssh.com. The request contains a list of user ids and a list of
// group ids; the reply contains the names for each list. The name of an unknown id is empty.
func (s *server) usersGroups(req *packet) error {
	userIDs, groupIDs := &packet{rest: req.readBytes()}, &packet{rest: req.readBytes()}
	if !req.ok() {
		return errMalformed
	}
	s.names.load()
	lookUp := func(ids *packet, known map[uint32]string) (names []byte) {
		for len(ids.rest) > 0 && ids.ok() {
			names = appendString(names, known[ids.readUint32()])
		}
		return names
	}
	users, groups := lookUp(userIDs, s.names.users), lookUp(groupIDs, s.names.groups)
	if !userIDs.ok() || !groupIDs.ok() || len(users)+len(groups) > maxData {
		return errMalformed
	}
	s.reply(typeExtendedReply, func(b []byte) []byte {
		b = binary.BigEndian.AppendUint32(b, req.id)
		return appendString(appendString(b, string(users)), string(groups))
	})
	return nil
}

// copyData serves copy-data: it copies bytes from one open file to another, without sending them to the
// client. The request gives a handle and an offset for each file, and a number of bytes; 0 means up to the
// end of the source. Copying within one file is refused.
func (s *server) copyData(req *packet) error {
	from, err := s.fileHandle(req)
	if err != nil {
		return err
	}
	readAt, size := int64(req.readUint64()), req.readUint64()
	to, err := s.fileHandle(req)
	if err != nil {
		return err
	}
	writeAt := int64(req.readUint64())
	if !req.ok() {
		return errMalformed
	}
	if sameFile(from, to) {
		return errSame
	}
	if err := copyBetween(from, to, readAt, writeAt, size); err != nil {
		return err
	}
	return s.replyOK(req.id)
}

var errSame = errors.New("both are the same file")

// sameFile reports whether two handles are of the same file. It also returns true if that cannot be found
// out: copying within one file could overwrite what is still to be read.
func sameFile(a, b *handle) bool {
	infoA, err1 := a.file.Stat()
	infoB, err2 := b.file.Stat()
	return err1 != nil || err2 != nil || os.SameFile(infoA, infoB)
}

// copyBetween copies size bytes, from the offset readAt of from to the offset writeAt of to. If size is 0, it
// copies up to the end of from. It is no error if from ends earlier.
func copyBetween(from, to *handle, readAt, writeAt int64, size uint64) error {
	buf := make([]byte, flushAt)
	for toEnd := size == 0; toEnd || size > 0; {
		chunk := buf
		if !toEnd {
			chunk = buf[:min(size, uint64(len(buf)))]
		}
		n, err := retry(func() (int, error) { return unix.Pread(int(from.file.Fd()), chunk, readAt) })
		if err != nil || n == 0 {
			return err
		}
		if err := to.writeAt(chunk[:n], writeAt); err != nil {
			return err
		}
		readAt, writeAt, size = readAt+int64(n), writeAt+int64(n), size-min(size, uint64(n))
	}
	return nil
}
