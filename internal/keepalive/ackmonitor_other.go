//go:build !linux

package keepalive

import "syscall"

// monitorAcks does nothing on systems other than Linux: their own limits of retransmission hold, and the
// probes.
func monitorAcks(_, _ string, _ syscall.RawConn) error { return nil }
