package port

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/threshold-access/threshold/internal/identity"
)

// queue is a listener of connections that have passed the handshake and speak one protocol.
type queue struct {
	addr   net.Addr
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newQueue(addr net.Addr) *queue {
	return &queue{addr: addr, conns: make(chan net.Conn), closed: make(chan struct{})}
}

// put hands a connection over, or closes it where nobody takes any more.
func (q *queue) put(ctx context.Context, c net.Conn) {
	select {
	case q.conns <- c:
	case <-q.closed:
		_ = c.Close()
	case <-ctx.Done():
		_ = c.Close()
	}
}

// Accept implements net.Listener.
func (q *queue) Accept() (net.Conn, error) {
	select {
	case c := <-q.conns:
		return c, nil
	case <-q.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener. The socket itself is the port's.
func (q *queue) Close() error {
	q.once.Do(func() { close(q.closed) })
	return nil
}

// Addr implements net.Listener.
func (q *queue) Addr() net.Addr { return q.addr }

// raftLayer is raft's way through the port.
type raftLayer struct {
	*queue
	now    func() time.Time
	config atomic.Pointer[RunConfig] // nil until the port is open
}

// Raft is the layer that a store speaks raft over. A replica can be reached, and reach others, once Run has
// its terms.
func (p *Port) Raft() raft.StreamLayer { return p.raft }

// Dial implements raft.StreamLayer: mutual TLS with another auth replica of this cluster.
func (l *raftLayer) Dial(to raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	terms := l.config.Load()
	if terms == nil {
		return nil, errors.New("the auth port is not open yet")
	}
	own := func() (*tls.Certificate, error) { return terms.Certificate(), nil }
	cfg := identity.PinnedTLS(terms.Pin, terms.Cluster, identity.ALPNRaft, own, l.now, identity.Auth)
	return tls.DialWithDialer(&net.Dialer{Timeout: timeout}, "tcp", string(to), cfg)
}
