package sftp

import (
	"encoding/binary"
	"io"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// handle is a file or directory that the client has opened.
type handle struct {
	file      *os.File
	isDir     bool
	started   bool // of a directory: entries were read
	appending bool // writes go to the end of the file, at whatever offset the client names
}

// Open flags (draft section 6.3).
const (
	openRead      = 1 << 0
	openWrite     = 1 << 1
	openAppend    = 1 << 2
	openCreate    = 1 << 3
	openTruncate  = 1 << 4
	openExclusive = 1 << 5
)

// openFile serves SSH_FXP_OPEN (draft section 6.3): it opens the file at the path, or makes it, and replies
// with a handle. The kernel checks the access, follows links and applies the umask; nothing is checked here.
func (s *server) openFile(req *packet) error {
	path, openFlags, attributes := req.readPath(), req.readUint32(), req.readAttrs()
	if !req.ok() {
		return errMalformed
	}
	flags := unix.O_RDONLY
	switch openFlags & (openRead | openWrite) {
	case openRead | openWrite:
		flags = unix.O_RDWR
	case openWrite:
		flags = unix.O_WRONLY
	}
	for bit, flag := range map[uint32]int{
		openCreate:    unix.O_CREAT,
		openTruncate:  unix.O_TRUNC,
		openExclusive: unix.O_EXCL,
	} {
		if openFlags&bit != 0 {
			flags |= flag
		}
	}
	const writeAtEnd = openWrite | openAppend
	appending := openFlags&writeAtEnd == writeAtEnd
	if appending {
		flags |= unix.O_APPEND
	}
	fd, err := retry(func() (int, error) {
		return unix.Open(path, flags|unix.O_CLOEXEC|unix.O_NOCTTY|unix.O_LARGEFILE, attributes.modeOr(0o666))
	})
	if err != nil {
		return err
	}
	return s.replyHandle(req.id, &handle{file: os.NewFile(uintptr(fd), path), appending: appending})
}

// openDir serves SSH_FXP_OPENDIR (draft section 6.7). It replies with a handle of the directory at the path.
func (s *server) openDir(req *packet) error {
	path := req.readPath()
	if !req.ok() {
		return errMalformed
	}
	fd, err := retry(func() (int, error) {
		return unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return err
	}
	return s.replyHandle(req.id, &handle{file: os.NewFile(uintptr(fd), path), isDir: true})
}

// retry repeats a call that a signal interrupted: Go's runtime sends signals to its own threads.
func retry[T any](fn func() (T, error)) (T, error) {
	for {
		v, err := fn()
		if err != unix.EINTR {
			return v, err
		}
	}
}

// replyHandle registers a handle and replies with its id. Ids are not reused, so that a client's stale id
// never means another file.
func (s *server) replyHandle(id uint32, h *handle) error {
	s.lastHandle++
	s.handles[s.lastHandle] = h
	s.reply(typeHandle, func(b []byte) []byte {
		b = binary.BigEndian.AppendUint32(b, id)
		return appendString(b, string(binary.BigEndian.AppendUint32(nil, s.lastHandle)))
	})
	return nil
}

// fileHandle reads the id of a handle from the request and returns the handle. It returns EBADF if there is
// no such handle or it is of a directory.
func (s *server) fileHandle(req *packet) (*handle, error) { return s.readHandle(req, false) }

// dirHandle is fileHandle for a directory.
func (s *server) dirHandle(req *packet) (*handle, error) { return s.readHandle(req, true) }

// readHandle reads the id of a handle and returns the handle if it is of a directory or, without wantDir, of
// a file.
func (s *server) readHandle(req *packet, wantDir bool) (*handle, error) {
	h := s.handles[req.readHandleID()]
	if !req.ok() {
		return nil, errMalformed
	}
	if h == nil || h.isDir != wantDir {
		return nil, unix.EBADF
	}
	return h, nil
}

// readHandleID reads the id of a handle. It returns 0, which no handle has, for anything else.
func (p *packet) readHandleID() uint32 {
	if b := p.readBytes(); len(b) == 4 {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

// close serves SSH_FXP_CLOSE. The handle is removed even if closing the file fails, as with close(2). The
// reply then is the error, because data that were written may be lost.
func (s *server) close(req *packet) error {
	n := req.readHandleID()
	opened := s.handles[n]
	if opened == nil {
		return unix.EBADF
	}
	delete(s.handles, n)
	if err := opened.file.Close(); err != nil {
		return err
	}
	return s.replyOK(req.id)
}

// closeAll closes what the client has left open.
func (s *server) closeAll() {
	for _, h := range s.handles {
		_ = h.file.Close() // the client is gone
	}
}

// read serves SSH_FXP_READ (draft section 6.4): it replies with up to maxData bytes of the file from the
// offset on, or with io.EOF. To save a copy, it reads directly into the buffer of replies, behind the space
// for the header of this reply, and then adds the header.
func (s *server) read(req *packet) error {
	opened, err := s.fileHandle(req)
	if err != nil {
		return err
	}
	offset, size := req.readUint64(), req.readUint32()
	if !req.ok() {
		return errMalformed
	}
	const header = 4 + 1 + 4 + 4 // length, type, id, length of the data
	start, wanted := len(s.replies)+header, int(min(size, maxData))
	s.replies = slices.Grow(s.replies, header+wanted)
	data := s.replies[start : start+wanted]
	n, err := retry(func() (int, error) { return unix.Pread(int(opened.file.Fd()), data, int64(offset)) })
	if err != nil {
		return err
	}
	if n == 0 && size > 0 {
		return io.EOF
	}
	s.reply(typeData, func(b []byte) []byte {
		b = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(b, req.id), uint32(n))
		return b[:len(b)+n] // the data are there already
	})
	return nil
}

// write serves SSH_FXP_WRITE. It replies when the kernel has taken all of the data. They need not be on the
// disk by then; a client that wants that asks for fsync@openssh.com.
func (s *server) write(req *packet) error {
	opened, err := s.fileHandle(req)
	if err != nil {
		return err
	}
	offset, data := req.readUint64(), req.readBytes()
	if !req.ok() {
		return errMalformed
	}
	if err := opened.writeAt(data, int64(offset)); err != nil {
		return err
	}
	return s.replyOK(req.id)
}

// writeAt writes all of the data, in several calls if the kernel takes only a part.
func (h *handle) writeAt(data []byte, offset int64) error {
	for len(data) > 0 {
		n, err := retry(func() (int, error) {
			if h.appending {
				return unix.Write(int(h.file.Fd()), data)
			}
			return unix.Pwrite(int(h.file.Fd()), data, offset)
		})
		if err != nil {
			return err
		}
		data, offset = data[n:], offset+int64(n)
	}
	return nil
}

// fsetstat serves SSH_FXP_FSETSTAT (draft section 6.9).
func (s *server) fsetstat(req *packet) error {
	opened, changes := s.handles[req.readHandleID()], req.readAttrs()
	if !req.ok() {
		return errMalformed
	}
	if opened == nil {
		return unix.EBADF
	}
	if err := changes.apply(fileTarget(int(opened.file.Fd()))); err != nil {
		return err
	}
	return s.replyOK(req.id)
}

// fstat serves SSH_FXP_FSTAT, also for directories.
func (s *server) fstat(req *packet) error {
	opened := s.handles[req.readHandleID()]
	if opened == nil {
		return unix.EBADF
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(opened.file.Fd()), &st); err != nil {
		return err
	}
	return s.replyAttrs(req.id, &st)
}
