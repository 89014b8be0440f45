package sftp

import (
	"encoding/binary"
	"errors"
	"io"
	"syscall"
)

// Packet types (draft section 3).
const (
	typeInit          = 1
	typeVersion       = 2
	typeOpen          = 3
	typeClose         = 4
	typeRead          = 5
	typeWrite         = 6
	typeLstat         = 7
	typeFstat         = 8
	typeSetstat       = 9
	typeFsetstat      = 10
	typeOpendir       = 11
	typeReaddir       = 12
	typeRemove        = 13
	typeMkdir         = 14
	typeRmdir         = 15
	typeRealpath      = 16
	typeStat          = 17
	typeRename        = 18
	typeReadlink      = 19
	typeSymlink       = 20
	typeStatus        = 101
	typeHandle        = 102
	typeData          = 103
	typeName          = 104
	typeAttrs         = 105
	typeExtended      = 200
	typeExtendedReply = 201
)

// Status codes (draft section 7).
const (
	statusOK          = 0
	statusEOF         = 1
	statusNoSuchFile  = 2
	statusDenied      = 3
	statusFailure     = 4
	statusBadMessage  = 5
	statusUnsupported = 8
)

// packet is a request that is being read. What does not fit marks it as bad, which ok tells at the end.
type packet struct {
	kind byte
	id   uint32
	rest []byte
	bad  bool
}

var (
	errMalformed   = errors.New("the request could not be read")
	errUnsupported = errors.New("not supported")
)

func (p *packet) take(n uint64) []byte {
	if p.bad || n > uint64(len(p.rest)) {
		p.bad, p.rest = true, nil
		return nil
	}
	b := p.rest[:n]
	p.rest = p.rest[n:]
	return b
}

func (p *packet) uint32() uint32 {
	if b := p.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (p *packet) uint64() uint64 {
	if b := p.take(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

func (p *packet) bytes() []byte { return p.take(uint64(p.uint32())) }

// path reads one, which the kernel takes up to its first NUL: such a path is no path.
func (p *packet) path() string {
	s := string(p.bytes())
	for i := range len(s) {
		if s[i] == 0 {
			p.bad = true
		}
	}
	return s
}

// ok says that all of it was there. What more there is, newer drafts may mean something by.
func (p *packet) ok() bool { return !p.bad }

// reply appends a packet whose body fill appends.
func (s *server) reply(kind byte, fill func([]byte) []byte) {
	start := len(s.replies)
	s.replies = fill(append(s.replies, 0, 0, 0, 0, kind))
	binary.BigEndian.PutUint32(s.replies[start:], uint32(len(s.replies)-start-4))
}

func (s *server) replyStatus(id, code uint32, text string) {
	s.reply(typeStatus, func(b []byte) []byte {
		b = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(b, id), code)
		return appendString(appendString(b, text), "en")
	})
}

// replyOK answers that the request was carried out.
func (s *server) replyOK(id uint32) error {
	s.replyStatus(id, statusOK, "Success")
	return nil
}

// replyError answers why the request was not. The codes are those that OpenSSH's server gives: its client
// words its messages by them.
func (s *server) replyError(id uint32, err error) {
	code := uint32(statusFailure)
	var no syscall.Errno
	switch {
	case errors.Is(err, io.EOF):
		code = statusEOF
	case errors.Is(err, errMalformed):
		code = statusBadMessage
	case errors.Is(err, errUnsupported):
		code = statusUnsupported
	case errors.As(err, &no):
		code = statusCode(no)
		err = no // no paths: the client knows which one it asked for
	}
	text, usual := statusTexts[code]
	if !usual {
		text = err.Error() // what the code does not say: no space left, directory not empty
	}
	s.replyStatus(id, code, text)
}

// statusTexts of the codes that say it all, in the words of OpenSSH's server.
var statusTexts = map[uint32]string{
	statusEOF:         "End of file",
	statusNoSuchFile:  "No such file",
	statusDenied:      "Permission denied",
	statusBadMessage:  "Bad message",
	statusUnsupported: "Operation unsupported",
}

func statusCode(no syscall.Errno) uint32 {
	switch no {
	case syscall.ENOENT, syscall.ENOTDIR, syscall.EBADF, syscall.ELOOP:
		return statusNoSuchFile
	case syscall.EPERM, syscall.EACCES, syscall.EFAULT:
		return statusDenied
	case syscall.ENAMETOOLONG, syscall.EINVAL:
		return statusBadMessage
	case syscall.ENOSYS:
		return statusUnsupported
	}
	return statusFailure
}

func appendString(b []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint32(b, uint32(len(s))), s...)
}
