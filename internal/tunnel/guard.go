package tunnel

import (
	"encoding/binary"
	"fmt"
	"net"
	"time"

	"github.com/threshold-access/threshold/internal/gather"
)

// Either side pings every keepalive. The multiplexer answers each ping on a goroutine of its own, which waits as long as the peer does
// not read: one that only asks would fill this machine's memory, so it may ask this often and no more.
const (
	maxPings   = 32
	pingPeriod = 10 * time.Second
)

// maxStreams bounds the session streams of a tunnel at the node, those that wait for the proxy to close its side included. It is well
// over what the node serves at once.
const maxStreams = 4096

// Frames of yamux (its spec.md): version, type, flags (2), stream (4), length (4), and for data that many bytes.
const (
	muxHead = 12
	muxData = 0
	muxPing = 2
	muxSYN  = 1
)

// guarded reads along with the multiplexer and ends what it would not survive.
type guarded struct {
	net.Conn
	head  [muxHead]byte
	have  int    // bytes of head that are here
	skip  uint32 // bytes of data to come
	pings int    // since
	since time.Time

	under *gather.Under // nil: none
	holds bool          // a head was written whose body follows; of Write alone
}

func guard(conn net.Conn) net.Conn { return &guarded{Conn: conn, under: gather.Of(conn)} }

// Write has a frame of data leave in one piece. The multiplexer writes from one goroutine, each body right after its head.
func (g *guarded) Write(b []byte) (int, error) {
	if g.under == nil {
		return g.Conn.Write(b)
	}
	if !g.holds {
		g.under.Hold()
	}
	n, err := g.Conn.Write(b)
	if g.holds = !g.holds && err == nil && len(b) == muxHead && b[1] == muxData && binary.BigEndian.Uint32(b[8:]) > 0; g.holds {
		return n, nil
	}
	if left := g.under.Release(); err == nil && left != nil {
		n, err = 0, left
	}
	return n, err
}

func (g *guarded) Read(b []byte) (int, error) {
	n, err := g.Conn.Read(b)
	if bad := g.scan(b[:n]); bad != nil {
		return 0, bad
	}
	return n, err
}

func (g *guarded) scan(b []byte) error {
	for len(b) > 0 {
		if g.skip > 0 {
			n := min(uint64(g.skip), uint64(len(b)))
			g.skip -= uint32(n)
			b = b[n:]
			continue
		}
		n := copy(g.head[g.have:], b)
		b = b[n:]
		if g.have += n; g.have < muxHead {
			return nil
		}
		g.have = 0
		if err := g.frame(); err != nil {
			return err
		}
	}
	return nil
}

func (g *guarded) frame() error {
	switch kind, flags := g.head[1], binary.BigEndian.Uint16(g.head[2:]); {
	case kind == muxData:
		g.skip = binary.BigEndian.Uint32(g.head[8:])
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
