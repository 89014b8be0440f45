// Package uplink answers: how does this node stay reachable without listening?
//
// It dials the cluster's public addresses and keeps tunnels to a few distinct proxies. When a tunnel ends, it
// is dialled again within seconds, and after failures again and again. What arrives through a tunnel is
// passed on: streams to Config.Handle, and pushed rules to Config.Rules. The package does not verify the
// rules.
package uplink

import (
	"context"
	"crypto"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/backoff"
	"github.com/threshold-access/threshold/internal/egress"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/tunnel"
	"github.com/threshold-access/threshold/internal/wire"
)

// DefaultTunnels is how many tunnels a node keeps, each to another proxy.
const DefaultTunnels = 2

// dialTimeout bounds a dial until the TLS handshake with the proxy is over, with what comes before it: to ask
// the proxy for its transport, and to connect through an HTTP proxy or a load balancer.
const dialTimeout = 15 * time.Second

const (
	// refusedDelay is how long the tunnel to a proxy that is refused stays open: meanwhile the sessions that
	// came through it tell their users why they end.
	refusedDelay = time.Second
	// refuseInterval is how late it is noticed that a proxy is refused, or not any more, without a change.
	refuseInterval = 10 * time.Second
)

// Config says which proxies to dial, as which node, and what to do with what arrives.
type Config struct {
	Proxies []string                         // of the cluster's public port, host:port; at least one
	Dialer  authrpc.Dialer                   // connects to them; nil means a direct connection
	Tunnels int                              // how many tunnels to keep; 0 means DefaultTunnels
	Pin     identity.Pin                     // of the cluster, to which the proxies must belong
	Cluster string                           // the cluster's name
	ID      identity.MachineID               // of the node
	Key     crypto.Signer                    // of the node's service certificate
	Cert    func() (*tls.Certificate, error) // the current service certificate
	Version string                           // of this program, for listings
	// Instance names this run of the program.
	Instance identity.InstanceID
	// Features is what the node and its SSH server understand, for proxies and clients.
	Features wire.Features
	Now      func() time.Time // the clock for certificates and attachments
	Log      *slog.Logger

	// Handle serves one stream, which came through the tunnel to the proxy. It closes conn. It returns when
	// the stream has ended, or soon after ctx has. Each stream is served on a goroutine of its own.
	Handle func(ctx context.Context, conn net.Conn, header tunnel.Header, proxy identity.Identity)
	// Rules receives pushed rules, which nobody has verified. Each tunnel calls it from one goroutine. It
	// returns the names of pieces that the node lacks, and that this proxy should send again.
	Rules func(tunnel.PushedRules) (lacking []string)
	// Acknowledgement returns what the node has signed of the rules by which it decides, and a channel that
	// is closed when there is something newer.
	Acknowledgement func() (acknowledgement []byte, changed <-chan struct{}, err error)
	// Refuse returns why the node uses no tunnel to the proxy, a fault, or nil. Nil: it refuses none.
	Refuse func(proxy identity.Identity) error
	// Changed returns a channel that is closed when the answers of Refuse may have changed. Nil: never.
	Changed func() <-chan struct{}
	// Attached is called each time a tunnel has been connected.
	Attached func()
}

// Tunnels keeps the tunnels of a node. Run is called once; Count may be called by any goroutine.
type Tunnels struct {
	cfg Config

	mu      sync.Mutex      // guards claimed
	claimed map[string]bool // names of the proxies to which a tunnel is connected or being connected
}

// New returns the tunnels of a node. It dials nothing: Run does.
func New(cfg Config) *Tunnels {
	if cfg.Tunnels == 0 {
		cfg.Tunnels = DefaultTunnels
	}
	if cfg.Dialer == nil {
		cfg.Dialer = &egress.Dialer{}
	}
	if cfg.Refuse == nil {
		cfg.Refuse = func(identity.Identity) error { return nil }
	}
	if cfg.Changed == nil {
		cfg.Changed = func() <-chan struct{} { return nil }
	}
	return &Tunnels{cfg: cfg, claimed: map[string]bool{}}
}

