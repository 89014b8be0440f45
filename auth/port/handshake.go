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
	"github.com/threshold-access/threshold/internal/identity"
)

// clientConn is a connection with what its handshake showed of the client. The fields do not change after the
// handshake.
type clientConn struct {
	net.Conn
	peer  identity.Peer // Kind is authrpc.Anonymous for a client without a certificate
	from  net.Addr      // the client's address: the socket's, or the one that a proxy forwarded
	proxy string        // the name of the proxy that forwarded it; "" for a direct connection
	// proxyID is the id of that proxy. It is verified if proxy is set.
	proxyID identity.MachineID
	now     func() time.Time

	once    sync.Once // for release
	release func()    // gives back the connection's places in the port's bounds
}

// Close closes the connection and gives back its places. It may be called more than once.
func (c *clientConn) Close() error {
	err := c.Conn.Close()
	c.once.Do(c.release)
	return err
}

// connKey is the context key under which the HTTP server finds a request's *clientConn.
type connKey struct{}

// CallerOf returns who sent a request that came through a port. Expired is judged at the time of the request,
// not of the handshake, because a connection may outlive its certificate.
func CallerOf(r *http.Request) (authrpc.Caller, error) {
	conn, ok := r.Context().Value(connKey{}).(*clientConn)
	if !ok {
		return authrpc.Caller{}, authPortBypassed.New("port.CallerOf")
	}
	c := authrpc.Caller{
		Identity: conn.peer.Identity,
		Addr:     conn.from,
		Proxy:    conn.proxy,
		ProxyID:  conn.proxyID,
	}
	if cert := conn.peer.Cert; cert != nil {
		c.Key, c.Expired = cert.PublicKey, !conn.now().Before(cert.NotAfter)
		c.Serial = identity.Serial(cert.SerialNumber.Uint64())
	}
	return c, nil
}

// handshake reads the forwarded address, if there is one, and does TLS. The result says who the client is. It
// is never nil: also with an error it is a connection that has a place in conns, which the caller gives back
// by closing it.
func (p *Port) handshake(ctx context.Context, raw net.Conn, cfg RunConfig) (*clientConn, error) {
	client := &clientConn{Conn: raw, now: p.cfg.Now, release: func() { release(p.conns) }}
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	rest, err := client.readForwarded(ctx, raw, cfg)
	if err != nil {
		return client, err
	}
	tlsConn := tls.Server(rest, p.tlsConfig(cfg, client))
	if err := tlsConn.HandshakeContext(ctx); err != nil {
		return client, err
	}
	client.Conn = tlsConn
	if client.peer.Kind != authrpc.Anonymous {
		return client, nil
	}
	p.counts.anonymous.Add(1)
	remove := p.anonymous.add(raw)
	client.release = func() { remove(); release(p.conns) }
	return client, nil
}

// readForwarded sets the client's address, and the proxy's name if the connection came through a proxy. A
// proxy that passes a connection to auth unopened signs the client's address in front of it. Without such a
// forwarded address the client's address is the socket's. The result is a connection that begins behind the
// forwarded address, with TLS. A forwarded address that is not signed by a proxy on record is an error:
// anyone could else choose the address that source-address rules and the audit log see.
func (c *clientConn) readForwarded(ctx context.Context, raw net.Conn, cfg RunConfig) (net.Conn, error) {
	c.from = raw.RemoteAddr()
	stop := context.AfterFunc(ctx, func() { _ = raw.SetReadDeadline(time.Now()) })
	defer stop() // if ctx ends first, the deadline in the past ends the read
	rest, forwarded, err := authrpc.ReadForwardedFrom(raw)
	if err != nil || forwarded == nil {
		return rest, err
	}
	c.from = net.TCPAddrFromAddrPort(forwarded.Addr)
	c.proxy, err = cfg.VerifyForwarded(ctx, *forwarded)
	c.proxyID = forwarded.ProxyID
	return rest, err
}

// allowedKinds has for each protocol the kinds of clients that may connect with a certificate. Only auth
// replicas use raft.
var allowedKinds = map[string][]identity.Kind{
	identity.ALPNAuth: {identity.User, identity.Node, identity.Proxy, identity.Auth},
	identity.ALPNRaft: {identity.Auth},
}

// tlsConfig is the configuration of one handshake. The handshake sets c.peer.
func (p *Port) tlsConfig(cfg RunConfig, c *clientConn) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			alpn, err := chooseALPN(hello.SupportedProtos)
			if err != nil {
				return nil, err
			}
			return p.tlsConfigFor(alpn, cfg, c), nil
		},
	}
}

// tlsConfigFor is the configuration of one handshake for the protocol that the client has chosen. During the
// handshake it verifies the client's certificate and sets client.peer to who the client is.
func (p *Port) tlsConfigFor(alpn string, cfg RunConfig, client *clientConn) *tls.Config {
	own := func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return cfg.Certificate(), nil }
	out := &tls.Config{
		MinVersion:     tls.VersionTLS13,
		NextProtos:     []string{alpn},
		Time:           p.cfg.Now,
		GetCertificate: own,
		// crypto/tls only asks for the certificate. VerifyConnection verifies it, because the roots depend on
		// the kind of the client.
		ClientAuth: tls.RequestClientCert,
		// A resumed session would skip the verification of the certificate.
		SessionTicketsDisabled: true,
		VerifyConnection: func(st tls.ConnectionState) (err error) {
			client.peer, err = cfg.verifyClient(alpn, st.PeerCertificates, p.cfg.Now())
			return err
		},
	}
	if alpn == identity.ALPNRaft {
		out.ClientAuth = tls.RequireAnyClientCert
	}
	return out
}

// chooseALPN returns the one protocol that the client offers. It is an error to offer none of auth's, or
// several: a connection that was meant for one protocol must not be led to the other.
func chooseALPN(offered []string) (string, error) {
	if len(offered) != 1 || allowedKinds[offered[0]] == nil {
		return "", fmt.Errorf(
			"the client offers the protocols %.100q, and must offer exactly one of auth's", offered)
	}
	return offered[0], nil
}

// verifyClient verifies the client's certificate and returns who the client is. A client of the API may have
// no certificate; then the result is the zero Peer, whose Kind is authrpc.Anonymous.
//
// A certificate that has expired is verified a second time, as of its last second. So expiry is the only
// thing that can be wrong with it: CallerOf reports that, and authrpc.Server decides what an expired caller
// may do.
func (cfg RunConfig) verifyClient(
	alpn string,
	chain []*x509.Certificate,
	now time.Time,
) (identity.Peer, error) {
	if len(chain) == 0 && alpn == identity.ALPNAuth {
		return identity.Peer{}, nil
	}
	verify := func(at time.Time) (identity.Peer, error) {
		return cfg.Roots.VerifyX509(chain, cfg.Cluster, x509.ExtKeyUsageClientAuth, at, allowedKinds[alpn]...)
	}
	peer, err := verify(now)
	var expired *identity.ExpiredError
	if errors.As(err, &expired) && !now.Before(expired.Until) { // else it is not valid yet
		return verify(expired.Until.Add(-time.Second))
	}
	return peer, err
}
