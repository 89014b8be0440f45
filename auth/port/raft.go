package port

import (
	"crypto/tls"
	"errors"
	"net"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/threshold-access/threshold/internal/connqueue"
	"github.com/threshold-access/threshold/internal/identity"
)

// raftLayer is the raft.StreamLayer over the port: accepted connections come from the queue, dialled ones
// show this replica's own certificate.
type raftLayer struct {
	*connqueue.Listener
	now    func() time.Time
	config atomic.Pointer[RunConfig] // set by Run; nil until then
}

// Raft is the layer over which a store exchanges raft's messages with other replicas. It connects to none,
// and none connects to it, before Run is called.
func (p *Port) Raft() raft.StreamLayer { return p.raft }

// Dial implements raft.StreamLayer: mutual TLS with another auth replica of this cluster.
func (l *raftLayer) Dial(to raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	cfg := l.config.Load()
	if cfg == nil {
		return nil, errors.New("the auth port is not open yet")
	}
	own := func() (*tls.Certificate, error) { return cfg.Certificate(), nil }
	client := identity.PinnedTLS(cfg.Pin, cfg.Cluster, identity.ALPNRaft, own, l.now, identity.Auth)
	return tls.DialWithDialer(&net.Dialer{Timeout: timeout}, "tcp", string(to), client)
}
