// Package sftp answers: which of the account's files does a client see and change?
//
// It serves version 3 of the file transfer protocol (draft-ietf-secsh-filexfer-02) with the extensions of
// OpenSSH (PROTOCOL section 4) on a pair of streams, in a process that already runs as the account. The
// kernel checks every access, under the account's umask and limits, and gets the paths as the client sends
// them. Requests are served one after the other and answered in order, as by OpenSSH's own server.
package sftp

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Sizes, in bytes, are those of OpenSSH's server. Its client learns them by the extension limits@openssh.com.
const (
	maxPacket = 256 << 10
	maxData   = maxPacket - 1<<10 // of one read or write
	// flushAt is how many bytes of replies are collected before they are sent. They are sent earlier once
	// there is no complete request to serve.
	flushAt = 64 << 10
)

// version is the protocol version that all clients use; newer drafts are not in use.
const version = 3

// server serves one client, on one goroutine.
type server struct {
	in          *bufio.Reader // has room for one packet of maxPacket with its length
	out         io.Writer
	replies     []byte // encoded and not sent yet
	initialized bool   // versions were exchanged
	handles     map[uint32]*handle
	lastHandle  uint32 // the last id given to a handle
	names       nameTables
}

// Serve reads requests from in and writes replies to out until the end of in, and then returns nil. Relative
// paths start at the working directory of the process. The error says that the client violated the protocol,
// or that a stream failed. An error of a file does not end Serve: it is the reply to the request.
func Serve(in io.Reader, out io.Writer) error {
	s := &server{in: bufio.NewReaderSize(in, 4+maxPacket), out: out, handles: map[uint32]*handle{}}
	defer s.closeAll()
	for {
		raw, err := s.next()
		if errors.Is(err, io.EOF) {
			return s.flush()
		}
		if err != nil {
			return err
		}
		if err := s.serveRequest(raw); err != nil {
			return err
		}
		if _, err := s.in.Discard(4 + len(raw)); err != nil {
			return err
		}
	}
}

// next returns the next packet, without its length, and leaves it in the buffer of in: it is valid until the
// caller discards it. Before next waits for the client, it sends the replies. At the end of in the error is
// io.EOF, and inside a packet io.ErrUnexpectedEOF.
func (s *server) next() ([]byte, error) {
	head, err := s.peek(4)
	if err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(head)
	if size == 0 || size > maxPacket {
		return nil, fmt.Errorf("packet of %d bytes", size)
	}
	raw, err := s.peek(4 + int(size))
	if err != nil {
		return nil, errors.Join(io.ErrUnexpectedEOF, err)
	}
	return raw[4:], nil
}

// peek returns the next n bytes of in without consuming them. It first sends the replies if there are many,
// or if it may have to wait for the client: a client may wait for a reply before it sends more.
func (s *server) peek(n int) ([]byte, error) {
	if s.in.Buffered() < n || len(s.replies) >= flushAt {
		if err := s.flush(); err != nil {
			return nil, err
		}
	}
	b, err := s.in.Peek(n)
	if err == io.EOF && len(b) > 0 {
		err = fmt.Errorf("packet cut short: %w", io.ErrUnexpectedEOF)
	}
	return b, err
}

// flush sends the replies.
func (s *server) flush() error {
	if len(s.replies) == 0 {
		return nil
	}
	_, err := s.out.Write(s.replies)
	s.replies = s.replies[:0]
	return err
}

// serveRequest serves one packet, given without its length. A request that cannot be done gets a reply with
// the error. An error is returned only if the packet violates the protocol; it ends the connection.
func (s *server) serveRequest(raw []byte) error {
	req := &packet{kind: raw[0], rest: raw[1:]}
	if req.kind == typeInit {
		req.readUint32() // the client's version: every client knows version 3
		s.initialized = req.ok()
		s.replyVersion()
		return nil
	}
	if req.id = req.readUint32(); !s.initialized || !req.ok() {
		return errors.New("a request without an id, or before the version")
	}
	serve, known := handlers[req.kind]
	if !known {
		s.replyStatus(req.id, statusUnsupported, "unknown request")
		return nil
	}
	if err := serve(s, req); err != nil {
		s.replyError(req.id, err)
	}
	return nil
}

// handlers serve the requests, by type. Each writes its own reply, or returns an error for which serveRequest
// writes one.
var handlers = map[byte]func(*server, *packet) error{
	typeOpen:     (*server).openFile,
	typeClose:    (*server).close,
	typeRead:     (*server).read,
	typeWrite:    (*server).write,
	typeLstat:    (*server).lstat,
	typeFstat:    (*server).fstat,
	typeStat:     (*server).stat,
	typeSetstat:  (*server).setstat,
	typeFsetstat: (*server).fsetstat,
	typeOpendir:  (*server).openDir,
	typeReaddir:  (*server).readDir,
	typeRemove:   (*server).remove,
	typeMkdir:    (*server).mkdir,
	typeRmdir:    (*server).rmdir,
	typeRealpath: (*server).realpath,
	typeRename:   (*server).rename,
	typeReadlink: (*server).readlink,
	typeSymlink:  (*server).symlink,
	typeExtended: (*server).extended,
}

// replyVersion replies with the version and the extensions.
func (s *server) replyVersion() {
	s.reply(typeVersion, func(b []byte) []byte {
		b = binary.BigEndian.AppendUint32(b, version)
		for _, e := range extensions {
			b = appendString(appendString(b, e.name), e.version)
		}
		return b
	})
}
