package sftp

import (
	"encoding/binary"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// Flags of attributes that are present (draft section 5).
const (
	hasSize     = 1 << 0
	hasOwner    = 1 << 1
	hasMode     = 1 << 2
	hasTimes    = 1 << 3
	hasExtended = 1 << 31
)

// attrs are the attributes of a file in a request. Only those with their flag set are valid.
type attrs struct {
	flags        uint32
	size         uint64
	uid, gid     uint32
	mode         uint32
	atime, mtime uint32 // seconds since 1970
}

// readAttrs reads the attributes of a request. It skips extended attributes, because no client and no server
// defines any.
func (p *packet) readAttrs() attrs {
	a := attrs{flags: p.readUint32()}
	if a.flags&hasSize != 0 {
		a.size = p.readUint64()
	}
	if a.flags&hasOwner != 0 {
		a.uid, a.gid = p.readUint32(), p.readUint32()
	}
	if a.flags&hasMode != 0 {
		a.mode = p.readUint32()
	}
	if a.flags&hasTimes != 0 {
		a.atime, a.mtime = p.readUint32(), p.readUint32()
	}
	if a.flags&hasExtended != 0 {
		for n := p.readUint32(); n > 0 && p.ok(); n-- {
			p.readBytes()
			p.readBytes()
		}
	}
	return a
}

// appendAttrs encodes attributes. Times are cut to 32 bits, as the protocol has them.
func appendAttrs(b []byte, st *unix.Stat_t) []byte {
	b = binary.BigEndian.AppendUint32(b, hasSize|hasOwner|hasMode|hasTimes)
	b = binary.BigEndian.AppendUint64(b, uint64(st.Size))
	for _, n := range []uint32{st.Uid, st.Gid, st.Mode, uint32(st.Atim.Sec), uint32(st.Mtim.Sec)} {
		b = binary.BigEndian.AppendUint32(b, n)
	}
	return b
}

// modeBits are the bits of a mode that chmod, mkdir and open accept.
const modeBits = 0o7777

// modeOr returns the mode that the client wants for a new file, before the umask, or the default.
func (a attrs) modeOr(defaultMode uint32) uint32 {
	if a.flags&hasMode == 0 {
		return defaultMode
	}
	return a.mode & modeBits
}

// times returns the times of access and of modification, for utimensat(2).
func (a attrs) times() []unix.Timespec {
	return []unix.Timespec{
		unix.NsecToTimespec(int64(a.atime) * 1e9),
		unix.NsecToTimespec(int64(a.mtime) * 1e9),
	}
}

// attrSetter has the functions that set the attributes of one file: of an open file, or of one at a path.
type attrSetter struct {
	truncate func(size int64) error
	chmod    func(mode uint32) error
	times    func([]unix.Timespec) error
	chown    func(uid, gid int) error
}

// apply sets those attributes of a file that are present in a, in the order of OpenSSH's server. It returns
// the first error, and sets nothing after it.
func (a attrs) apply(set attrSetter) error {
	if a.flags&hasSize != 0 {
		if err := set.truncate(int64(a.size)); err != nil {
			return err
		}
	}
	if a.flags&hasMode != 0 {
		if err := set.chmod(a.mode & modeBits); err != nil {
			return err
		}
	}
	if a.flags&hasTimes != 0 {
		if err := set.times(a.times()); err != nil {
			return err
		}
	}
	if a.flags&hasOwner != 0 {
		return set.chown(int(a.uid), int(a.gid))
	}
	return nil
}

// pathTarget returns functions that set attributes of the file at the path. They follow symbolic links.
func pathTarget(path string) attrSetter {
	return attrSetter{
		truncate: func(size int64) error { return unix.Truncate(path, size) },
		chmod:    func(mode uint32) error { return unix.Chmod(path, mode) },
		times:    func(ts []unix.Timespec) error { return unix.UtimesNanoAt(unix.AT_FDCWD, path, ts, 0) },
		chown:    func(uid, gid int) error { return unix.Chown(path, uid, gid) },
	}
}

// fileTarget returns functions that set attributes of an open file. They use the descriptor and not the path:
// another file may have taken that path since.
func fileTarget(fd int) attrSetter {
	path := "/proc/self/fd/" + strconv.Itoa(fd)
	return attrSetter{
		truncate: func(size int64) error { return unix.Ftruncate(fd, size) },
		chmod:    func(mode uint32) error { return unix.Fchmod(fd, mode) },
		times:    func(ts []unix.Timespec) error { return unix.UtimesNanoAt(unix.AT_FDCWD, path, ts, 0) },
		chown:    func(uid, gid int) error { return unix.Fchown(fd, uid, gid) },
	}
}

// linkTarget returns functions that set attributes of the file at the path. If the file is a symbolic link,
// they change the link itself, or return an error where a link has no such attribute.
func linkTarget(path string) attrSetter {
	return attrSetter{
		truncate: func(int64) error { return errMalformed }, // as OpenSSH's server
		// fchmodat(2) with AT_SYMLINK_NOFOLLOW is missing in older kernels, so the file is opened without
		// following a link and changed through /proc.
		chmod: func(mode uint32) error {
			fd, err := unix.Open(path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			var st unix.Stat_t
			if err := unix.Fstat(fd, &st); err != nil {
				return err
			}
			if st.Mode&unix.S_IFMT == unix.S_IFLNK {
				return unix.EOPNOTSUPP // symbolic links have no mode on Linux
			}
			return unix.Chmod(filepath.Join("/proc/self/fd", strconv.Itoa(fd)), mode)
		},
		times: func(ts []unix.Timespec) error {
			return unix.UtimesNanoAt(unix.AT_FDCWD, path, ts, unix.AT_SYMLINK_NOFOLLOW)
		},
		chown: func(uid, gid int) error { return unix.Lchown(path, uid, gid) },
	}
}
