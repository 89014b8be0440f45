// Package mux answers: which protocol does this connection speak, and who serves it?
//
// One port takes everything. First bytes and then the ALPN names of the ClientHello choose (design section
// 7); the auth API is passed through unopened. Whatever happens before someone has shown who they are has a
// deadline, a size limit, a limit by address and in all, and a counter. What comes out is a connection with,
// for the threshold-* protocols, the verified identity of its peer.
package mux

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/keepalive"
	"github.com/threshold-access/threshold/internal/lifecycle"
	"github.com/threshold-access/threshold/internal/limit"
	"github.com/threshold-access/threshold/internal/rules"
)

const (
	// handshakeTimeout bounds everything before the peer is known.
	handshakeTimeout = 10 * time.Second
	// callGrace is what a call to auth gets to finish when the proxy stops. Clients keep such connections
	// open when idle.
	callGrace = 500 * time.Millisecond
)

// Config says who serves what. What says nothing of a zero value is required.
type Config struct {
	Listener net.Listener
	Cluster  string
	AuthAddr string // host:port of auth, where threshold-auth connections go
	Rules    interface{ Current() *rules.Trust }
	// SignForwardedFrom makes this proxy's word for a client that is passed through to auth, given the
	// client's first bytes.
	SignForwardedFrom func(from netip.AddrPort, hello []byte) ([]byte, error)
	// Service is this proxy's own certificate, shown to nodes and tsh. Web is what browsers get.
	Service func() (*tls.Certificate, error)
	Web     func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	// Challenge answers an ACME authority (acme-tls/1). Nil: nobody asked one.
	Challenge func(*tls.ClientHelloInfo) (*tls.Certificate, error)

	// The servers own the connection, and return when it has ended or soon after ctx has. ServeSSH calls
	// settled once it knows the peer, and returns why it never did; a fault.Denied says that what the peer
	// showed is not good, fault.Expired that it was, and fault.Unauthenticated that it asked to be let in and
	// showed nothing.
	ServeSSH  func(ctx context.Context, conn net.Conn, settled func(identity.Identity)) error
	ServeDial func(ctx context.Context, conn net.Conn, user identity.Peer)
	// ServeTunnel greets the node, and returns what then serves the tunnel; nil if there is none.
	ServeTunnel func(ctx context.Context, conn net.Conn, node identity.Peer) (serve func())
	ServeWeb    func(conn net.Conn) // hands over: returns at once

	// Balancers are the networks of balancers in front of this port. Everybody comes from their addresses, so
	// what is counted by network is not counted for them. With ProxyProtocol each of their connections must
	// begin with a PROXY header, whose source address then counts; a header from anywhere else is garbage.
	// None: nobody is believed.
	Balancers     []netip.Prefix
	ProxyProtocol bool
	// Exempt are networks that are never turned away for what came from them. None: only those from which
	// people are known to come.
	Exempt []netip.Prefix

	Drain time.Duration    // how long sessions may go on after Run's context ended. Zero: 10 s
	Now   func() time.Time // zero: time.Now
	Log   *slog.Logger
}

// Mux serves one listener.
type Mux struct {
	cfg        Config
	tlsConfigs map[string]*tls.Config // by ALPN name; "" is the web
	pending    *limit.RandomDrop
	anonymous  *limit.RandomDrop
	penalties  *penalties
	counters   Counters
	penaltyLog *rate.Limiter // of lines about networks that are turned away
	streams    chan net.Conn // from inside WebSockets
	stopped    chan struct{} // closed once nothing enters any more

	sessions *drainGroup // what Drain waits for: people's sessions
	calls    *drainGroup // connections to auth, which get callGrace: whether a call is under way on one cannot be seen
	serving  sync.WaitGroup
}

