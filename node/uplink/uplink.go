// Package uplink answers: how does this node stay reachable without listening?
//
// It dials the cluster's public addresses and keeps tunnels to a few distinct proxies. When a tunnel ends, it
// is dialled again within seconds, and no failure makes it give up. What arrives through a tunnel is passed
// on: streams to Config.Handle, and pushed rules, unverified, to Config.Rules.
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
)

// DefaultTunnels is to how many distinct proxies a node keeps a tunnel.
const DefaultTunnels = 2

// dialTimeout bounds a dial up to the TLS handshake with the proxy: it includes asking the proxy for its
// transport, and an HTTP proxy or a load balancer on the way.
const dialTimeout = 15 * time.Second

// Config says which proxies to dial, as which node, and what to do with what arrives.
type Config struct {
	Proxies []string       // addresses of the cluster's public port, host:port; at least one
	Dialer  authrpc.Dialer // connects to them; nil means a direct connection
	Tunnels int            // how many tunnels to keep; 0 means DefaultTunnels
	Pin     identity.Pin
	Cluster string
	ID      identity.MachineID
	Key     crypto.Signer                    // of the node's service certificate
	Cert    func() (*tls.Certificate, error) // the current service certificate
	Version string                           // of this program, for listings
	Now     func() time.Time
	Log     *slog.Logger

	// Handle serves one stream. It owns conn, and returns when the stream has ended, or soon after ctx has.
	Handle func(ctx context.Context, conn net.Conn, h tunnel.Header, proxy string)
	// Rules receives pushed rules, unverified. It is called by one goroutine of each tunnel.
	Rules func(tunnel.RulesPush)
	// Attached is called each time a tunnel was connected.
	Attached func()
}

// Tunnels keeps the tunnels of a node. Run is called once; Count may be called by any goroutine.
type Tunnels struct {
	cfg Config

	mu      sync.Mutex      // guards claimed
	claimed map[string]bool // names of the proxies to which there is a tunnel, or to which one is connecting
}

// New makes the tunnels. It dials nothing.
func New(cfg Config) *Tunnels {
	if cfg.Tunnels == 0 {
		cfg.Tunnels = DefaultTunnels
	}
	if cfg.Dialer == nil {
		cfg.Dialer = &egress.Dialer{}
	}
	return &Tunnels{cfg: cfg, claimed: map[string]bool{}}
}

// Run keeps the tunnels until ctx ends, and then waits for the streams in them.
func (t *Tunnels) Run(ctx context.Context) error {
	var tunnels sync.WaitGroup
	for i := range t.cfg.Tunnels {
		tunnels.Go(func() { t.keepTunnel(ctx, i) })
	}
	tunnels.Wait()
	return nil
}

// errSpare says that the proxy that answered has a tunnel already.
var errSpare = errors.New("uplink: there is a tunnel to this proxy already")

// keepTunnel keeps one tunnel until ctx ends. It tries the addresses in turn, starting with the i-th.
func (t *Tunnels) keepTunnel(ctx context.Context, i int) {
	redial := newRedial(rand.N[time.Duration], t.cfg.Now, len(t.cfg.Proxies))
	for try := i; ; try++ {
		addr := t.cfg.Proxies[try%len(t.cfg.Proxies)]
		connected, err := t.connectOnce(ctx, addr)
		if ctx.Err() != nil {
			return
		}
		var pause time.Duration
		switch {
		case connected:
			pause = redial.pause(ended)
			t.cfg.Log.Warn("tunnel ended", "proxy", addr, "retry_in", pause)
		case errors.Is(err, errSpare):
			pause = redial.pause(spare)
		default:
			pause = redial.pause(failed)
			t.cfg.Log.Warn("no tunnel",
				"proxy", addr, "err", err, "remedy", fault.Remedy(err), "retry_in", pause)
		}
		if !backoff.Sleep(ctx, pause) {
			return
		}
	}
}

// connectOnce dials a proxy and serves the tunnel until it ends. connected reports whether there was a
// tunnel; if there was none, err says why.
func (t *Tunnels) connectOnce(ctx context.Context, addr string) (connected bool, err error) {
	conn, proxy, err := t.dial(ctx, addr)
	if err != nil {
		return false, err
	}
	if !t.claim(proxy) {
		conn.Close()
		return false, errSpare
	}
	defer t.release(proxy)
	up, err := tunnel.Connect(ctx, conn, t.cfg.Key, t.cfg.ID, t.cfg.Version, t.cfg.Now)
	if err != nil {
		return false, dialFault(addr, err)
	}
	defer up.Close()
	if up.Proxy() != proxy {
		const format = "uplink: the proxy calls itself %q, but its certificate says %q"
		return false, fmt.Errorf(format, up.Proxy(), proxy)
	}
	t.cfg.Log.Info("tunnel connected", "proxy", proxy, "address", addr)
	t.cfg.Attached()
	t.serve(ctx, up, proxy)
	return true, nil
}

// dial connects to a proxy by TLS. It returns the proxy's name, as its certificate says.
func (t *Tunnels) dial(ctx context.Context, addr string) (conn net.Conn, proxy string, err error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	c := t.cfg
	config := identity.PinnedTLS(c.Pin, c.Cluster, identity.ALPNTunnel, c.Cert, c.Now, identity.Proxy)
	tc, err := c.Dialer.DialTLS(ctx, addr, config)
	if err != nil {
		return nil, "", dialFault(addr, err)
	}
	certs := tc.ConnectionState().PeerCertificates
	peer, err := identity.VerifyPinned(certs, c.Pin, c.Cluster, c.Now(), identity.Proxy)
	if err != nil {
		tc.Close()
		return nil, "", dialFault(addr, err)
	}
	return tc, peer.Name, nil
}

// dialFault says what to do about a dial that failed. A fault stays as it is.
func dialFault(addr string, err error) error {
	const op = "uplink"
	var known *fault.Error
	var pin *identity.PinError
	var expired *identity.ExpiredError
	switch {
	case errors.As(err, &known):
		return err
	case errors.As(err, &pin):
		msg := "the proxy at " + addr + " does not belong to this node's cluster"
		return fault.Wrap(err, fault.Denied, op, msg, "check the address given with --proxy")
	case errors.As(err, &expired):
		const remedy = "set this machine's clock, or check the proxy"
		return fault.Wrap(err, fault.Expired, op, "the proxy's "+expired.Error(), remedy)
	}
	const remedy = "check the address and that outgoing connections are allowed"
	return fault.Wrap(err, fault.Unavailable, op, "the proxy at "+addr+" cannot be reached", remedy)
}

// serve passes on what arrives through a tunnel, until the tunnel or ctx ends. The streams end before it
// closes the tunnel, so that clients can still read why.
func (t *Tunnels) serve(ctx context.Context, up *tunnel.Uplink, proxy string) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var streams sync.WaitGroup
	streams.Go(func() { defer cancel(); t.forwardRules(ctx, up) })
	var mu sync.Mutex // guards stopping; no stream is added to streams once it is set
	stopping := false
	accepting := make(chan struct{})
	go func() { // until up is closed
		defer close(accepting)
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
	<-accepting
}

// claim reserves a proxy for one tunnel. It reports false if another tunnel has it.
func (t *Tunnels) claim(proxy string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.claimed[proxy] {
		return false
	}
	t.claimed[proxy] = true
	return true
}

// release gives up a proxy that was claimed.
func (t *Tunnels) release(proxy string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.claimed, proxy)
}

// Count is how many proxies the node has a tunnel to.
func (t *Tunnels) Count() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.claimed)
}
