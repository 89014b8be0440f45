// Package keepalive answers: is the other end of this TCP connection still there?
//
// A machine that loses power or its network does not close its connections: they stay half-open, and nobody
// may hold a session, a tunnel or a quota for one longer than a minute. Two mechanisms end such a connection:
// probes of the kernel while nothing is sent, and a timer of this package while sent bytes are not
// acknowledged, where retransmission alone would take 15 minutes. A peer that is there and reads nothing is
// kept.
package keepalive

import (
	"net"
	"time"
)

// PeerTimeout is how long a peer may give no sign of life before its connection fails. The check itself may
// take some seconds more, a minute at most.
const PeerTimeout = 45 * time.Second

// The kernel probes an idle connection first after probeIdle and then every probeInterval. After probeCount
// probes without an answer, PeerTimeout after the last sign of life, the connection fails.
const (
	probeIdle     = 15 * time.Second
	probeInterval = 10 * time.Second
	probeCount    = 3
)

func probeConfig() net.KeepAliveConfig {
	return net.KeepAliveConfig{Enable: true, Idle: probeIdle, Interval: probeInterval, Count: probeCount}
}

// Dialer opens connections that fail when their peer vanishes, within PeerTimeout where it never answers.
func Dialer() *net.Dialer {
	return &net.Dialer{Timeout: PeerTimeout, KeepAliveConfig: probeConfig(), Control: monitorAcks}
}

// Enable does for an accepted connection what Dialer does for those that it opens. On anything but TCP it
// does nothing. A setting that the system refuses stays as it was.
func Enable(conn net.Conn) {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return
	}
	_ = tcp.SetKeepAliveConfig(probeConfig())
	if raw, err := tcp.SyscallConn(); err == nil {
		_ = monitorAcks("", "", raw)
	}
}
