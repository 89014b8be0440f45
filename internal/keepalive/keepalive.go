// Package keepalive answers: is the other end of this TCP connection still there?
//
// A machine that loses power or its network does not close its connections. At the other end they stay open,
// with the session, tunnel or quota that belongs to them. This package ends such a connection within a
// minute, by two mechanisms: while nothing is sent, the kernel probes the peer; while sent bytes are not
// acknowledged, a timer of this package checks the connection, because the kernel would retransmit for 15
// minutes. A connection to a peer that is there, but reads nothing, stays open.
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

// Dialer returns a net.Dialer whose connections fail within a minute after their peer has vanished. Opening a
// connection takes PeerTimeout at most.
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
