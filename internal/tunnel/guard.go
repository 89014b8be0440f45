package tunnel

import (
	"encoding/binary"
	"fmt"
	"net"
	"time"

	"github.com/threshold-access/threshold/internal/coalesce"
)

// Either side pings every keepalive. The multiplexer answers each ping on a goroutine of its own, which waits
// as long as the peer does not read: one that only asks would fill this machine's memory, so it may ask this
// often and no more.
const (
	maxPings   = 32
	pingPeriod = 10 * time.Second
)

// maxStreams bounds the session streams of a tunnel at the node, those that wait for the proxy to close its
// side included. It is well over what the node serves at once.
const maxStreams = 4096

// Frames of yamux (its spec.md): version, type, flags (2), stream (4), length (4), and for data that many
// bytes.
const (
	muxHeaderBytes = 12
	muxData        = 0
	muxPing        = 2
	muxSYN         = 1
)

// guardedConn reads along with the multiplexer and ends what it would not survive.
type guardedConn struct {
	net.Conn
	head      [muxHeaderBytes]byte
	headBytes int    // bytes of head that are here
	dataLeft  uint32 // bytes of data to come
	pings     int    // since
	since     time.Time

	transport *coalesce.TransportConn // nil: none
	holding   bool                    // a head was written whose body follows; of Write alone
}

func newGuardedConn(conn net.Conn) net.Conn {
	return &guardedConn{Conn: conn, transport: coalesce.TransportOf(conn)}
}

// Write has a frame of data leave in one piece. The multiplexer writes from one goroutine, each body right
// after its head.
func (g *guardedConn) Write(b []byte) (int, error) {
	if g.transport == nil {
		return g.Conn.Write(b)
	}
	if !g.holding {
		g.transport.Hold()
	}
	n, err := g.Conn.Write(b)
	if g.holding = !g.holding && err == nil && len(b) == muxHeaderBytes && b[1] == muxData && binary.BigEndian.Uint32(b[8:]) > 0; g.holding {
		return n, nil
	}
	if left := g.transport.Release(); err == nil && left != nil {
		n, err = 0, left
	}
	return n, err
}

func (g *guardedConn) Read(b []byte) (int, error) {
	n, err := g.Conn.Read(b)
	if bad := g.scanFrames(b[:n]); bad != nil {
		return 0, bad
	}
	return n, err
}

func (g *guardedConn) scanFrames(b []byte) error {
	for len(b) > 0 {
		if g.dataLeft > 0 {
			n := min(uint64(g.dataLeft), uint64(len(b)))
			g.dataLeft -= uint32(n)
			b = b[n:]
			continue
		}
		n := copy(g.head[g.headBytes:], b)
		b = b[n:]
		if g.headBytes += n; g.headBytes < muxHeaderBytes {
			return nil
		}
		g.headBytes = 0
		if err := g.checkFrame(); err != nil {
			return err
		}
	}
	return nil
}

func (g *guardedConn) checkFrame() error {
	switch kind, flags := g.head[1], binary.BigEndian.Uint16(g.head[2:]); {
	case kind == muxData:
		g.dataLeft = binary.BigEndian.Uint32(g.head[8:])
	case kind == muxPing && flags&muxSYN != 0:
		if now := time.Now(); now.Sub(g.since) > pingPeriod {
			g.since, g.pings = now, 0
		}
		if g.pings++; g.pings > maxPings {
			return fmt.Errorf("tunnel: the peer pings more than %d times in %s", maxPings, pingPeriod)
		}
	}
	return nil
}
