package sftp

import (
	"encoding/binary"
	"io"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// handle is an open file or directory.
type handle struct {
	file      *os.File
	dir       bool
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

// openFile serves SSH_FXP_OPEN (draft section 6.3). The kernel opens the file, so it decides about access,
// links and the umask.
func (s *server) openFile(p *packet) error {
	path, wanted, a := p.path(), p.uint32(), p.attrs()
	if !p.ok() {
		return errMalformed
	}
	flags := unix.O_RDONLY
	switch wanted & (openRead | openWrite) {
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
		if wanted&bit != 0 {
			flags |= flag
		}
	}
	appending := wanted&(openWrite|openAppend) == openWrite|openAppend
	if appending {
		flags |= unix.O_APPEND
	}
	fd, err := retry(func() (int, error) {
		return unix.Open(path, flags|unix.O_CLOEXEC|unix.O_NOCTTY|unix.O_LARGEFILE, a.modeOr(0o666))
	})
	if err != nil {
		return err
	}
	return s.replyHandle(p.id, &handle{file: os.NewFile(uintptr(fd), path), appending: appending})
}

// openDir serves SSH_FXP_OPENDIR (draft section 6.7).
func (s *server) openDir(p *packet) error {
	path := p.path()
	if !p.ok() {
		return errMalformed
	}
	fd, err := retry(func() (int, error) {
		return unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return err
	}
	return s.replyHandle(p.id, &handle{file: os.NewFile(uintptr(fd), path), dir: true})
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

// handle reads the id of a handle and returns the handle: of a file, or of a directory if dir is set.
func (s *server) handle(p *packet, dir bool) (*handle, error) {
	h := s.handles[p.handleID()]
	if !p.ok() {
		return nil, errMalformed
	}
	if h == nil || h.dir != dir {
		return nil, unix.EBADF
	}
	return h, nil
}

// handleID reads the id of a handle. It returns 0, which no handle has, for anything else.
func (p *packet) handleID() uint32 {
	if b := p.bytes(); len(b) == 4 {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

// close serves SSH_FXP_CLOSE. The handle is gone even if closing the file fails, as with close(2): the reply
// then reports that a write was lost.
func (s *server) close(p *packet) error {
	n := p.handleID()
	h := s.handles[n]
	if h == nil {
		return unix.EBADF
	}
	delete(s.handles, n)
	if err := h.file.Close(); err != nil {
		return err
	}
	return s.replyOK(p.id)
}

// closeAll closes what a client left open.
func (s *server) closeAll() {
	for _, h := range s.handles {
		_ = h.file.Close() // the client is gone
	}
}

// read reads directly into the buffer of replies, behind the space for the header.
func (s *server) read(p *packet) error {
	h, err := s.handle(p, false)
	if err != nil {
		return err
	}
	at, size := p.uint64(), p.uint32()
	if !p.ok() {
		return errMalformed
	}
	const header = 4 + 1 + 4 + 4 // length, type, id, length of the data
	start, wanted := len(s.replies)+header, int(min(size, maxData))
	s.replies = slices.Grow(s.replies, header+wanted)
	data := s.replies[start : start+wanted]
	n, err := retry(func() (int, error) { return unix.Pread(int(h.file.Fd()), data, int64(at)) })
	if err != nil {
		return err
	}
	if n == 0 && size > 0 {
		return io.EOF
	}
	s.reply(typeData, func(b []byte) []byte {
		b = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(b, p.id), uint32(n))
		return b[:len(b)+n] // the data is there already
	})
	return nil
}

// write serves SSH_FXP_WRITE. The reply is sent once the kernel has all of the data; fsync@openssh.com asks
// for the disk.
func (s *server) write(p *packet) error {
	h, err := s.handle(p, false)
	if err != nil {
		return err
	}
	at, data := p.uint64(), p.bytes()
	if !p.ok() {
		return errMalformed
	}
	if err := h.writeAt(data, int64(at)); err != nil {
		return err
	}
	return s.replyOK(p.id)
}

// writeAt writes all of the data, in several calls if the kernel takes only a part.
func (h *handle) writeAt(data []byte, at int64) error {
	for len(data) > 0 {
		n, err := retry(func() (int, error) {
			if h.appending {
				return unix.Write(int(h.file.Fd()), data)
			}
			return unix.Pwrite(int(h.file.Fd()), data, at)
		})
		if err != nil {
			return err
		}
		data, at = data[n:], at+int64(n)
	}
	return nil
}

// fsetstat serves SSH_FXP_FSETSTAT (draft section 6.9).
func (s *server) fsetstat(p *packet) error {
	h, a := s.handles[p.handleID()], p.attrs()
	if !p.ok() {
		return errMalformed
	}
	if h == nil {
		return unix.EBADF
	}
	if err := a.apply(fileTarget(int(h.file.Fd()))); err != nil {
		return err
	}
	return s.replyOK(p.id)
}

// fstat serves SSH_FXP_FSTAT, also for directories.
func (s *server) fstat(p *packet) error {
	h := s.handles[p.handleID()]
	if h == nil {
		return unix.EBADF
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(h.file.Fd()), &st); err != nil {
		return err
	}
	return s.replyAttrs(p.id, &st)
}