// New makes a Mux. It starts nothing.
func New(cfg Config) *Mux {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Drain == 0 {
		cfg.Drain = 10 * time.Second
	}
	m := &Mux{cfg: cfg,
		// Connections whose peer is not known yet, and those that stay anonymous: browsers and what is passed
		// through to auth. The first limit is for all, the second for one network. A process may have 20,000
		// descriptors, and 10,000 nodes.
		pending: limit.NewRandomDrop(
			limit.DropLimit{Start: 1024, Rate: 30, Full: 2048},
			limit.DropLimit{Start: 128, Rate: 30, Full: 256},
		),
		anonymous: limit.NewRandomDrop(
			limit.DropLimit{Start: 2048, Rate: 30, Full: 4096},
			limit.DropLimit{Start: 256, Rate: 30, Full: 512},
		),
		penalties: newPenalties(
			cfg.Exempt,
		), penaltyLog: rate.NewLimiter(rate.Every(penaltyLogEvery), penaltyLogBurst), sessions: newDrainGroup(), calls: newDrainGroup(),
		streams: make(chan net.Conn), stopped: make(chan struct{})}
	m.tlsConfigs = map[string]*tls.Config{
		identity.ALPNDial:   m.peerConfig(identity.ALPNDial, identity.User),
		identity.ALPNTunnel: m.peerConfig(identity.ALPNTunnel, identity.Node),
		"":                  m.webConfig(),
	}
	return m
}

// Counters tells what has come so far.
func (m *Mux) Counters() *Counters { return &m.counters }

// Run accepts until ctx ends. Then it closes the listener, lets sessions go on for at most Drain, ends the
// rest, and waits for all.
func (m *Mux) Run(ctx context.Context) error {
	serve, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	stop := context.AfterFunc(ctx, func() { m.cfg.Listener.Close() })
	defer stop()
	m.serving.Go(func() { m.logCounters(serve) })
	m.serving.Go(func() { m.acceptStreams(ctx, serve) })
	err := m.accept(ctx, serve)
	m.cfg.Listener.Close()
	m.drain(ctx)
	cancel()
	m.serving.Wait()
	return err
}

func (m *Mux) accept(ctx, serve context.Context) error {
	for wait := 5 * time.Millisecond; ; {
		conn, err := m.cfg.Listener.Accept()
		switch {
		case ctx.Err() != nil:
			if conn != nil {
				conn.Close()
			}
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("accept: %w", err)
		case err != nil: // too many open files, most likely: those that are served end and make room
			m.counters.AcceptErrors.Add(1)
			m.cfg.Log.Error("cannot accept connections", "err", err, "retry", wait)
			select {
			case <-ctx.Done():
			case <-time.After(wait):
			}
			wait = min(2*wait, time.Second)
			continue
		}
		wait = 5 * time.Millisecond
		m.startConn(serve, conn)
	}
}

// pendingConn is one connection until its peer is known.
type pendingConn struct {
	*prefixedConn
	network  netip.Prefix // its network. The zero one is neither penalised nor counted by itself.
	deadline time.Time    // for everything before the peer is known
	release  func()       // gives up the place among the pending ones
	dropped  atomic.Bool  // lost its place to another
}

// startConn lets a connection in that was just accepted, from where it really comes.
func (m *Mux) startConn(ctx context.Context, conn net.Conn) {
	m.counters.Accepted.Add(1)
	keepalive.Enable(conn)
	v := &pendingConn{
		prefixedConn: &prefixedConn{Conn: conn},
		network:      limit.Network(conn.RemoteAddr().String()),
		deadline:     time.Now().Add(handshakeTimeout),
	}
	balanced := m.fromBalancer(conn.RemoteAddr())
	if balanced {
		v.network = netip.Prefix{}
	}
	if !m.admit(v) {
		return
	}
	m.serving.Go(func() {
		defer func() { v.release() }()
		defer m.recover(conn)
		if !balanced || !m.cfg.ProxyProtocol || m.readClientAddr(ctx, v) {
			m.dispatch(ctx, v)
		}
	})
}

// fromBalancer reports whether it is a balancer who connects.
func (m *Mux) fromBalancer(addr net.Addr) bool {
	ap, err := netip.ParseAddrPort(addr.String())
	return err == nil &&
		slices.ContainsFunc(
			m.cfg.Balancers,
			func(n netip.Prefix) bool { return n.Contains(ap.Addr().Unmap().WithZone("")) },
		)
}

// admit gives the connection a place among the pending ones, or closes it.
func (m *Mux) admit(v *pendingConn) bool {
	if m.penalties.blocks(v.network) {
		m.counters.Penalised.Add(1)
		v.Conn.Close()
		return false
	}
	v.release = m.pending.Admit(v.network, func() { m.drop(v) })
	return true
}

// drop ends a connection that lost its place. That is no fault of its own.
func (m *Mux) drop(v *pendingConn) {
	v.dropped.Store(true)
	m.counters.Dropped.Add(1)
	v.Conn.Close()
}