// Run keeps Config.Tunnels tunnels, each on a goroutine of its own, until ctx ends. It returns nil when the
// streams in them have ended and they are closed.
func (t *Tunnels) Run(ctx context.Context) error {
	var tunnels sync.WaitGroup
	for i := range t.cfg.Tunnels {
		firstAddr := i // each tunnel starts with another address
		tunnels.Go(func() { t.keepTunnel(ctx, firstAddr) })
	}
	tunnels.Wait()
	return nil
}

// errSpare says that the node has a tunnel to the proxy that answered, so that a second one is not needed.
var errSpare = errors.New("uplink: there is a tunnel to this proxy already")

// keepTunnel connects one tunnel and serves it. When the tunnel has ended or was not connected, it pauses and
// connects to the next address of Config.Proxies, and so on until ctx ends. firstAddr is the index of the
// address with which it starts.
func (t *Tunnels) keepTunnel(ctx context.Context, firstAddr int) {
	redial := newRedial(rand.N[time.Duration], t.cfg.Now, len(t.cfg.Proxies))
	for try := firstAddr; ; try++ {
		addr := t.cfg.Proxies[try%len(t.cfg.Proxies)]
		connected, err := t.connectOnce(ctx, addr)
		if ctx.Err() != nil {
			return
		}
		var pause time.Duration
		switch {
		case connected:
			pause = redial.pause(ended)
			t.cfg.Log.Warn("tunnel ended", "address", addr, "retry_in", pause)
		case errors.Is(err, errSpare):
			pause = redial.pause(spare)
		default:
			pause = redial.pause(failed)
			t.cfg.Log.Warn("the tunnel could not be connected",
				"address", addr, "err", err, "remedy", fault.Remedy(err), "retry_in", pause)
		}
		if !backoff.Sleep(ctx, pause) {
			return
		}
	}
}

// connectOnce dials the proxy at addr, connects a tunnel, and serves it until it or ctx ends. connected
// reports whether a tunnel was connected; then err is nil, however the tunnel ended. Otherwise err says why
// there was none: errSpare, or the error of the dial.
func (t *Tunnels) connectOnce(ctx context.Context, addr string) (connected bool, err error) {
	conn, peer, err := t.dial(ctx, addr)
	if err != nil {
		return false, err
	}
	if err := t.cfg.Refuse(peer.Identity); err != nil {
		conn.Close()
		return false, err
	}
	proxy := peer.Name
	// Several addresses may lead to one proxy, so only its certificate says which proxy this is. The claim
	// comes before the tunnel is connected, so that two goroutines cannot both connect one to this proxy.
	if !t.claim(proxy) {
		conn.Close()
		return false, errSpare
	}
	defer t.release(proxy)
	up, err := tunnel.Connect(ctx, conn, tunnel.Node{
		ID:       t.cfg.ID,
		Key:      t.cfg.Key,
		Version:  t.cfg.Version,
		Instance: t.cfg.Instance,
		Services: []tunnel.Service{tunnel.SSH},
		Features: t.cfg.Features,
		Now:      t.cfg.Now,
	})
	if err != nil {
		return false, dialFault(addr, err)
	}
	defer up.Close()
	if up.Proxy() != proxy || up.ProxyID() != peer.ID { // the attachment would name another proxy
		const format = "uplink: the proxy calls itself %q (%s), but its certificate says %q (%s)"
		return false, fmt.Errorf(format, up.Proxy(), up.ProxyID(), proxy, peer.ID)
	}
	t.cfg.Log.Info("tunnel connected", "proxy", proxy, "address", addr)
	t.cfg.Attached()
	t.serve(ctx, up, peer.Identity)
	return true, nil
}

