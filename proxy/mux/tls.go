package mux

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"time"

	"github.com/threshold-access/threshold/internal/coalesce"
	"github.com/threshold-access/threshold/internal/identity"
)

// serveTLS routes a TLS connection by the ALPN names that the client offers. TLS ends here for every
// protocol but threshold-auth, which is passed through.
func (m *Mux) serveTLS(ctx context.Context, p *pendingConn, offered []string) {
	name, err := chooseProtocol(offered)
	switch {
	case err != nil:
		m.refuse(p, "ALPN", err)
	case name == "":
		m.serveWeb(ctx, p)
	case name == challengeProtocol && m.cfg.Challenge != nil:
		m.serveChallenge(ctx, p)
	case name == identity.ALPNAuth:
		release := m.anonymous.Admit(p.network, func() { m.drop(p) })
		defer release()
		p.release()
		m.counters.Auth.Add(1)
		m.calls.serve(p, func() { m.passThrough(ctx, p.clientConn) })
	default:
		m.servePeer(ctx, p, name)
	}
}

// anonymousConn gives its anonymous slot back when it is closed.
type anonymousConn struct {
	*clientConn
	release func() // may be called more than once
}

func (c *anonymousConn) Close() error {
	c.release()
	return c.clientConn.Close()
}

// serveWeb ends TLS for a browser. The peer stays unknown to mux.
func (m *Mux) serveWeb(ctx context.Context, p *pendingConn) {
	conn := &anonymousConn{
		clientConn: p.clientConn,
		release:    m.anonymous.Admit(p.network, func() { m.drop(p) }),
	}
	tc, err := handshake(ctx, conn, m.tlsConfigs[""], p.deadline)
	if err != nil {
		conn.Close()
		m.refuseConn(p, "TLS for the web", err, true)
		return
	}
	m.counters.Web.Add(1)
	m.cfg.ServeWeb(tc)
}

// serveChallenge shows an ACME authority the certificate that proves a name. The handshake is all there is
// to the protocol (RFC 8737 section 3).
func (m *Mux) serveChallenge(ctx context.Context, p *pendingConn) {
	cfg := &tls.Config{
		MinVersion:     tls.VersionTLS12,
		NextProtos:     []string{challengeProtocol},
		GetCertificate: m.cfg.Challenge,
	}
	tc, err := handshake(ctx, p.clientConn, cfg, p.deadline)
	if err != nil {
		m.refuse(p, "ACME challenge", err)
		return
	}
	m.counters.Web.Add(1)
	tc.Close()
}

// servePeer verifies the peer in a TLS handshake and hands it to the server of the protocol name.
func (m *Mux) servePeer(ctx context.Context, p *pendingConn, name string) {
	cfg, ok := m.tlsConfigs[name]
	if !ok {
		m.refuse(p, "ALPN", errors.New("no such protocol: "+name))
		return
	}
	var peer identity.Peer
	peerCtx := context.WithValue(ctx, peerContextKey{}, &peer)
	tc, err := handshake(peerCtx, coalesce.UnderTLS(p.clientConn), cfg, p.deadline)
	if err != nil {
		m.refuse(p, "TLS for "+name, err)
		return
	}
	m.markPeerKnown(p, peer.Identity)
	if name == identity.ALPNTunnel {
		m.counters.Tunnel.Add(1)
		if serve := m.cfg.ServeTunnel(ctx, tc, peer); serve != nil {
			m.goServe(tc, serve)
		}
		return
	}
	m.counters.Dial.Add(1)
	m.goServe(tc, func() { m.sessions.serve(tc, func() { m.cfg.ServeDial(ctx, tc, peer) }) })
}

// goServe calls serve in a new goroutine, which m.serving waits for. Verifying the peer has grown the stack
// of the present goroutine to 16 kB or more, and a tunnel stands for days.
func (m *Mux) goServe(conn net.Conn, serve func()) {
	m.serving.Go(func() {
		defer m.recover(conn)
		serve()
	})
}

// handshake does the server side of a TLS handshake. It leaves conn open after an error.
func handshake(ctx context.Context, conn net.Conn, cfg *tls.Config, deadline time.Time) (*tls.Conn, error) {
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	tc := tls.Server(conn, cfg)
	if err := tc.HandshakeContext(ctx); err != nil {
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			err = ctx.Err()
		}
		return nil, err
	}
	return tc, nil
}

// peerContextKey is the key of the *identity.Peer, in the context of a handshake, that verifyPeer fills.
type peerContextKey struct{}

// peerConfig is the TLS configuration for a threshold-* protocol: TLS 1.3, the service certificate of this
// proxy, and a client certificate of the given kind.
//
// Each handshake gets a clone of base whose VerifyConnection verifies the peer under the rules in force at
// that moment, also when a session is resumed. The clones share the session ticket keys of the outer
// configuration, which exist only in this process and rotate.
func (m *Mux) peerConfig(alpn string, kind identity.Kind) *tls.Config {
	base := &tls.Config{
		MinVersion:     tls.VersionTLS13,
		NextProtos:     []string{alpn},
		ClientAuth:     tls.RequireAnyClientCert, // verifyPeer verifies it
		Time:           m.cfg.Now,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return m.cfg.Service() },
	}
	outer := base.Clone()
	outer.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		peer, ok := hello.Context().Value(peerContextKey{}).(*identity.Peer)
		if !ok {
			return nil, errors.New("the handshake context has no place for the peer's identity")
		}
		cfg := base.Clone()
		cfg.VerifyConnection = func(state tls.ConnectionState) error {
			return m.verifyPeer(state, alpn, kind, peer)
		}
		return cfg, nil
	}
	return outer
}

// verifyPeer verifies the client certificate and stores the identity in peer. Its errors are
// certificateErrors.
func (m *Mux) verifyPeer(
	state tls.ConnectionState, alpn string, kind identity.Kind, peer *identity.Peer,
) error {
	if state.NegotiatedProtocol != alpn {
		return certificateError{errors.New("the client did not agree to " + alpn), false}
	}
	trust := m.cfg.Rules.Current()
	roots := trust.Authorities.UserRoots
	if kind != identity.User {
		roots = trust.Authorities.ServiceRoots
	}
	verifyAt := func(t time.Time) (identity.Peer, error) {
		chain, usage := state.PeerCertificates, x509.ExtKeyUsageClientAuth
		return identity.VerifyX509(chain, m.cfg.Cluster, roots, usage, t, kind)
	}
	now := m.cfg.Now()
	verified, err := verifyAt(now)
	if err != nil {
		check := func(t time.Time) error { _, err := verifyAt(t); return err }
		expired := identity.OnlyExpired(err, now, check)
		return certificateError{err, expired}
	}
	*peer = verified
	return nil
}

func (m *Mux) webConfig() *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		NextProtos:     []string{"h2", "http/1.1"},
		GetCertificate: m.cfg.Web,
	}
}

// clearHTTPAnswer is for a client that sent HTTP without TLS.
const clearHTTPAnswer = "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\n" +
	"Connection: close\r\n\r\n" +
	"This port speaks HTTPS. Put https:// in front of the address.\n"

func answerClearHTTP(conn net.Conn) {
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Second))
	_, _ = io.WriteString(conn, clearHTTPAnswer)
	// Closing with unread bytes would send a reset, and the client could lose the answer.
	_, _ = io.CopyN(io.Discard, conn, 4<<10)
}
