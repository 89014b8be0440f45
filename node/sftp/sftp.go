// Package sftp answers: which of the account's files does a client see and change?
//
// It serves version 3 of the file transfer protocol (draft-ietf-secsh-filexfer-02) with the extensions of
// OpenSSH (PROTOCOL, section 4) on a pair of streams, in a process that already runs as the account: the
// kernel guards every access, under its umask and limits, and paths are handed to it as they come. One
// request after the other, answered in order, as OpenSSH's own server does it.
package sftp

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Sizes, in bytes, as OpenSSH's server has them: its client sizes its requests by what the extension
// limits@openssh.com tells.
const (
	maxPacket = 256 << 10
	maxData   = maxPacket - 1<<10 // of one read or write
	flushAt   = 64 << 10          // answers are collected up to this, and sent at the latest when the client has asked for nothing more
)

// version is that of the protocol. All clients of today speak it, whatever newer drafts say.
const version = 3

// server is one conversation.
type server struct {
	in          *bufio.Reader
	out         io.Writer
	replies     []byte // not yet sent
	initialized bool   // versions were exchanged
	handles     map[uint32]*handle
	lastHandle  uint32 // handle given out
	names       nameTables
}

// Serve serves until the client has no more requests. Relative paths begin in the process's working
// directory.
func Serve(in io.Reader, out io.Writer) error {
	s := &server{in: bufio.NewReaderSize(in, 4+maxPacket), out: out, handles: map[uint32]*handle{}}
	defer s.closeAll()
	for {
		p, err := s.next()
		if errors.Is(err, io.EOF) {
			return s.flush()
		}
		if err != nil {
			return err
		}
		if err := s.serveRequest(p); err != nil {
			return err
		}
		if _, err := s.in.Discard(4 + len(p)); err != nil {
			return err
		}
	}
}

// next returns the next packet, which is good until it is discarded. Before it waits for one, the client gets
// its answers.
func (s *server) next() ([]byte, error) {
	head, err := s.peek(4)
	if err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(head)
	if size == 0 || size > maxPacket {
		return nil, fmt.Errorf("packet of %d bytes", size)
	}
	p, err := s.peek(4 + int(size))
	if err != nil {
		return nil, errors.Join(io.ErrUnexpectedEOF, err)
	}
	return p[4:], nil
}

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

func (s *server) flush() error {
	if len(s.replies) == 0 {
		return nil
	}
	_, err := s.out.Write(s.replies)
	s.replies = s.replies[:0]
	return err
}

// serveRequest answers one packet. Whatever goes wrong with a file is an answer; an error ends the
// conversation.
func (s *server) serveRequest(b []byte) error {
	p := &packet{kind: b[0], rest: b[1:]}
	if p.kind == typeInit {
		p.uint32() // every client knows version 3
		s.initialized = p.ok()
		s.replyVersion()
		return nil
	}
	if p.id = p.uint32(); !s.initialized || p.bad {
		return errors.New("a request without an id, or before the version")
	}
	serve, known := handlers[p.kind]
	if !known {
		s.replyStatus(p.id, statusUnsupported, "unknown request")
		return nil
	}
	if err := serve(s, p); err != nil {
		s.replyError(p.id, err)
	}
	return nil
}

// handlers that are answered, with what does so. Each writes its own answer, or returns why it has none.
var handlers = map[byte]func(*server, *packet) error{
	typeOpen: (*server).openFile, typeClose: (*server).close, typeRead: (*server).read, typeWrite: (*server).write,
	typeLstat: (*server).lstat, typeFstat: (*server).fstat, typeStat: (*server).stat, typeSetstat: (*server).setstat, typeFsetstat: (*server).fsetstat,
	typeOpendir: (*server).openDir, typeReaddir: (*server).readDir, typeRemove: (*server).remove, typeMkdir: (*server).mkdir, typeRmdir: (*server).rmdir,
	typeRealpath: (*server).realpath, typeRename: (*server).rename, typeReadlink: (*server).readlink, typeSymlink: (*server).symlink,
	typeExtended: (*server).extended,
}

// replyVersion tells version and extensions.
func (s *server) replyVersion() {
	s.reply(typeVersion, func(b []byte) []byte {
		b = binary.BigEndian.AppendUint32(b, version)
		for _, e := range extensions {
			b = appendString(appendString(b, e.name), e.version)
		}
		return b
	})
}
