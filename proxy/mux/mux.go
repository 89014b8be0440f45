// Package mux answers: which protocol does this connection use, and who serves it?
//
// One port accepts every protocol. The first bytes decide between SSH, TLS and clear HTTP, and for TLS the
// ALPN names in the ClientHello decide further (design section 7). Connections to the auth service are
// passed through without ending TLS. Until the peer is known, every connection has a deadline, a size
// limit, a limit per network and in all, and a counter. For the threshold-* protocols, the servers get the
// connection together with the verified identity of its peer.
package mux

import (
	"cmp"
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

	"github.com/threshold-access/threshold/internal/backoff"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/keepalive"
	"github.com/threshold-access/threshold/internal/lifecycle"
	"github.com/threshold-access/threshold/internal/limit"
	"github.com/threshold-access/threshold/internal/limitedlog"
	"github.com/threshold-access/threshold/internal/rules"
)

const (
	// handshakeTimeout bounds everything before the peer is known.
	handshakeTimeout = 10 * time.Second
	// callGrace is how long a call to the auth service may go on when the proxy stops. It is short because
	// clients keep these connections open while they are idle.
	callGrace = 500 * time.Millisecond
	// The pauses after a failed accept grow from the first to the second.
	firstAcceptPause = 5 * time.Millisecond
	maxAcceptPause   = time.Second
)

// Limits of connections without a known peer, which are dropped at random between Start and Full. A process
// may have 20,000 file descriptors, and 10,000 of them are for tunnels.
var (
	// Connections whose peer is not known yet: in all, and from one network.
	pendingLimit        = limit.DropLimit{Start: 1024, Rate: 30, Full: 2048}
	pendingNetworkLimit = limit.DropLimit{Start: 128, Rate: 30, Full: 256}
	// Connections that stay anonymous, which are browsers and those passed through to the auth service.
	anonymousLimit        = limit.DropLimit{Start: 2048, Rate: 30, Full: 4096}
	anonymousNetworkLimit = limit.DropLimit{Start: 256, Rate: 30, Full: 512}
)

// Config says who serves what. A field is required unless its comment says what the zero value means.
type Config struct {
	// Listener accepts the connections. Run closes it.
	Listener net.Listener
	// Cluster is the name of the cluster that peers' certificates must contain.
	Cluster string
	// AuthAddr is host:port of the auth service, where threshold-auth connections go.
	AuthAddr string
	// Rules returns the rules in force, whose authorities verify peers.
	Rules interface{ Current() *rules.Trust }
	// SignForwardedFrom signs the client's address for the auth service. It gets the bytes that the client
	// has sent so far, and binds the signature to them.
	SignForwardedFrom func(from netip.AddrPort, hello []byte) ([]byte, error)
	// Service returns the service certificate of this proxy, for nodes and tsh.
	Service func() (*tls.Certificate, error)
	// Web returns the certificate for browsers.
	Web func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	// Challenge answers an ACME authority (ALPN acme-tls/1). Nil: these connections are refused.
	Challenge func(*tls.ClientHelloInfo) (*tls.Certificate, error)

	// The four Serve functions own their connection. All but ServeWeb return when the connection has ended,
	// or soon after ctx has.

	// ServeSSH calls peerKnown as soon as it has verified the peer. It returns an error only if it never
	// called peerKnown: of kind fault.Denied for a certificate that is not valid, fault.Expired for one whose
	// only defect is that it has expired, and fault.Unauthenticated when the peer showed none.
	ServeSSH func(ctx context.Context, conn net.Conn, peerKnown func(identity.Identity)) error
	// ServeDial serves a verified user.
	ServeDial func(ctx context.Context, conn net.Conn, user identity.Peer)
	// ServeTunnel exchanges the first messages with the node, and returns a function that serves the tunnel
	// until it ends. It returns nil when there is no tunnel.
	ServeTunnel func(ctx context.Context, conn net.Conn, node identity.Peer) (serve func())
	// ServeWeb takes the connection over and returns at once.
	ServeWeb func(conn net.Conn)

	// Balancers are the networks of the load balancers in front of this port. All clients share their
	// addresses, so limits and penalties per network do not apply to them. Empty: there are none.
	Balancers []netip.Prefix
	// ProxyProtocol requires a PROXY header on each connection from a balancer; the source address in it is
	// then the client's. A PROXY header from any other address is refused.
	ProxyProtocol bool
	// Exempt are networks that are never penalised. Empty: only networks with a known peer are exempt.
	Exempt []netip.Prefix

	// Drain is how long sessions may go on after the context of Run has ended. Zero means what the settings
	// of the cluster say.
	Drain time.Duration
	// Now is the clock for certificates. Nil means time.Now.
	Now func() time.Time
	Log *slog.Logger
}

