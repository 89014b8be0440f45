package port

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

// clientConn is a connection that has passed the handshake, and who is at its other end.
type clientConn struct {
	net.Conn
	peer  identity.Peer // Kind is empty for one without a certificate
	from  net.Addr      // the client's address: the peer's, or what the proxy that passes it through says
	proxy string        // that proxy's name
	now   func() time.Time

	once    sync.Once
	release func() // gives back the places the connection took
}

func (g *clientConn) Close() error {
	err := g.Conn.Close()
	g.once.Do(g.release)
	return err
}

type connKey struct{}

// CallerOf tells who sent a request that came through a port. A certificate that ended while the connection
// lasted has ended.
func CallerOf(r *http.Request) (authrpc.Caller, error) {
	g, ok := r.Context().Value(connKey{}).(*clientConn)
	if !ok {
		return authrpc.Caller{}, fault.New(
			fault.Unauthenticated,
			"port.CallerOf",
			"the request came by no known door",
			"call auth at its port",
		)
	}
	c := authrpc.Caller{Identity: g.peer.Identity, Addr: g.from, Proxy: g.proxy}
	if g.peer.Cert != nil {
		c.Key, c.Expired = g.peer.Cert.PublicKey, !g.now().Before(g.peer.Cert.NotAfter)
	}
	return c, nil
}

// readForwarded takes off what a proxy says in front of a connection that it passes through. What no proxy on
// record has signed refuses the connection.
func (g *clientConn) readForwarded(ctx context.Context, raw net.Conn, terms RunConfig) (net.Conn, error) {
	g.from = raw.RemoteAddr()
	stop := context.AfterFunc(ctx, func() { _ = raw.SetReadDeadline(time.Now()) })
	defer stop()
	conn, said, err := authrpc.ReadForwardedFrom(raw)
	if err != nil || said == nil {
		return conn, err
	}
	g.from = net.TCPAddrFromAddrPort(said.Addr)
	g.proxy, err = terms.VerifyForwarded(ctx, *said)
	return conn, err
}

// allowedKinds are who may show a certificate to each protocol. A node must not speak raft.
var allowedKinds = map[string][]identity.Kind{
	identity.ALPNAuth: {identity.User, identity.Node, identity.Proxy, identity.Auth},
	identity.ALPNRaft: {identity.Auth},
}

// tlsConfig is the configuration of one handshake, which notes in g who came.
func (p *Port) tlsConfig(terms RunConfig, g *clientConn) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			alpn, err := chooseALPN(hello.SupportedProtos)
			if err != nil {
				return nil, err
			}
			return p.tlsConfigFor(alpn, terms, g), nil
		},
	}
}

func (p *Port) tlsConfigFor(alpn string, terms RunConfig, g *clientConn) *tls.Config {
	cfg := &tls.Config{
		MinVersion:     tls.VersionTLS13,
		NextProtos:     []string{alpn},
		Time:           p.cfg.Now,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return terms.Certificate(), nil },
		// What is shown is verified below: by tree, kind and cluster in place of one set of roots.
		ClientAuth: tls.RequestClientCert,
		// A resumed session would skip that.
		SessionTicketsDisabled: true,
		VerifyConnection: func(st tls.ConnectionState) (err error) {
			g.peer, err = terms.verifyClient(alpn, st.PeerCertificates, p.cfg.Now())
			return err
		},
	}
	if alpn == identity.ALPNRaft {
		cfg.ClientAuth = tls.RequireAnyClientCert
	}
	return cfg
}

// chooseALPN refuses a client that offers no protocol of ours, or several: it must know to whom it speaks.
func chooseALPN(offered []string) (string, error) {
	if len(offered) != 1 || allowedKinds[offered[0]] == nil {
		return "", fmt.Errorf(
			"the client offers the protocols %.100q, and must offer exactly one that auth speaks",
			offered,
		)
	}
	return offered[0], nil
}

// verifyClient verifies the client's certificate. One that has ended is verified as of its last second: that
// it ended is then all that is wrong with it.
func (t RunConfig) verifyClient(
	alpn string,
	chain []*x509.Certificate,
	now time.Time,
) (identity.Peer, error) {
	if len(chain) == 0 && alpn == identity.ALPNAuth {
		return identity.Peer{}, nil
	}
	trust := t.Roots()
	peer, err := trust.VerifyX509(chain, t.Cluster, x509.ExtKeyUsageClientAuth, now, allowedKinds[alpn]...)
	var old *identity.ExpiredError
	if errors.As(err, &old) && !now.Before(old.Until) {
		return trust.VerifyX509(
			chain,
			t.Cluster,
			x509.ExtKeyUsageClientAuth,
			old.Until.Add(-time.Second),
			allowedKinds[alpn]...)
	}
	return peer, err
}
