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

// extended serves an extended request.
func (s *server) extended(p *packet) error {
	switch string(p.bytes()) {
	case "posix-rename@openssh.com":
		return s.onPaths(p, unix.Rename)
	case "hardlink@openssh.com":
		return s.onPaths(p, unix.Link)
	case "statvfs@openssh.com":
		return s.statvfs(p)
	case "fstatvfs@openssh.com":
		return s.fstatvfs(p)
	case "fsync@openssh.com":
		return s.fsync(p)
	case "lsetstat@openssh.com":
		return s.lsetstat(p)
	case "limits@openssh.com":
		return s.limits(p)
	case "expand-path@openssh.com":
		return s.expandPath(p)
	case "copy-data":
		return s.copyData(p)
	case "home-directory":
		return s.homeDirectory(p)
	case "users-groups-by-id@openssh.com":
		return s.usersGroups(p)
	}
	return errUnsupported
}

func (s *server) statvfs(p *packet) error {
	path := p.path()
	if !p.ok() {
		return errMalformed
	}
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return err
	}
	return s.replyStatvfs(p.id, &st)
}

func (s *server) fstatvfs(p *packet) error {
	h := s.handles[p.handleID()]
	if h == nil {
		return unix.EBADF
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(h.file.Fd()), &st); err != nil {
		return err
	}
	return s.replyStatvfs(p.id, &st)
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

// fsync writes a file's data to the disk before it replies.
func (s *server) fsync(p *packet) error {
	h, err := s.handle(p, false)
	if err != nil {
		return err
	}
	if err := unix.Fsync(int(h.file.Fd())); err != nil {
		return err
	}
	return s.replyOK(p.id)
}

// lsetstat is setstat without following a symbolic link.
func (s *server) lsetstat(p *packet) error {
	path, a := p.path(), p.attrs()
	if !p.ok() {
		return errMalformed
	}
	if err := a.apply(linkTarget(path)); err != nil {
		return err
	}
	return s.replyOK(p.id)
}

// reservedFiles is how many descriptors the process keeps for itself.
const reservedFiles = 10

// limits replies with the sizes of packets, reads and writes and the number of handles that a client may use.
func (s *server) limits(p *packet) error {
	var files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
		return err
	}
	handles := max(files.Cur, reservedFiles) - reservedFiles
	s.reply(typeExtendedReply, func(b []byte) []byte {
		b = binary.BigEndian.AppendUint32(b, p.id)
		for _, n := range []uint64{maxPacket, maxData, maxData, handles} {
			b = binary.BigEndian.AppendUint64(b, n)
		}
		return b
	})
	return nil
}

// expandPath resolves a path that may start with ~ or ~user.
func (s *server) expandPath(p *packet) error {
	path := p.path()
	if !p.ok() {
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
	real, err := resolve(path)
	if err != nil {
		return err
	}
	return s.replyName(p.id, real)
}

// homeOf returns the home of a user. The empty name means the account's own, from the environment.
func (s *server) homeOf(user string) (string, bool) {
	if user == "" {
		home := os.Getenv("HOME")
		return home, home != ""
	}
	return s.names.home(user)
}

// homeDirectory replies with the home of a user, as passwd(5) has it.
func (s *server) homeDirectory(p *packet) error {
	user := p.path()
	if !p.ok() {
		return errMalformed
	}
	home, known := s.homeOf(user)
	if !known {
		return unix.ENOENT
	}
	return s.replyName(p.id, home)
}

// usersGroups replies with the names of user ids and of group ids. The name of an unknown id is empty.
func (s *server) usersGroups(p *packet) error {
	users, groups := &packet{rest: p.bytes()}, &packet{rest: p.bytes()}
	if !p.ok() {
		return errMalformed
	}
	s.names.load()
	list := func(ids *packet, known map[uint32]string) (out []byte) {
		for len(ids.rest) > 0 && ids.ok() {
			out = appendString(out, known[ids.uint32()])
		}
		return out
	}
	u, g := list(users, s.names.users), list(groups, s.names.groups)
	if !users.ok() || !groups.ok() || len(u)+len(g) > maxData {
		return errMalformed
	}
	s.reply(typeExtendedReply, func(b []byte) []byte {
		return appendString(appendString(binary.BigEndian.AppendUint32(b, p.id), string(u)), string(g))
	})
	return nil
}

// copyData copies bytes from one open file to another, without sending them to the client. A length of 0
// means up to the end of the file.
func (s *server) copyData(p *packet) error {
	from, err := s.handle(p, false)
	if err != nil {
		return err
	}
	readAt, size := int64(p.uint64()), p.uint64()
	to, err := s.handle(p, false)
	if err != nil {
		return err
	}
	writeAt := int64(p.uint64())
	if !p.ok() {
		return errMalformed
	}
	if sameFile(from, to) {
		return errSame
	}
	if err := copyBetween(from, to, readAt, writeAt, size); err != nil {
		return err
	}
	return s.replyOK(p.id)
}

var errSame = errors.New("both are the same file")

// sameFile reports whether the handles are of the same file, or might be: it could then overwrite what it has
// to read.
func sameFile(a, b *handle) bool {
	infoA, err1 := a.file.Stat()
	infoB, err2 := b.file.Stat()
	return err1 != nil || err2 != nil || os.SameFile(infoA, infoB)
}

// copyBetween copies size bytes, or up to the end of the file if size is 0. A file that ends earlier is no
// error.
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