// Mux serves one listener.
type Mux struct {
	cfg        Config
	tlsConfigs map[string]*tls.Config // by ALPN name; "" is for browsers
	pending    *limit.RandomDrop      // connections whose peer is not known yet
	anonymous  *limit.RandomDrop      // browsers, and connections passed through to the auth service
	penalties  *penalties
	counters   Counters
	penaltyLog *limitedlog.Logger // for lines about penalised networks

	streams chan net.Conn // byte streams inside WebSockets, from ServeStream to acceptStreams
	stopped chan struct{} // closed by acceptStreams: no further stream is served

	// What a stop waits for. Calls get only callGrace, because mux cannot see whether a call is in progress.
	sessions *drainGroup // connections of users, by which they reach nodes
	calls    *drainGroup // connections to the auth service

	serving sync.WaitGroup // every goroutine that Run starts; Run waits for it last
}

// New makes a Mux. It starts nothing.
func New(cfg Config) *Mux {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	m := &Mux{
		cfg:        cfg,
		pending:    limit.NewRandomDrop(pendingLimit, pendingNetworkLimit),
		anonymous:  limit.NewRandomDrop(anonymousLimit, anonymousNetworkLimit),
		penalties:  newPenalties(cfg.Exempt),
		penaltyLog: limitedlog.New(cfg.Log, penaltyLogEvery, penaltyLogBurst, nil),
		streams:    make(chan net.Conn),
		stopped:    make(chan struct{}),
		sessions:   newDrainGroup(),
		calls:      newDrainGroup(),
	}
	m.tlsConfigs = map[string]*tls.Config{
		identity.ALPNDial:   m.peerConfig(identity.ALPNDial, identity.User),
		identity.ALPNTunnel: m.peerConfig(identity.ALPNTunnel, identity.Node),
		"":                  m.webConfig(),
	}
	return m
}

// Counters returns the live counters. They may be read at any time.
func (m *Mux) Counters() *Counters { return &m.counters }

// Run accepts connections until ctx ends. Then it closes the listener, lets sessions go on for at most the
// drain time, closes the remaining connections, and waits for every goroutine it started. It returns nil
// after such a stop, and an error when the listener was closed by somebody else. It is called once.
func (m *Mux) Run(ctx context.Context) error {
	// Connections are served in the context serveCtx, which ends only after the drain: the end of ctx must
	// not end the sessions at once.
	serveCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	stop := context.AfterFunc(ctx, func() { m.cfg.Listener.Close() })
	defer stop()
	m.serving.Go(func() { m.logCounters(serveCtx) })
	m.serving.Go(func() { m.acceptStreams(ctx, serveCtx) })
	err := m.accept(ctx, serveCtx)
	m.cfg.Listener.Close()
	m.drain(ctx)
	cancel()
	m.serving.Wait()
	return err
}

// accept starts serving each connection, in the context serveCtx, until ctx ends or the listener is closed.
// It returns nil when ctx has ended, and an error when only the listener was closed.
func (m *Mux) accept(ctx, serveCtx context.Context) error {
	pauses := backoff.Backoff{Min: firstAcceptPause, First: firstAcceptPause, Max: maxAcceptPause}
	for {
		conn, err := m.cfg.Listener.Accept()
		switch {
		case ctx.Err() != nil:
			if conn != nil {
				conn.Close()
			}
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("accept: %w", err)
		case err != nil:
			// The usual cause is too many open files. Connections that end free some, so accept tries again.
			m.counters.AcceptErrors.Add(1)
			pause := pauses.Next()
			m.cfg.Log.Error("cannot accept connections", "err", err, "retry_in", pause)
			backoff.Sleep(ctx, pause)
			continue
		}
		pauses.Reset()
		m.startConn(serveCtx, conn)
	}
}

