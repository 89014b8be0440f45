package keepalive

import (
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// checkInterval is how often a connection is looked at. Noticed and twice this are less than a minute.
const checkInterval = 5 * time.Second

// monitorAcks bounds how long sent bytes may go without an answer.
func monitorAcks(_, _ string, conn syscall.RawConn) error {
	ackMonitor{conn, checkInterval, PeerTimeout}.schedule()
	return nil
}

// ackMonitor ends a connection whose sent bytes get no answer. The kernel's own limit, TCP_USER_TIMEOUT, is
// not for this: it also ends one whose peer answers that it has no room, as the machine of somebody does who
// stopped a client and will go on in an hour.
type ackMonitor struct {
	conn              syscall.RawConn
	interval, timeout time.Duration
}

func (l ackMonitor) schedule() { time.AfterFunc(l.interval, l.check) }

func (l ackMonitor) check() {
	err := l.conn.Control(func(fd uintptr) {
		if info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil &&
			l.timedOut(info) {
			_ = unix.Shutdown(int(fd), unix.SHUT_RDWR) // who waits for it finds out
		}
	})
	if err == nil { // not closed yet
		l.schedule()
	}
}

// timedOut reports whether bytes were sent, and sent again, and nothing came back for too long. A peer
// without room answers each time, if only that; the pauses between the times grow to minutes, and the answer
// to the last may be under way.
func (l ackMonitor) timedOut(info *unix.TCPInfo) bool {
	answer, sent := milliseconds(info.Last_ack_recv), milliseconds(info.Last_data_sent)
	return info.Unacked > 0 && answer >= l.timeout && answer > sent && sent >= l.interval
}

func milliseconds(n uint32) time.Duration { return time.Duration(n) * time.Millisecond }
