package session

import (
	"encoding/binary"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// op says what a note asks or tells.
type op byte

// The node asks, and answers come under the id of the question. An id with the bit acceptedBit is of a
// connection that was accepted.
const (
	opDial          op = 1 + iota // connect to the socket text, and move bytes between it and the stream that comes with the note
	opListen                      // listen on the socket text
	opListenAgent                 // make a private folder and listen in it
	opCloseListener               // end the listener id, and remove its socket
	opAccept                      // move bytes between the accepted connection id and the stream that comes with the note
	opCloseConn                   // the connection id is over: nobody takes what it would still send
	opOK                          // it is done; text is the path of the socket where the node did not choose it
	opError                       // it failed; text is the error number, in 4 bytes
	opIncoming                    // text is the id of a connection, in 4 bytes, that the listener id has accepted
)

const (
	acceptedBit = 1 << 31
	maxMessage  = 512 // the longest note; a socket's path has at most 107
)

// message is one message between a node and the process that reaches Unix sockets for it, one packet of a
// SOCK_SEQPACKET.
type message struct {
	op   op
	id   uint32
	text string
}

func (n message) marshal() []byte {
	b := binary.BigEndian.AppendUint32([]byte{byte(n.op)}, n.id)
	return append(b, n.text...)
}

func parseMessage(b []byte) (message, error) {
	if len(b) < 5 || len(b) > maxMessage {
		return message{}, fmt.Errorf("note of %d bytes", len(b))
	}
	n := message{op(b[0]), binary.BigEndian.Uint32(b[1:5]), string(b[5:])}
	if n.op < opDial || n.op > opIncoming || (n.op == opError || n.op == opIncoming) && len(n.text) != 4 {
		return message{}, fmt.Errorf("note %d of %d bytes", n.op, len(b))
	}
	return n, nil
}

// encodeNumber is the text of notes that carry one.
func encodeNumber(n uint32) string { return string(binary.BigEndian.AppendUint32(nil, n)) }

func (n message) number() uint32 { return binary.BigEndian.Uint32([]byte(n.text)) }

// sendMessage writes a note, with a stream if there is one.
func sendMessage(conn *net.UnixConn, n message, with *os.File) error {
	var rights []byte
	if with != nil {
		rights = unix.UnixRights(int(with.Fd()))
	}
	_, _, err := conn.WriteMsgUnix(n.marshal(), rights, nil)
	return err
}

// receiveMessage reads a note and, in the child, the stream that came with it. The node passes no room: it
// takes no descriptor from a process that belongs to somebody else.
func receiveMessage(conn *net.UnixConn, buf, room []byte) (n message, with *net.UnixConn, err error) {
	size, rights, _, _, err := conn.ReadMsgUnix(buf, room)
	if err != nil {
		return message{}, nil, err
	}
	if rights > 0 {
		if with, err = receivedConn(room[:rights]); err != nil {
			return message{}, nil, err
		}
	}
	n, err = parseMessage(buf[:size])
	return n, with, err
}

// receivedConn makes a connection of the one descriptor that came.
func receivedConn(rights []byte) (*net.UnixConn, error) {
	list, err := unix.ParseSocketControlMessage(rights)
	if err != nil || len(list) != 1 {
		return nil, fmt.Errorf("descriptors came in %d parts: %w", len(list), err)
	}
	fds, err := unix.ParseUnixRights(&list[0])
	if err != nil || len(fds) != 1 {
		return nil, fmt.Errorf("%d descriptors came: %w", len(fds), err)
	}
	return connFromFD(fds[0])
}

// connFromFD takes over a descriptor.
func connFromFD(fd int) (*net.UnixConn, error) {
	f := os.NewFile(uintptr(fd), "unix")
	defer f.Close() // net.FileConn keeps a copy
	c, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		c.Close()
		return nil, fmt.Errorf("descriptor of a %T, not of a Unix socket", c)
	}
	return u, nil
}

// socketPair makes two connected sockets, one to use here and one to give away.
func socketPair(kind int) (ours *net.UnixConn, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	theirs = os.NewFile(uintptr(fds[1]), "pair")
	if ours, err = connFromFD(fds[0]); err != nil {
		theirs.Close()
		return nil, nil, err
	}
	return ours, theirs, nil
}