// pendingConn is a connection whose peer is not known yet. It belongs to one goroutine, except for dropped,
// which the goroutine of another connection may set.
type pendingConn struct {
	*clientConn
	// network is the client's network, by which limits and penalties count. The zero Prefix stands for an
	// unknown client behind a balancer: it has no limit of its own and no penalties.
	network  netip.Prefix
	deadline time.Time   // for everything until the peer is known
	release  func()      // gives the pending slot back; may be called more than once; set by admit
	dropped  atomic.Bool // random early drop has closed the connection
}

func newPendingConn(conn net.Conn) *pendingConn {
	return &pendingConn{
		clientConn: newClientConn(conn),
		network:    limit.Network(conn.RemoteAddr().String()),
		deadline:   time.Now().Add(handshakeTimeout),
	}
}

// startConn serves an accepted connection in a goroutine, which m.serving counts. If the client's network is
// penalised, it closes the connection instead. ctx ends the connection.
func (m *Mux) startConn(ctx context.Context, accepted net.Conn) {
	m.counters.Accepted.Add(1)
	keepalive.Enable(accepted)
	conn := newPendingConn(accepted)
	balanced := m.fromBalancer(accepted.RemoteAddr())
	if balanced { // all clients behind it share its address, so a limit for that address would hit them all
		conn.network = netip.Prefix{}
	}
	if !m.admit(conn) {
		return
	}
	m.serving.Go(func() {
		defer func() { conn.release() }() // a closure, because readClientAddr replaces conn.release
		defer m.recover(accepted)
		needsHeader := balanced && m.cfg.ProxyProtocol
		if !needsHeader || m.readClientAddr(ctx, conn) {
			m.dispatch(ctx, conn)
		}
	})
}

// fromBalancer reports whether addr belongs to a configured balancer.
func (m *Mux) fromBalancer(addr net.Addr) bool {
	ap, err := netip.ParseAddrPort(addr.String())
	if err != nil {
		return false
	}
	ip := ap.Addr().Unmap().WithZone("")
	return slices.ContainsFunc(m.cfg.Balancers, func(n netip.Prefix) bool { return n.Contains(ip) })
}

// admit gives the connection a pending slot and reports true. It closes the connection and reports false when
// the network is penalised.
func (m *Mux) admit(conn *pendingConn) bool {
	if m.penalties.blocks(conn.network) {
		m.counters.Penalised.Add(1)
		conn.Close()
		return false
	}
	conn.release = m.pending.Admit(conn.network, func() { m.drop(conn) })
	return true
}

// drop closes a connection that random early drop chose. The network is not charged for it: the limit was
// reached by connections of others as well. It may be called by the goroutine of another connection.
func (m *Mux) drop(conn *pendingConn) {
	conn.dropped.Store(true)
	m.counters.Dropped.Add(1)
	conn.Close()
}

// readClientAddr reads the PROXY header of a balancer and admits the connection a second time, now with the
// limits and penalties of the client's network. It reports false when it has closed the connection, because
// the header is not valid or the client's network is penalised.
//
// Until the header is read, the client's network is not known. The first admission bounds these connections
// by the limit for all networks together.
func (m *Mux) readClientAddr(ctx context.Context, conn *pendingConn) bool {
	_ = conn.SetReadDeadline(conn.deadline)
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	err := conn.readProxyHeader()
	stop()
	if len(conn.Prefix()) == 0 && peerClosed(err) {
		err = errNoData
	}
	if err != nil {
		m.refuse(conn, "PROXY header", err)
		return false
	}
	if conn.clientAddr == nil { // the header names no client: a health check of the balancer
		return true
	}
	m.counters.ProxyHeader.Add(1)
	conn.release() // admit takes another slot
	conn.network = limit.Network(conn.clientAddr.String())
	return m.admit(conn)
}

