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

// guardedConn is the connection under the multiplexer. Read counts the pings of the peer and fails if it
// sends more than maxPings in a pingPeriod. Write makes a data frame leave in one piece. The multiplexer
// reads on one goroutine and writes on one.
type guardedConn struct {
	net.Conn

	// Only Read uses these.
	head        [muxHeaderBytes]byte // the header of the frame that is being read
	headBytes   int                  // how much of head has been read
	dataLeft    uint32               // how many bytes of the frame's data are still to be read
	pings       int                  // how many pings came since periodBegan
	periodBegan time.Time

	transport *coalesce.TransportConn // under the TLS of Conn; nil if there is none

	// holding says that transport holds back a frame header whose body the next Write brings. Only Write uses
	// it.
	holding bool
}

func newGuardedConn(conn net.Conn) net.Conn {
	return &guardedConn{Conn: conn, transport: coalesce.TransportOf(conn)}
}

// Write writes b, which is the header of a frame or the body of a data frame. The multiplexer writes the two
// by separate calls, the body right after the header. Write holds back the header of a data frame until the
// body is there, so that both go to the network by one system call.
func (g *guardedConn) Write(b []byte) (int, error) {
	if g.transport == nil {
		return g.Conn.Write(b)
	}
	isBody := g.holding
	if !isBody {
		g.transport.Hold()
	}
	n, err := g.Conn.Write(b)
	if g.holding = !isBody && err == nil && announcesData(b); g.holding {
		return n, nil
	}
	if releaseErr := g.transport.Release(); err == nil && releaseErr != nil {
		n, err = 0, releaseErr
	}
	return n, err
}

// announcesData reports whether b is the header of a data frame with a body.
func announcesData(b []byte) bool {
	return len(b) == muxHeaderBytes && b[1] == muxData && binary.BigEndian.Uint32(b[8:]) > 0
}

// Read reads bytes for the multiplexer. It fails if the peer has sent too many pings.
func (g *guardedConn) Read(b []byte) (int, error) {
	n, err := g.Conn.Read(b)
	if scanErr := g.scanFrames(b[:n]); scanErr != nil {
		return 0, scanErr
	}
	return n, err
}

// scanFrames looks through b, the next bytes that were read, for frame headers, and calls checkFrame for
// each. b may begin and end in the middle of a frame; what is known of that frame is kept in g for the next
// call.
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

// checkFrame looks at the frame header in g.head, of which all bytes have been read. It notes how many bytes
// of data follow, and counts a ping. It returns an error if there were too many pings.
func (g *guardedConn) checkFrame() error {
	switch kind, flags := g.head[1], binary.BigEndian.Uint16(g.head[2:]); {
	case kind == muxData:
		g.dataLeft = binary.BigEndian.Uint32(g.head[8:])
	case kind == muxPing && flags&muxSYN != 0:
		if now := time.Now(); now.Sub(g.periodBegan) > pingPeriod {
			g.periodBegan, g.pings = now, 0
		}
		if g.pings++; g.pings > maxPings {
			return fmt.Errorf("tunnel: the peer pings more than %d times in %s", maxPings, pingPeriod)
		}
	}
	return nil
}
