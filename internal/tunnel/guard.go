package tunnel

import (
	"encoding/binary"
	"fmt"
	"net"
	"time"

	"github.com/threshold-access/threshold/internal/coalesce"
)

// Either side pings every keepAliveInterval. The multiplexer answers each ping on a goroutine of its own,
// which waits while the peer does not read. A peer that only sends pings would fill this machine's memory, so
// it may send maxPings in a pingPeriod and no more.
const (
	maxPings   = 32
	pingPeriod = 10 * time.Second
)

// maxStreams bounds the session streams of a tunnel at the node, with those that wait for the proxy to close
// its side. It is well above what the node serves at once.
const maxStreams = 4096

// Frames of yamux (its spec.md): version, type, flags (2 bytes), stream (4), length (4), and for data that
// many bytes.
const (
	muxHeaderBytes = 12
	muxData        = 0
	muxPing        = 2
	muxSYN         = 1
)

// guardedConn is the connection under the multiplexer. It parses the frames that are read, and fails where
// the peer exceeds maxPings. It writes each data frame in one piece. One goroutine reads and one writes.
type guardedConn struct {
	net.Conn
	head      [muxHeaderBytes]byte
	headBytes int    // how much of head has been read
	dataLeft  uint32 // bytes of data that follow
	pings     int    // pings that were read since
	since     time.Time

	transport *coalesce.TransportConn // nil: none
	holding   bool                    // a frame header was written whose body follows; only Write uses it
}

func newGuardedConn(conn net.Conn) net.Conn {
	return &guardedConn{Conn: conn, transport: coalesce.TransportOf(conn)}
}

// Write holds back the header of a data frame until the body is there. The multiplexer writes from one
// goroutine, each body right after its header.
func (g *guardedConn) Write(b []byte) (int, error) {
	if g.transport == nil {
		return g.Conn.Write(b)
	}
	if !g.holding {
		g.transport.Hold()
	}
	n, err := g.Conn.Write(b)
	if g.holding = !g.holding && err == nil && len(b) == muxHeaderBytes && b[1] == muxData &&
		binary.BigEndian.Uint32(b[8:]) > 0; g.holding {
		return n, nil
	}
	if held := g.transport.Release(); err == nil && held != nil {
		n, err = 0, held
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

// scanFrames parses the next bytes that were read. They may begin and end in the middle of a frame.
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

// checkFrame looks at a whole frame header.
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
