// Package uplink answers: how does this node stay reachable without listening?
//
// It dials the cluster's one public address and keeps tunnels up to a few distinct proxies, whatever happens:
// a proxy that goes is dialled again within seconds, and nothing makes it give up. What comes through a
// tunnel is handed on: streams to Handle, pushed rules, unverified, to Rules.
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
	"github.com/threshold-access/threshold/internal/egress"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/tunnel"
)

// DefaultTunnels is how many distinct proxies a node keeps a tunnel to.
const DefaultTunnels = 2

const (
	// dialTimeout bounds the way to a proxy: that it is asked how to be spoken to, and an HTTP proxy or a
	// balancer on the way, included.
	dialTimeout = 15 * time.Second
	// outagePause bounds each pause for a while after a tunnel that stood has ended: the proxy was there and
	// will be again.
	outagePause  = 5 * time.Second
	outageWindow = 2 * time.Minute
	// Pauses otherwise: drawn from the whole range up to a ceiling that doubles.
	minPause, maxPause = time.Second, time.Minute
	// A proxy may push so many sets in rulesPeriod that are taken at once; then only the newest counts after
	// each rulesPause. Verifying costs the node work and, where it fails, a line in its log.
	rulesBurst  = 20
	rulesPeriod = 10 * time.Second
	rulesPause  = 200 * time.Millisecond
	// sparePause is how long a spare waits to see whether there is a second proxy now.
	sparePause = 2 * time.Minute
)

// Config says where to, as whom, and what to do with what comes.
type Config struct {
	Proxies []string       // addresses of the public port, host:port; at least one
	Dialer  authrpc.Dialer // how to get to them; nil: straight
	Tunnels int            // 0: DefaultTunnels
	Pin     identity.Pin
	Cluster string
	ID      identity.MachineID
	Key     crypto.Signer
	Cert    func() (*tls.Certificate, error)
	Version string
	Now     func() time.Time
	Log     *slog.Logger

	// Handle serves one session stream and returns when it is over, soon after ctx ends. It owns conn.
	Handle func(ctx context.Context, conn net.Conn, h tunnel.Header, proxy string)
	// Rules gets what is pushed, unverified.
	Rules func(tunnel.RulesPush)
	// Attached is called each time a tunnel stands.
	Attached func()
}

// Tunnels keeps the tunnels.
type Tunnels struct {
	cfg Config

	mu      sync.Mutex      // guards proxies
	claimed map[string]bool // the proxies that a tunnel stands to, by name
}

// New makes ready; Run dials.
func New(cfg Config) *Tunnels {
	if cfg.Tunnels == 0 {
		cfg.Tunnels = DefaultTunnels
	}
	if cfg.Dialer == nil {
		cfg.Dialer = &egress.Dialer{}
	}
	return &Tunnels{cfg: cfg, claimed: map[string]bool{}}
}

// errSpare says that every proxy this dial could reach has its tunnel already.
var errSpare = errors.New("uplink: a tunnel to this proxy stands already")

// Run keeps tunnels up until ctx ends, and then waits for what runs in them.
func (l *Tunnels) Run(ctx context.Context) error {
	var slots sync.WaitGroup
	for i := range l.cfg.Tunnels {
		slots.Go(func() { l.keepTunnel(ctx, i) })
	}
	slots.Wait()
	return nil
}

// keepTunnel keeps one tunnel up.
func (l *Tunnels) keepTunnel(ctx context.Context, i int) {
	pause := backoff{draw: rand.N[time.Duration], now: l.cfg.Now, addrs: len(l.cfg.Proxies)}
	for try := i; ctx.Err() == nil; try++ {
		addr := l.cfg.Proxies[try%len(l.cfg.Proxies)]
		stood, err := l.connectOnce(ctx, addr)
		if ctx.Err() != nil {
			return
		}
		wait := pause.pause(stood, errors.Is(err, errSpare))
		switch {
		case stood:
			l.cfg.Log.Warn("tunnel ended", "proxy", addr, "again", wait)
		case !errors.Is(err, errSpare):
			l.cfg.Log.Warn("no tunnel", "proxy", addr, "err", err, "remedy", fault.Remedy(err), "again", wait)
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
		case <-timer.C:
		}
	}
}

// backoff says how long to wait before dialling again.
type backoff struct {
	draw     func(time.Duration) time.Duration // uniform in [0, n)
	now      func() time.Time
	lastLost time.Time // when a tunnel last ended
	failed   int       // dials in a row
	spares   int       // dials in a row that found a tunnel standing
	addrs    int       // how many addresses there are to try
}

func (p *backoff) pause(stood, spare bool) time.Duration {
	switch {
	case spare:
		p.failed = 0
		if p.spares++; p.spares%p.addrs != 0 { // another address may lead to another proxy
			return p.draw(outagePause)
		}
		return sparePause/2 + p.draw(sparePause/2)
	case stood:
		p.lastLost, p.failed = p.now(), 0
		return p.draw(outagePause)
	case p.now().Sub(p.lastLost) < outageWindow:
		return minPause + p.draw(outagePause-minPause)
	}
	p.failed++
	ceiling := min(minPause<<min(p.failed, 6), maxPause)
	return minPause + p.draw(ceiling-minPause+1)
}

