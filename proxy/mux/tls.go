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

// serveTLS serves a TLS connection by the ALPN names that its ClientHello offers. The handshake is done here
// for every protocol but threshold-auth, whose bytes are passed through to the auth service.
func (m *Mux) serveTLS(ctx context.Context, conn *pendingConn, offered []string) {
	name, err := chooseProtocol(offered)
	switch {
	case err != nil:
		m.refuse(conn, "ALPN", err)
	case name == "":
		m.serveWeb(ctx, conn)
	case name == challengeProtocol && m.cfg.Challenge != nil:
		m.serveChallenge(ctx, conn)
	case name == identity.ALPNAuth:
		// The peer stays unknown to the proxy. So the anonymous slot replaces the pending one, and is taken
		// first: the connection is never without a slot.
		release := m.anonymous.Admit(conn.network, func() { m.drop(conn) })
		defer release()
		conn.release()
		m.counters.Auth.Add(1)
		m.calls.serve(conn, func() { m.passThrough(ctx, conn.clientConn) })
	default:
		m.servePeer(ctx, conn, name)
	}
}

// anonymousConn is a connection of a browser. It gives its anonymous slot back when it is closed.
type anonymousConn struct {
	*clientConn
	release func() // may be called more than once
}

func (c *anonymousConn) Close() error {
	c.release()
	return c.clientConn.Close()
}

// serveWeb does the TLS handshake with a browser and hands the connection to ServeWeb. It returns before the
// connection has ended: anonymousConn gives the slot back. Browsers show no certificate, so the peer stays
// unknown to mux.
func (m *Mux) serveWeb(ctx context.Context, conn *pendingConn) {
	anonymous := &anonymousConn{
		clientConn: conn.clientConn,
		release:    m.anonymous.Admit(conn.network, func() { m.drop(conn) }),
	}
	tlsConn, err := handshake(ctx, anonymous, m.tlsConfigs[""], conn.deadline)
	if err != nil {
		anonymous.Close()
		m.refuseConn(conn, "TLS for the web", err, true /* anonymous */)
		return
	}
	m.counters.Web.Add(1)
	m.cfg.ServeWeb(tlsConn)
}

// serveChallenge shows an ACME authority the certificate that proves control of a name, and closes the
// connection: the protocol consists of the TLS handshake (RFC 8737 section 3).
func (m *Mux) serveChallenge(ctx context.Context, conn *pendingConn) {
	cfg := &tls.Config{
		MinVersion:     tls.VersionTLS12,
		NextProtos:     []string{challengeProtocol},
		GetCertificate: m.cfg.Challenge,
	}
	tlsConn, err := handshake(ctx, conn.clientConn, cfg, conn.deadline)
	if err != nil {
		m.refuse(conn, "ACME challenge", err)
		return
	}
	m.counters.Web.Add(1)
	tlsConn.Close()
}

// servePeer does the TLS handshake of a threshold-* protocol, in which verifyPeer verifies the peer's
// certificate, and starts the server of that protocol with the verified identity. name is the ALPN name. It
// refuses a protocol that does not exist and a peer without a valid certificate.
func (m *Mux) servePeer(ctx context.Context, conn *pendingConn, name string) {
	cfg, ok := m.tlsConfigs[name]
	if !ok {
		m.refuse(conn, "ALPN", errors.New("no such protocol: "+name))
		return
	}
	var peer identity.Peer // verifyPeer sets it during the handshake
	peerCtx := context.WithValue(ctx, peerContextKey{}, &peer)
	tlsConn, err := handshake(peerCtx, coalesce.UnderTLS(conn.clientConn), cfg, conn.deadline)
	if err != nil {
		m.refuse(conn, "TLS for "+name, err)
		return
	}
	m.markPeerKnown(conn, peer.Identity)
	if name == identity.ALPNTunnel {
		m.counters.Tunnel.Add(1)
		if serve := m.cfg.ServeTunnel(ctx, tlsConn, peer); serve != nil {
			m.goServe(tlsConn, serve)
		}
		return
	}
	m.counters.Dial.Add(1)
	m.goServe(tlsConn, func() { m.sessions.serve(tlsConn, func() { m.cfg.ServeDial(ctx, tlsConn, peer) }) })
}

// goServe calls serve in a new goroutine, which m.serving counts, so that the present goroutine can end. Its
// stack has grown to 16 kB or more while it verified the peer, and a tunnel stays open for days.
func (m *Mux) goServe(conn net.Conn, serve func()) {
	m.serving.Go(func() {
		defer m.recover(conn)
		serve()
	})
}

// handshake does the server side of a TLS handshake, until deadline at most. After an error the caller closes
// conn. Once the deadline has passed the error is context.DeadlineExceeded, whatever crypto/tls reports, so
// that costOf recognises a timeout.
func handshake(ctx context.Context, conn net.Conn, cfg *tls.Config, deadline time.Time) (*tls.Conn, error) {
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	tlsConn := tls.Server(conn, cfg)
	if err := tlsConn.HandshakeContext(ctx); err != nil {
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			err = ctx.Err()
		}
		return nil, err
	}
	return tlsConn, nil
}

// peerContextKey is the key of the *identity.Peer, in the context of a handshake, that verifyPeer fills.
type peerContextKey struct{}

// peerConfig is the TLS configuration for a threshold-* protocol: TLS 1.3, the service certificate of this
// proxy, and a client certificate of the given kind.
//
// Each handshake gets its own clone of base. The clone's VerifyConnection verifies the peer under the rules
// in force at that moment, and stores the identity where the context of the handshake says. crypto/tls also
// calls VerifyConnection when a session is resumed, so a peer that was removed since cannot come back with a
// session ticket. All clones use the session ticket keys of the outer configuration, which exist only in this
// process and rotate.
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

// verifyPeer verifies the client certificate of a handshake and stores the identity in peer. The certificate
// must be of the given kind (user or node) and signed by an authority in force, and the handshake must have
// negotiated alpn. Every error is a certificateError.
func (m *Mux) verifyPeer(
	state tls.ConnectionState, alpn string, kind identity.Kind, peer *identity.Peer,
) error {
	if state.NegotiatedProtocol != alpn {
		return certificateError{error: errors.New("the client did not agree to " + alpn)}
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
		return certificateError{error: err, expired: identity.OnlyExpired(err, now, check)}
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

// clearHTTPAnswer is the answer to HTTP without TLS.
const clearHTTPAnswer = "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\n" +
	"Connection: close\r\n\r\n" +
	"This port serves HTTPS only. Put https:// in front of the address.\n"

// answerClearHTTP sends clearHTTPAnswer and closes conn. It takes at most a second.
func answerClearHTTP(conn net.Conn) {
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Second))
	_, _ = io.WriteString(conn, clearHTTPAnswer)
	// Closing with unread bytes would send a reset, and the client could lose the answer.
	_, _ = io.CopyN(io.Discard, conn, 4<<10)
}
