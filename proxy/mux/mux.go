// Package mux answers: which protocol does this connection speak, and who serves it?
//
// One port takes everything. First bytes and then the ALPN names of the ClientHello choose (design section 7); the auth API is passed
// through unopened. Whatever happens before someone has shown who they are has a deadline, a size limit, a limit by address and in all,
// and a counter. What comes out is a connection with, for the threshold-* protocols, the verified identity of its peer.
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
	"sync"
	"time"

	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/places"
	"github.com/threshold-access/threshold/internal/rules"
)

const (
	// handshakeTimeout bounds everything before the peer is known.
	handshakeTimeout = 10 * time.Second
	// Limits of connections in that state, and of those that stay anonymous: browsers and what is passed through to auth.
	maxPending, maxPendingEach     = 4096, 128
	maxAnonymous, maxAnonymousEach = 8192, 512
	// callGrace is what a call to auth gets to finish when the proxy stops. Clients keep such connections open when idle.
	callGrace = 500 * time.Millisecond
)

// Config says who serves what. All but Now, Drain and the limits is required.
type Config struct {
	Listener net.Listener
	Cluster  string
	AuthAddr string // host:port of auth, where threshold-auth connections go
	Rules    interface{ Current() *rules.Trust }
	// Introduce makes this proxy's word for a client that is passed through to auth, given the client's first bytes.
	Introduce func(from netip.AddrPort, hello []byte) ([]byte, error)
	// Service is this proxy's own certificate, shown to nodes and tsh. Web is what browsers get.
	Service func() (*tls.Certificate, error)
	Web     func(*tls.ClientHelloInfo) (*tls.Certificate, error)

	// The servers own the connection, and return when it has ended or soon after ctx has. ServeSSH calls settled once it knows the peer.
	ServeSSH    func(ctx context.Context, conn net.Conn, settled func())
	ServeDial   func(ctx context.Context, conn net.Conn, user identity.Peer)
	ServeTunnel func(ctx context.Context, conn net.Conn, node identity.Peer)
	ServeWeb    func(conn net.Conn) // hands over: returns at once

	Drain time.Duration    // how long sessions may go on after Run's context ended. Zero: 10 s
	Now   func() time.Time // zero: time.Now
	Log   *slog.Logger
}

// Mux serves one listener.
type Mux struct {
	cfg       Config
	tls       map[string]*tls.Config // by ALPN name; "" is the web
	pending   *places.Places
	anonymous *places.Places
	counters  Counters

	sessions *gate // what Drain waits for: people's sessions
	calls    *gate // connections to auth, which get callGrace: whether a call is under way on one cannot be seen
	all      sync.WaitGroup
}

// New makes a Mux. It starts nothing.
func New(cfg Config) *Mux {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Drain == 0 {
		cfg.Drain = 10 * time.Second
	}
	m := &Mux{cfg: cfg, pending: places.New(maxPending, maxPendingEach), anonymous: places.New(maxAnonymous, maxAnonymousEach), sessions: newGate(), calls: newGate()}
	m.tls = map[string]*tls.Config{
		identity.ALPNDial:   m.peerConfig(identity.ALPNDial, identity.User),
		identity.ALPNTunnel: m.peerConfig(identity.ALPNTunnel, identity.Node),
		"":                  m.webConfig(),
	}
	return m
}

// Counters tells what has come so far.
func (m *Mux) Counters() *Counters { return &m.counters }

// Run accepts until ctx ends. Then it closes the listener, lets sessions go on for at most Drain, ends the rest, and waits for all.
func (m *Mux) Run(ctx context.Context) error {
	serve, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	stop := context.AfterFunc(ctx, func() { m.cfg.Listener.Close() })
	defer stop()
	err := m.accept(ctx, serve)
	m.cfg.Listener.Close()
	m.drain()
	cancel()
	m.all.Wait()
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
		m.begin(serve, conn)
	}
}

// begin gives the connection a place among the pending ones, or closes it.
func (m *Mux) begin(ctx context.Context, conn net.Conn) {
	m.counters.Accepted.Add(1)
	release, ok := m.pending.Take(conn.RemoteAddr().String())
	if !ok {
		m.counters.Crowded.Add(1)
		conn.Close()
		return
	}
	m.all.Go(func() {
		defer release()
		defer m.recover(conn)
		m.serve(ctx, conn, release)
	})
}

// recover keeps one connection's panic from being everyone's.
func (m *Mux) recover(conn net.Conn) {
	if r := recover(); r != nil {
		m.counters.Panics.Add(1)
		m.cfg.Log.Error("panic while serving a connection", "from", conn.RemoteAddr(), "panic", r, "stack", string(debug.Stack()))
		conn.Close()
	}
}

// drain waits for what should not be cut short: sessions for Drain, calls to auth for callGrace.
func (m *Mux) drain() {
	sessions, calls := m.sessions.shut(), m.calls.shut()
	grace := time.NewTimer(callGrace)
	defer grace.Stop()
	timer := time.NewTimer(m.cfg.Drain)
	defer timer.Stop()
	select {
	case <-sessions:
	case <-timer.C:
		m.cfg.Log.Warn("sessions are cut: the time to drain is over", "after", m.cfg.Drain)
	}
	select {
	case <-calls:
	case <-grace.C:
	}
}

// serve finds out what conn speaks and hands it to whoever serves that. release gives up the place among the pending ones.
func (m *Mux) serve(ctx context.Context, conn net.Conn, release func()) {
	deadline := time.Now().Add(handshakeTimeout)
	stop := context.AfterFunc(ctx, func() { conn.Close() }) // at a shutdown nobody waits for the slow
	p, kind, offered, err := sniff(conn, deadline)
	stop()
	if err != nil {
		m.refuse(conn, "first bytes", err)
		return
	}
	_ = conn.SetReadDeadline(time.Time{})
	switch kind {
	case speaksSSH:
		m.counters.SSH.Add(1)
		m.sessions.within(p, func() { m.cfg.ServeSSH(ctx, p, release) })
	case speaksTLS:
		m.serveTLS(ctx, p, offered, deadline, release)
	case speaksHTTP:
		m.counters.ClearHTTP.Add(1)
		explainTLS(p)
	}
}

// refuse closes a connection that did not get as far as a server.
func (m *Mux) refuse(conn net.Conn, at string, err error) {
	var slow net.Error
	switch {
	case errors.As(err, &slow) && slow.Timeout() || errors.Is(err, context.DeadlineExceeded):
		m.counters.TimedOut.Add(1)
	default:
		m.counters.Refused.Add(1)
	}
	m.cfg.Log.Debug("connection refused", "from", conn.RemoteAddr(), "at", at, "err", err)
	conn.Close()
}
