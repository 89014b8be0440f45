package asaccount

import (
	"encoding/binary"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// The agent and the account helper exchange messages over a SOCK_SEQPACKET pair, each in one packet: the op
// (1 byte), the id (4 bytes, big-endian), the text. With a message from the agent, the descriptor of one
// stream socket may come along.
//
// The agent sends requests, and the helper replies with opOK or opError under the id of the request. The
// agent chooses the ids of listeners and of dialed connections. The helper chooses the ids of accepted
// connections, which have acceptedBit set.

// op says what a message asks for or reports.
type op byte

const (
	opDial          op = 1 + iota // connect to the socket text, and relay it to the stream that comes along
	opListen                      // listen on the socket text
	opListenAgent                 // make a private directory and listen in it
	opCloseListener               // close the listener id, and remove its socket
	opAccept                      // relay the accepted connection id to the stream that comes along; no reply
	opCloseConn                   // nobody takes what the connection id would still send; no reply
	opOK                          // the request is done; text is the socket's path if the helper chose it
	opError                       // the request failed; text is the errno, in 4 bytes
	opIncoming                    // the listener id has accepted a connection, whose id is text, in 4 bytes
)

const (
	acceptedBit = 1 << 31 // set in the ids of accepted connections
	maxMessage  = 512     // bytes; a socket's path has at most 107
)

type message struct {
	op   op
	id   uint32
	text string
}

func (m message) marshal() []byte {
	b := binary.BigEndian.AppendUint32([]byte{byte(m.op)}, m.id)
	return append(b, m.text...)
}

// parseMessage parses a message. It returns an error for one with an unknown op or of an impossible size.
func parseMessage(b []byte) (message, error) {
	if len(b) < 5 || len(b) > maxMessage {
		return message{}, fmt.Errorf("message of %d bytes", len(b))
	}
	m := message{op(b[0]), binary.BigEndian.Uint32(b[1:5]), string(b[5:])}
	if m.op < opDial || m.op > opIncoming || m.hasNumber() && len(m.text) != 4 {
		return message{}, fmt.Errorf("message %d of %d bytes", m.op, len(b))
	}
	return m, nil
}

// hasNumber reports whether the text is a number.
func (m message) hasNumber() bool { return m.op == opError || m.op == opIncoming }

// encodeNumber returns the text of a message whose text is a number (hasNumber).
func encodeNumber(n uint32) string { return string(binary.BigEndian.AppendUint32(nil, n)) }

// number returns the number of a parsed message for which hasNumber is true.
func (m message) number() uint32 { return binary.BigEndian.Uint32([]byte(m.text)) }

// sendMessage writes a message, with a descriptor if it is not nil.
func sendMessage(conn *net.UnixConn, m message, descriptor *os.File) error {
	var rights []byte
	if descriptor != nil {
		rights = unix.UnixRights(int(descriptor.Fd()))
	}
	_, _, err := conn.WriteMsgUnix(m.marshal(), rights, nil)
	return err
}

// receiveMessage reads a message and, if oob has space for a descriptor, the stream that came along. stream
// is nil if none came. buf is used for reading; it is longer than maxMessage by one byte, so that a message
// that is too long is noticed. The agent passes no oob: it takes no descriptor from a process of another
// account.
func receiveMessage(conn *net.UnixConn, buf, oob []byte) (m message, stream *net.UnixConn, err error) {
	size, rights, _, _, err := conn.ReadMsgUnix(buf, oob)
	if err != nil {
		return message{}, nil, err
	}
	if rights > 0 {
		if stream, err = receivedConn(oob[:rights]); err != nil {
			return message{}, nil, err
		}
	}
	m, err = parseMessage(buf[:size])
	return m, stream, err
}

// receivedConn makes a connection of the one descriptor in the control data of a message. It returns an error
// for any other number of descriptors.
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

// connFromFD makes a connection of a descriptor, which it closes: the connection has a copy.
func connFromFD(fd int) (*net.UnixConn, error) {
	file := os.NewFile(uintptr(fd), "unix")
	defer file.Close()
	conn, err := net.FileConn(file)
	if err != nil {
		return nil, err
	}
	unixConn, ok := conn.(*net.UnixConn)
	if !ok {
		conn.Close()
		return nil, fmt.Errorf("descriptor of a %T, not of a Unix socket", conn)
	}
	return unixConn, nil
}

// socketPair makes two connected sockets: one for this process, which is the agent, and one to give to the
// helper. kind is unix.SOCK_STREAM or unix.SOCK_SEQPACKET.
func socketPair(kind int) (agentEnd *net.UnixConn, helperEnd *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	helperEnd = os.NewFile(uintptr(fds[1]), "pair")
	if agentEnd, err = connFromFD(fds[0]); err != nil {
		helperEnd.Close()
		return nil, nil, err
	}
	return agentEnd, helperEnd, nil
}