// recover logs a panic and closes the connection that caused it, so that the others go on. Callers defer it.
func (m *Mux) recover(conn net.Conn) {
	if r := recover(); r != nil {
		m.counters.Panics.Add(1)
		m.cfg.Log.Error("panic while serving a connection",
			"from", conn.RemoteAddr(), "panic", r, "stack", string(debug.Stack()))
		conn.Close()
	}
}

// drain takes no more sessions and calls to the auth service, and waits until the open ones have ended: up to
// the drain time for sessions, and up to callGrace for calls. Both waits start now. It closes nothing: Run
// then ends the context of the connections that remain.
func (m *Mux) drain(ctx context.Context) {
	sessions, calls := m.sessions.close(), m.calls.close()
	grace := time.NewTimer(callGrace)
	defer grace.Stop()
	settings := m.cfg.Rules.Current().Policy.Settings.WithDefaults()
	drainTime := cmp.Or(m.cfg.Drain, time.Duration(settings.Drain))
	drainCtx, cancel := lifecycle.DrainContext(ctx, drainTime)
	defer cancel()
	select {
	case <-sessions:
	case <-drainCtx.Done():
		m.cfg.Log.Warn("the drain time is over: the remaining sessions are closed", "drain", drainTime)
	}
	select {
	case <-calls:
	case <-grace.C:
	}
}

// dispatch detects the protocol and hands the connection to its server. It returns when the connection has
// ended or another goroutine serves it. Connections with an unknown protocol are refused.
func (m *Mux) dispatch(ctx context.Context, conn *pendingConn) {
	stop := context.AfterFunc(ctx, func() { conn.Close() }) // a stop does not wait for slow clients
	proto, offered, err := conn.sniff(conn.deadline)
	stop() // from here on the server of the protocol watches ctx
	if err != nil {
		m.refuse(conn, "first bytes", err)
		return
	}
	_ = conn.SetReadDeadline(time.Time{})
	switch proto {
	case protocolSSH:
		m.counters.SSH.Add(1)
		m.sessions.serve(conn, func() { m.serveSSH(ctx, conn) })
	case protocolTLS:
		m.serveTLS(ctx, conn, offered)
	case protocolHTTP:
		m.counters.ClearHTTP.Add(1)
		answerClearHTTP(conn)
	}
}

func (m *Mux) serveSSH(ctx context.Context, conn *pendingConn) {
	peerKnown := func(who identity.Identity) { m.markPeerKnown(conn, who) }
	if err := m.cfg.ServeSSH(ctx, conn.clientConn, peerKnown); err != nil {
		m.refuse(conn, "SSH", err)
	}
}

// markPeerKnown gives the pending slot back and protects the network from penalties until the certificate
// expires. A certificate that is pinned to another network protects nobody here: the server refuses it.
func (m *Mux) markPeerKnown(conn *pendingConn, who identity.Identity) {
	conn.release()
	if who.CheckSourceAddress(conn.RemoteAddr()) == nil {
		m.penalties.markKnown(conn.network, who.Expires.Sub(m.cfg.Now()))
	}
}

// refuse closes a connection whose peer did not become known because of err, counts it, and charges its
// network. stage says in the log how far the connection got.
func (m *Mux) refuse(conn *pendingConn, stage string, err error) {
	m.refuseConn(conn, stage, err, false /* anonymous */)
}

// refuseConn does what refuse does. anonymous says whether the peer would have stayed unknown anyway, as
// browsers do: then some errors cost nothing (see costOf).
func (m *Mux) refuseConn(conn *pendingConn, stage string, err error, anonymous bool) {
	conn.Close()
	if conn.dropped.Load() { // counted by drop, and not the peer's fault
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
	m.cfg.Log.Debug("connection refused", "from", conn.RemoteAddr(), "stage", stage, "err", err)
	if m.penalties.charge(conn.network, costOf(err, anonymous)) {
		m.penaltyLog.Log(slog.LevelInfo, "network penalised: its new connections are closed for a while",
			"network", conn.network, "last_stage", stage, "err", err)
	}
}
