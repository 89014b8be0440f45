package keepalive

import (
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// checkInterval is how often a connection is checked. PeerTimeout and twice this are less than a minute.
const checkInterval = 5 * time.Second

// monitorAcks starts to check a connection, until it is closed. Its signature is that of net.Dialer.Control.
func monitorAcks(_, _ string, conn syscall.RawConn) error {
	ackMonitor{conn, checkInterval, PeerTimeout}.schedule()
	return nil
}

// ackMonitor ends a connection whose sent bytes are not acknowledged. The kernel's own limit,
// TCP_USER_TIMEOUT, is of no use here: it also ends a connection whose peer answers that its receive window
// is full, as the machine of a user does who stopped a client and will continue it in an hour.
type ackMonitor struct {
	conn     syscall.RawConn
	interval time.Duration // between two checks
	timeout  time.Duration // how long sent bytes may go without an answer
}

// schedule runs check once after the interval, on a timer's goroutine. check schedules the next one itself,
// so nothing runs on after the connection is closed.
func (m ackMonitor) schedule() { time.AfterFunc(m.interval, m.check) }

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

// timedOut reports whether bytes were sent and retransmitted, and nothing came back for too long. A peer with
// a full receive window answers each probe of it. The kernel sends those probes in growing intervals of up to
// minutes, so what counts is that the last answer is older than what was sent last, and that the peer had
// time to answer that.
func (m ackMonitor) timedOut(info *unix.TCPInfo) bool {
	answered, sent := milliseconds(info.Last_ack_recv), milliseconds(info.Last_data_sent)
	return info.Unacked > 0 && answered >= m.timeout && answered > sent && sent >= m.interval
}

func milliseconds(n uint32) time.Duration { return time.Duration(n) * time.Millisecond }
