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

// packet is a request, or a list in one, while it is read. Its methods read one field after the other. If a
// field is cut short or invalid, its method returns the zero value and the packet is bad: the caller reads
// all fields, and then asks ok once.
type packet struct {
	kind byte
	id   uint32
	rest []byte // not read yet
	bad  bool   // a field was not valid
}

var (
	errMalformed   = errors.New("the request could not be read")
	errUnsupported = errors.New("not supported")
)

// take reads n bytes, or nil if the packet has fewer. The bytes are valid until the packet is discarded.
func (p *packet) take(n uint64) []byte {
	if p.bad || n > uint64(len(p.rest)) {
		p.bad, p.rest = true, nil
		return nil
	}
	b := p.rest[:n]
	p.rest = p.rest[n:]
	return b
}

func (p *packet) readUint32() uint32 {
	if b := p.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (p *packet) readUint64() uint64 {
	if b := p.take(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

// readBytes reads a string: its length and its bytes.
func (p *packet) readBytes() []byte { return p.take(uint64(p.readUint32())) }

// readPath reads a path. A path with a NUL is invalid: the kernel would use the part before it.
func (p *packet) readPath() string {
	s := string(p.readBytes())
	for i := range len(s) {
		if s[i] == 0 {
			p.bad = true
		}
	}
	return s
}

// ok reports whether all fields that were read are valid. Further bytes are ignored: newer drafts may give
// them a meaning.
func (p *packet) ok() bool { return !p.bad }

// reply adds a packet of the given type to the replies. fill appends the body of the packet to the slice that
// it gets, and returns the slice.
func (s *server) reply(kind byte, fill func([]byte) []byte) {
	start := len(s.replies)
	s.replies = fill(append(s.replies, 0, 0, 0, 0, kind))
	binary.BigEndian.PutUint32(s.replies[start:], uint32(len(s.replies)-start-4))
}

// replyStatus replies with a code and a text in English.
func (s *server) replyStatus(id, code uint32, text string) {
	s.reply(typeStatus, func(b []byte) []byte {
		b = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(b, id), code)
		return appendString(appendString(b, text), "en")
	})
}

// replyOK replies that the request was done. It returns nil, so that handlers can end with it.
func (s *server) replyOK(id uint32) error {
	s.replyStatus(id, statusOK, "Success")
	return nil
}

// replyError replies with the status for err, which a handler returned. The codes are those of OpenSSH's
// server, because its client chooses its messages by them. Where the code alone does not explain the error,
// the reply contains the text of the error.
func (s *server) replyError(id uint32, err error) {
	code := uint32(statusFailure)
	var errno syscall.Errno
	switch {
	case errors.Is(err, io.EOF):
		code = statusEOF
	case errors.Is(err, errMalformed):
		code = statusBadMessage
	case errors.Is(err, errUnsupported):
		code = statusUnsupported
	case errors.As(err, &errno):
		code = statusCode(errno)
		err = errno // without the path, which the client knows
	}
	text, sufficient := statusTexts[code]
	if !sufficient {
		text = err.Error() // "no space left on device", "directory not empty"
	}
	s.replyStatus(id, code, text)
}

// statusTexts are the texts of codes that need no explanation, as OpenSSH's server words them.
var statusTexts = map[uint32]string{
	statusEOF:         "End of file",
	statusNoSuchFile:  "No such file",
	statusDenied:      "Permission denied",
	statusBadMessage:  "Bad message",
	statusUnsupported: "Operation unsupported",
}

// statusCode returns the code for an errno, as OpenSSH's server chooses it.
func statusCode(errno syscall.Errno) uint32 {
	switch errno {
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

// appendString encodes a string with its length.
func appendString(b []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint32(b, uint32(len(s))), s...)
}
