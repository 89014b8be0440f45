// Package alive answers: is the other end of this TCP connection still there?
//
// A machine that loses power, its network or its state in a firewall says no goodbye: the connection stands
// half-open. Nobody may hold a session, a tunnel or a place for it longer than a minute. Two clocks see to
// that: the kernel's probes while nothing is under way, and one here while something is, for bytes that were
// sent and get no answer, where retransmission alone takes 15 minutes. A peer that is there and reads nothing
// is waited for.
package keepalive

import (
	"net"
	"time"
)

// PeerTimeout is after how long without a sign of life a peer counts as vanished.
const PeerTimeout = 45 * time.Second

// Probes of an idle connection: the first after idle, then one each interval; Noticed after the last sign of
// life it ends.
const (
	probeIdle     = 15 * time.Second
	probeInterval = 10 * time.Second
	probeCount    = 3
)

func probeConfig() net.KeepAliveConfig {
	return net.KeepAliveConfig{Enable: true, Idle: probeIdle, Interval: probeInterval, Count: probeCount}
}

// Dialer makes connections that fail when their peer has vanished, or never was there.
func Dialer() *net.Dialer {
	return &net.Dialer{Timeout: PeerTimeout, KeepAliveConfig: probeConfig(), Control: monitorAcks}
}

// Enable is Dialer for a connection that was accepted. On anything but TCP it does nothing: what has no
// network beneath it cannot lose it. A setting that the system does not take leaves the connection as it was.
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
