package alive

import (
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// lookEvery is how often a connection is looked at. Noticed and twice this are less than a minute.
const lookEvery = 5 * time.Second

// limit bounds how long sent bytes may go without an answer.
func limit(_, _ string, conn syscall.RawConn) error {
	lookout{conn, lookEvery, Noticed}.again()
	return nil
}

// lookout ends a connection whose sent bytes get no answer. The kernel's own limit, TCP_USER_TIMEOUT, is not for this: it also ends one
// whose peer answers that it has no room, as the machine of somebody does who stopped a client and will go on in an hour.
type lookout struct {
	conn        syscall.RawConn
	every, most time.Duration
}

func (l lookout) again() { time.AfterFunc(l.every, l.look) }

func (l lookout) look() {
	err := l.conn.Control(func(fd uintptr) {
		if info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil && l.unanswered(info) {
			_ = unix.Shutdown(int(fd), unix.SHUT_RDWR) // who waits for it finds out
		}
	})
	if err == nil { // not closed yet
		l.again()
	}
}

// unanswered reports whether bytes were sent, and sent again, and nothing came back for too long. A peer without room answers each time,
// if only that; the pauses between the times grow to minutes, and the answer to the last may be under way.
func (l lookout) unanswered(info *unix.TCPInfo) bool {
	answer, sent := milliseconds(info.Last_ack_recv), milliseconds(info.Last_data_sent)
	return info.Unacked > 0 && answer >= l.most && answer > sent && sent >= l.every
}

func milliseconds(n uint32) time.Duration { return time.Duration(n) * time.Millisecond }
