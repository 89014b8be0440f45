//go:build !linux

package alive

import (
	"net"
	"time"
)

// limitUnacknowledged has no equal elsewhere: there the system's own limit of retransmissions holds, and the probes.
func limitUnacknowledged(*net.TCPConn, time.Duration) {}
