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

// serveTLS routes by ALPN. Only threshold-auth is passed on unopened; for the rest TLS ends here.
func (m *Mux) serveTLS(ctx context.Context, v *pendingConn, offered []string) {
	name, err := chooseProtocol(offered)
	switch {
	case err != nil:
		m.refuse(v, "ALPN", err)
	case name == "":
		m.serveWeb(ctx, v)
	case name == challengeProtocol && m.cfg.Challenge != nil:
		m.serveChallenge(ctx, v)
	case name == identity.ALPNAuth:
		leave := m.anonymous.Admit(v.network, func() { m.drop(v) })
		defer leave()
		v.release()
		m.counters.Auth.Add(1)
		m.calls.serve(v, func() { m.passThrough(ctx, v.prefixedConn) })
	default:
		m.servePeer(ctx, v, name)
	}
}

// anonymousConn gives up its place when it is closed.
type anonymousConn struct {
	*prefixedConn
	release func()
}

func (l *anonymousConn) Close() error {
	l.release()
	return l.prefixedConn.Close()
}

// serveWeb ends TLS for somebody who stays unknown, as far as this room can tell.
func (m *Mux) serveWeb(ctx context.Context, v *pendingConn) {
	conn := &anonymousConn{
		prefixedConn: v.prefixedConn,
		release:      m.anonymous.Admit(v.network, func() { m.drop(v) }),
	}
	tc, err := handshake(ctx, conn, m.tlsConfigs[""], v.deadline)
	if err != nil {
		conn.Close()
		m.refuseConn(v, "TLS for the web", err, true)
		return
	}
	m.counters.Web.Add(1)
	m.cfg.ServeWeb(tc)
}

// serveChallenge shows an ACME authority the certificate that proves a name; there is nothing more to say
// (RFC 8737 section 3).
func (m *Mux) serveChallenge(ctx context.Context, v *pendingConn) {
	cfg := &tls.Config{
		MinVersion:     tls.VersionTLS12,
		NextProtos:     []string{challengeProtocol},
		GetCertificate: m.cfg.Challenge,
	}
	tc, err := handshake(ctx, v.prefixedConn, cfg, v.deadline)
	if err != nil {
		m.refuse(v, "ACME challenge", err)
		return
	}
	m.counters.Web.Add(1)
	tc.Close()
}

func (m *Mux) servePeer(ctx context.Context, v *pendingConn, name string) {
	cfg, ok := m.tlsConfigs[name]
	if !ok {
		m.refuse(v, "ALPN", errors.New("no such service: "+name))
		return
	}
	var peer identity.Peer
	tc, err := handshake(
		context.WithValue(ctx, peerContextKey{}, &peer),
		coalesce.UnderTLS(v.prefixedConn),
		cfg,
		v.deadline,
	)
	if err != nil {
		m.refuse(v, "TLS for "+name, err)
		return
	}
	m.markPeerKnown(v, peer.Identity)
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

// goServe serves in a goroutine of its own: the one that verified the peer has grown a stack of 16 kB or more
// for that, and a tunnel stands for days.
func (m *Mux) goServe(conn net.Conn, serve func()) {
	m.serving.Go(func() {
		defer m.recover(conn)
		serve()
	})
}

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

// peerContextKey finds, in a handshake's context, where the verified peer goes.
type peerContextKey struct{}

// peerConfig is for one of our own protocols: TLS 1.3, this proxy's service certificate, and a client
// certificate of the kind, verified under the rules of this moment. VerifyConnection runs for resumed
// sessions too. The clones that GetConfigForClient makes share the outer configuration's ticket keys, which
// live in this process alone and rotate.
func (m *Mux) peerConfig(alpn string, kind identity.Kind) *tls.Config {
	base := &tls.Config{
		MinVersion:     tls.VersionTLS13,
		NextProtos:     []string{alpn},
		ClientAuth:     tls.RequireAnyClientCert, // verified below
		Time:           m.cfg.Now,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return m.cfg.Service() },
	}
	outer := base.Clone()
	outer.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		into, ok := hello.Context().Value(peerContextKey{}).(*identity.Peer)
		if !ok {
			return nil, errors.New("no place for the peer's identity")
		}
		cfg := base.Clone()
		cfg.VerifyConnection = func(st tls.ConnectionState) error {
			return m.verifyPeer(st, alpn, kind, into)
		}
		return cfg, nil
	}
	return outer
}

func (m *Mux) verifyPeer(st tls.ConnectionState, alpn string, kind identity.Kind, into *identity.Peer) error {
	if st.NegotiatedProtocol != alpn {
		return certificateError{errors.New("the client did not agree to " + alpn), false}
	}
	trust := m.cfg.Rules.Current()
	roots := trust.Authorities.UserRoots
	if kind != identity.User {
		roots = trust.Authorities.ServiceRoots
	}
	now := m.cfg.Now()
	verify := func(at time.Time) (peer identity.Peer, err error) {
		return identity.VerifyX509(
			st.PeerCertificates,
			m.cfg.Cluster,
			roots,
			x509.ExtKeyUsageClientAuth,
			at,
			kind,
		)
	}
	peer, err := verify(now)
	if err != nil {
		return certificateError{
			err,
			identity.OnlyExpired(err, now, func(at time.Time) error { _, err := verify(at); return err }),
		}
	}
	*into = peer
	return nil
}

func (m *Mux) webConfig() *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		NextProtos:     []string{"h2", "http/1.1"},
		GetCertificate: m.cfg.Web,
	}
}

// answerClearHTTP answers someone who came with http:// to a port that speaks https.
func answerClearHTTP(conn net.Conn) {
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Second))
	_, _ = io.WriteString(
		conn,
		"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n"+
			"This port speaks HTTPS: put https:// in front of the address.\n",
	)
	_, _ = io.CopyN(io.Discard, conn, 4<<10) // so that the answer is not lost in a reset
}
