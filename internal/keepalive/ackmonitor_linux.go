package keepalive

import (
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// checkInterval is how often a connection is checked. PeerTimeout and twice this are less than a minute.
const checkInterval = 5 * time.Second

// monitorAcks starts an ackMonitor for a connection. It ends when the connection is closed. The signature is
// that of net.Dialer.Control.
func monitorAcks(_, _ string, conn syscall.RawConn) error {
	ackMonitor{conn, checkInterval, PeerTimeout}.schedule()
	return nil
}

// ackMonitor ends a TCP connection if bytes that were sent on it are not acknowledged for as long as timeout.
// The kernel has such a limit of its own, TCP_USER_TIMEOUT. It is of no use here, because it also ends a
// connection whose peer answers but has a full receive window. That is the case when a user stops a client
// with Ctrl-Z and continues it an hour later.
type ackMonitor struct {
	conn     syscall.RawConn
	interval time.Duration // between two checks
	timeout  time.Duration // how long sent bytes may go without an answer
}

// schedule runs check once after the interval, on a timer's goroutine. check schedules the next one itself,
// so nothing runs on after the connection is closed.
func (m ackMonitor) schedule() { time.AfterFunc(m.interval, m.check) }

// check shuts the connection down if it has timed out. It schedules the next check, unless the connection is
// closed. It leaves the file descriptor open, because that belongs to the net.Conn.
func (m ackMonitor) check() {
	err := m.conn.Control(func(fd uintptr) {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		if err == nil && m.timedOut(info) {
			_ = unix.Shutdown(int(fd), unix.SHUT_RDWR) // reads and writes fail from now on
		}
	})
	if err == nil { // the connection is not closed yet
		m.schedule()
	}
}

// timedOut reports whether the peer has vanished, by what the kernel says of the connection: bytes are not
// acknowledged, and the peer has sent nothing for as long as m.timeout.
//
// Time alone is not enough. A peer with a full receive window answers only when the kernel probes that
// window, and the kernel does so in growing intervals of up to minutes. So the last answer must also be older
// than what was sent last, and the peer must have had at least m.interval to answer it.
func (m ackMonitor) timedOut(info *unix.TCPInfo) bool {
	sinceAnswer, sinceSent := milliseconds(info.Last_ack_recv), milliseconds(info.Last_data_sent)
	noAnswerToLast := sinceAnswer > sinceSent && sinceSent >= m.interval
	return info.Unacked > 0 && sinceAnswer >= m.timeout && noAnswerToLast
}

// milliseconds converts a field of unix.TCPInfo.
func milliseconds(n uint32) time.Duration { return time.Duration(n) * time.Millisecond }