// readClientAddr takes the client's address from the balancer, and lets the client in by that.
func (m *Mux) readClientAddr(ctx context.Context, v *pendingConn) bool {
	_ = v.SetReadDeadline(v.deadline)
	stop := context.AfterFunc(ctx, func() { v.Conn.Close() })
	err := v.readProxyHeader()
	stop()
	if len(v.prefix) == 0 && peerClosed(err) {
		err = errNoData
	}
	if err != nil {
		m.refuse(v, "PROXY header", err)
		return false
	}
	if v.clientAddr == nil { // the balancer's own
		return true
	}
	m.counters.ProxyHeader.Add(1)
	v.release()
	v.network = limit.Network(v.clientAddr.String())
	return m.admit(v)
}

// recover keeps one connection's panic from being everyone's.
func (m *Mux) recover(conn net.Conn) {
	if r := recover(); r != nil {
		m.counters.Panics.Add(1)
		m.cfg.Log.Error(
			"panic while serving a connection",
			"from",
			conn.RemoteAddr(),
			"panic",
			r,
			"stack",
			string(debug.Stack()),
		)
		conn.Close()
	}
}

// drain waits for what should not be cut short: sessions for Drain, calls to auth for callGrace.
func (m *Mux) drain(ctx context.Context) {
	sessions, calls := m.sessions.close(), m.calls.close()
	grace := time.NewTimer(callGrace)
	defer grace.Stop()
	within, cancel := lifecycle.DrainContext(ctx, m.cfg.Drain)
	defer cancel()
	select {
	case <-sessions:
	case <-within.Done():
		m.cfg.Log.Warn("sessions are cut: the time to drain is over", "at most", m.cfg.Drain)
	}
	select {
	case <-calls:
	case <-grace.C:
	}
}

// dispatch finds out what a connection speaks and hands it to whoever serves that.
func (m *Mux) dispatch(ctx context.Context, v *pendingConn) {
	stop := context.AfterFunc(ctx, func() { v.Conn.Close() }) // at a shutdown nobody waits for the slow
	kind, offered, err := v.sniff(v.deadline)
	stop()
	if err != nil {
		m.refuse(v, "first bytes", err)
		return
	}
	_ = v.SetReadDeadline(time.Time{})
	switch kind {
	case protocolSSH:
		m.counters.SSH.Add(1)
		m.sessions.serve(v, func() { m.serveSSH(ctx, v) })
	case protocolTLS:
		m.serveTLS(ctx, v, offered)
	case protocolHTTP:
		m.counters.ClearHTTP.Add(1)
		answerClearHTTP(v)
	}
}

func (m *Mux) serveSSH(ctx context.Context, v *pendingConn) {
	err := m.cfg.ServeSSH(ctx, v.prefixedConn, func(who identity.Identity) { m.markPeerKnown(v, who) })
	if err != nil {
		m.refuse(v, "SSH", err)
	}
}

// markPeerKnown notes that the peer is known. One who is pinned to another network is told so by the server,
// and vouches for none.
func (m *Mux) markPeerKnown(v *pendingConn, who identity.Identity) {
	v.release()
	if who.CheckSourceAddress(v.RemoteAddr()) == nil {
		m.penalties.markKnown(v.network, who.Expires.Sub(m.cfg.Now()))
	}
}

// refuse closes a connection that did not get as far as a server, and has its network pay for it.
func (m *Mux) refuse(v *pendingConn, at string, err error) { m.refuseConn(v, at, err, false) }

func (m *Mux) refuseConn(v *pendingConn, at string, err error, anonymous bool) {
	v.Conn.Close()
	if v.dropped.Load() {
		return
	}
	switch {
	case errors.Is(err, errNoData):
		m.counters.NoData.Add(1)
		return
	case timedOut(err):
		m.counters.TimedOut.Add(1)
	default:
		m.counters.Refused.Add(1)
	}
	m.cfg.Log.Debug("connection refused", "from", v.RemoteAddr(), "at", at, "err", err)
	if m.penalties.charge(v.network, costOf(err, anonymous)) && m.penaltyLog.Allow() {
		m.cfg.Log.Info(
			"a network is turned away for a while: nothing but refusals came from it",
			"network",
			v.network,
			"last",
			at,
			"err",
			err,
		)
	}
}