// connectOnce dials, and serves the tunnel until it ends. stood reports whether it ever stood.
func (l *Tunnels) connectOnce(ctx context.Context, addr string) (stood bool, err error) {
	conn, proxy, err := l.dial(ctx, addr)
	if err != nil {
		return false, err
	}
	if !l.claim(proxy) {
		conn.Close()
		return false, errSpare
	}
	defer l.release(proxy)
	up, err := tunnel.Connect(ctx, conn, l.cfg.Key, l.cfg.ID, l.cfg.Version, l.cfg.Now)
	if err != nil {
		return false, dialFault(addr, err)
	}
	defer up.Close()
	if up.Proxy() != proxy {
		return false, fmt.Errorf(
			"uplink: the proxy calls itself %q and its certificate says %q",
			up.Proxy(),
			proxy,
		)
	}
	l.cfg.Log.Info("tunnel stands", "proxy", proxy, "address", addr)
	l.cfg.Attached()
	l.serve(ctx, up, proxy)
	return true, nil
}

// dial connects and returns the proxy's name as its certificate has it.
func (l *Tunnels) dial(ctx context.Context, addr string) (net.Conn, string, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	conn, err := l.cfg.Dialer.DialTLS(
		ctx,
		addr,
		identity.PinnedTLS(
			l.cfg.Pin,
			l.cfg.Cluster,
			identity.ALPNTunnel,
			l.cfg.Cert,
			l.cfg.Now,
			identity.Proxy,
		),
	)
	if err != nil {
		return nil, "", dialFault(addr, err)
	}
	peer, err := identity.VerifyPinned(
		conn.ConnectionState().PeerCertificates,
		l.cfg.Pin,
		l.cfg.Cluster,
		l.cfg.Now(),
		identity.Proxy,
	)
	if err != nil {
		conn.Close()
		return nil, "", dialFault(addr, err)
	}
	return conn, peer.Name, nil
}

func dialFault(addr string, err error) error {
	var pin *identity.PinError
	var old *identity.ExpiredError
	var said *fault.Error
	switch {
	case errors.As(err, &said):
		return err
	case errors.As(err, &pin):
		return fault.Wrap(
			err,
			fault.Denied,
			"uplink",
			"the proxy at "+addr+" is not of this node's cluster",
			"check the address given with --proxy",
		)
	case errors.As(err, &old):
		return fault.Wrap(
			err,
			fault.Expired,
			"uplink",
			"the proxy's "+old.Error(),
			"set this machine's clock, or look at the proxy",
		)
	}
	return fault.Wrap(
		err,
		fault.Unavailable,
		"uplink",
		"the proxy at "+addr+" cannot be reached",
		"check the address and that outgoing connections are allowed",
	)
}

// serve hands on what comes until the tunnel or ctx ends, and waits for the streams. They end before the
// tunnel, so that people still read why.
func (l *Tunnels) serve(ctx context.Context, up *tunnel.Uplink, proxy string) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var streams sync.WaitGroup
	streams.Go(func() { defer cancel(); l.forwardRules(ctx, up) })
	var gate sync.Mutex // guards stopping, and that no stream starts after it
	stopping := false
	accepting := make(chan struct{})
	go func() {
		defer close(accepting)
		for {
			conn, h, err := up.Accept()
			if err != nil {
				return
			}
			gate.Lock()
			if stopping {
				conn.Close()
			} else {
				streams.Go(func() { l.cfg.Handle(ctx, conn, h, proxy) })
			}
			gate.Unlock()
		}
	}()
	<-ctx.Done()
	gate.Lock()
	stopping = true
	gate.Unlock()
	streams.Wait()
	up.Close()
	<-accepting
}

// forwardRules hands on the rules that a proxy pushes, at a bounded pace, until the tunnel or ctx ends.
func (l *Tunnels) forwardRules(ctx context.Context, up *tunnel.Uplink) {
	news, taken, since := up.Rules(), 0, time.Now()
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		select {
		case <-pause.C:
			news = up.Rules()
		case n := <-news:
			l.cfg.Rules(n)
			if now := time.Now(); now.Sub(since) > rulesPeriod {
				taken, since = 0, now
			}
			if taken++; taken >= rulesBurst {
				news = nil
				pause.Reset(rulesPause)
			}
		case <-up.Done():
			return
		case <-ctx.Done():
			return
		}
	}
}

func (l *Tunnels) claim(proxy string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.claimed[proxy] {
		return false
	}
	l.claimed[proxy] = true
	return true
}

// Count is to how many proxies a tunnel stands.
func (l *Tunnels) Count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.claimed)
}

func (l *Tunnels) release(proxy string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.claimed, proxy)
}