// dial connects to the proxy at addr by TLS, and verifies that it is a proxy of this cluster. It returns the
// connection and who the proxy is. The error is a fault; see dialFault.
func (t *Tunnels) dial(ctx context.Context, addr string) (conn net.Conn, proxy identity.Peer, err error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	cfg := t.cfg
	config := identity.PinnedTLS(cfg.Pin, cfg.Cluster, identity.ALPNTunnel, cfg.Cert, cfg.Now, identity.Proxy)
	tlsConn, err := cfg.Dialer.DialTLS(ctx, addr, config)
	if err != nil {
		return nil, identity.Peer{}, dialFault(addr, err)
	}
	// The handshake has verified the same; this reads who the proxy is.
	certs := tlsConn.ConnectionState().PeerCertificates
	peer, err := identity.VerifyPinned(certs, cfg.Pin, cfg.Cluster, cfg.Now(), identity.Proxy)
	if err != nil {
		tlsConn.Close()
		return nil, identity.Peer{}, dialFault(addr, err)
	}
	return tlsConn, peer, nil
}

// dialFault returns the fault for a dial that failed: of kind Denied for a proxy of another cluster, Expired
// for a certificate that is not valid now, and Unavailable for anything else. An error that is a fault
// already is returned as it is.
func dialFault(addr string, err error) error {
	const op = "uplink"
	var known *fault.Error
	var pin *identity.PinError
	var expired *identity.ExpiredError
	switch {
	case errors.As(err, &known):
		return err
	case errors.As(err, &pin):
		return uplinkClusterWrong.Wrap(err, op, fault.Args{"address": addr})
	case errors.As(err, &expired):
		return uplinkCertificateExpired.Wrap(err, op, fault.Args{"why": expired.Error()})
	}
	return uplinkUnreachable.Wrap(err, op, fault.Args{"address": addr})
}

// serve passes on what arrives through a tunnel, until the tunnel or ctx ends. Then it lets the streams end,
// and closes the tunnel only after that, so that clients can still read why their connection ends. It returns
// when nothing of the tunnel is left.
func (t *Tunnels) serve(ctx context.Context, up *tunnel.Uplink, proxy identity.Identity) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var streams sync.WaitGroup
	streams.Go(func() {
		defer cancel() // forwardRules returns when the tunnel has ended: then the streams must end too
		t.forwardRules(ctx, up)
	})
	streams.Go(func() {
		defer cancel()
		t.acknowledge(ctx, up)
	})
	streams.Go(func() {
		defer cancel()
		t.awaitRefusal(ctx, proxy)
	})
	// mu guards stopping. After stopping is set, nothing is added to streams: streams.Wait may have begun.
	var mu sync.Mutex
	stopping := false
	acceptEnded := make(chan struct{})
	// This goroutine accepts streams until up is closed. While serve waits for the streams to end, it closes
	// new ones at once: otherwise their clients would wait for an answer.
	go func() {
		defer close(acceptEnded)
		for {
			conn, header, err := up.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			if stopping {
				conn.Close()
			} else {
				streams.Go(func() { t.cfg.Handle(ctx, conn, header, proxy) })
			}
			mu.Unlock()
		}
	}()
	<-ctx.Done()
	mu.Lock()
	stopping = true
	mu.Unlock()
	streams.Wait()
	up.Close()
	<-acceptEnded
}

// awaitRefusal returns refusedDelay after the proxy is refused, or when ctx ends.
func (t *Tunnels) awaitRefusal(ctx context.Context, proxy identity.Identity) {
	ticker := time.NewTicker(refuseInterval)
	defer ticker.Stop()
	for {
		changed := t.cfg.Changed() // before Refuse is asked, so that no change is missed
		if err := t.cfg.Refuse(proxy); err != nil {
			t.cfg.Log.Warn("the tunnel to a proxy ends",
				"proxy", proxy.Name, "err", err, "remedy", fault.Remedy(err))
			backoff.Sleep(ctx, refusedDelay)
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-ticker.C:
		}
	}
}

// claim reserves a proxy for one tunnel. It reports false if another tunnel has reserved it. Each success
// needs one release.
func (t *Tunnels) claim(proxy string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.claimed[proxy] {
		return false
	}
	t.claimed[proxy] = true
	return true
}

// release makes a proxy that claim reserved free for another tunnel.
func (t *Tunnels) release(proxy string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.claimed, proxy)
}

// Count returns how many proxies a tunnel is connected to or being connected to.
func (t *Tunnels) Count() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.claimed)
}
