package tsh

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/coalesce"
	"github.com/threshold-access/threshold/internal/dial"
	"github.com/threshold-access/threshold/internal/egress"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/tsh/profile"
)

// connectTime bounds the way to the proxy, TLS included.
const connectTime = 15 * time.Second

// proxyDialer is the way to proxies, as the environment says it, and why it cannot be gone if it says
// nonsense.
type proxyDialer struct {
	egress *egress.Dialer
	err    error
}

func newProxyDialer(getenv func(string) string) proxyDialer {
	way, err := egress.New(egress.ConfigFromEnv(getenv))
	if err != nil {
		return proxyDialer{&egress.Dialer{}, err}
	}
	return proxyDialer{way, nil}
}

// DialTLS makes outward an authrpc.Way.
func (o proxyDialer) DialTLS(ctx context.Context, addr string, cfg *tls.Config) (*tls.Conn, error) {
	if o.err != nil {
		return nil, o.err
	}
	return o.egress.DialTLS(ctx, addr, cfg)
}

// dialContext is for the web: what comes back is not yet TLS.
func (o proxyDialer) dialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	if o.err != nil {
		return nil, o.err
	}
	return o.egress.DialContext(ctx, network, addr)
}

// dialTLS connects to a proxy and finishes the handshake.
func (a *app) dialTLS(ctx context.Context, addr string, cfg *tls.Config) (*tls.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTime)
	defer cancel()
	conn, err := a.dialer.DialTLS(ctx, addr, cfg)
	if err != nil {
		return nil, tlsFault(addr, err)
	}
	return conn, nil
}

// tlsFault says what a person should do about a TLS connection that did not come about, or that the proxy
// ended at once.
func tlsFault(addr string, err error) error {
	var pin *identity.PinError
	var old *identity.ExpiredError
	var alert tls.AlertError
	var remote *net.OpError
	var said *fault.Error
	switch {
	case errors.Is(err, context.Canceled):
		return context.Canceled
	case errors.As(err, &said): // what stands on the way has its own words
		return said
	case errors.As(err, &pin):
		return fault.Wrap(
			err,
			fault.Denied,
			"",
			addr+" is not the cluster with "+pin.Want.String()+": it was rebuilt, or somebody stands in between",
			"ask an administrator for the cluster's pin, then: tsh login --proxy "+addr+" --pin sha256:…",
		)
	case errors.As(err, &old):
		return fault.Wrap(
			err,
			fault.Expired,
			"",
			"the server's "+old.Error(),
			"check this machine's clock; if it is right, tell an administrator",
		)
	case errors.As(err, &remote) && remote.Op == "remote error", errors.As(err, &alert):
		return fault.Wrap(
			err,
			fault.Unauthenticated,
			"",
			"the proxy does not accept this login's certificate",
			"run: tsh login; if that fails too, check the address",
		)
	}
	return unreachable(addr, err)
}

// auth is a client of auth that shows the login's certificate.
func (a *app) auth(p *profile.Profile) *authrpc.Client {
	return authrpc.NewClientWithDialer(
		a.dialer,
		p.Proxy,
		identity.PinnedTLS(p.Pin, p.Cluster, identity.ALPNAuth, certificate(p), a.Now, identity.Auth),
	)
}

func certificate(p *profile.Profile) func() (*tls.Certificate, error) {
	return func() (*tls.Certificate, error) { return &p.X509, nil }
}

// nodeConn is a connection to a node by way of the proxy. The request travels with the first Write; a refusal
// is what the first Read returns, and stays in refused, because layers above may swallow it.
type nodeConn struct {
	net.Conn
	tls  *tls.Conn
	addr string

	mu  sync.Mutex // guards why
	why error
}

// dialNode asks the proxy for a node by its whole name.
func (a *app) dialNode(ctx context.Context, p *profile.Profile, name string) (*nodeConn, error) {
	conn, err := a.dialTLS(
		ctx,
		p.Proxy,
		identity.PinnedTLS(p.Pin, p.Cluster, identity.ALPNDial, certificate(p), a.Now, identity.Proxy),
	)
	if err != nil {
		return nil, err
	}
	return &nodeConn{
		Conn: dial.Client(coalesce.Conn(conn), dial.Request{Node: name}),
		tls:  conn,
		addr: p.Proxy,
	}, nil
}

func (c *nodeConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if err != nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.why == nil {
			c.why = refusal(c.addr, err)
		}
	}
	return n, err
}

// refused is why the proxy gave no connection to the node, or nil.
func (c *nodeConn) refused() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.why
}

// refusal is the fault in what a first Read returned, or nil: an end of the stream is none.
func refusal(addr string, err error) error {
	var f *fault.Error
	var remote *net.OpError
	switch {
	case errors.As(err, &f):
		return &refusedError{f}
	case errors.As(err, &remote) && remote.Op == "remote error":
		return tlsFault(addr, err) // TLS 1.3 refuses a client certificate after the handshake
	}
	return nil
}

// refusedError is the proxy's answer to a dial request, told apart from a proxy that gave none.
type refusedError struct{ fault *fault.Error }

func (e *refusedError) Error() string { return e.fault.Error() }

func (e *refusedError) Unwrap() error { return e.fault }

// CloseWrite tells the node that no more comes; what it still sends can be read.
func (c *nodeConn) CloseWrite() error {
	if _, err := c.Write(nil); err != nil { // the request, should nothing have been written yet
		return err
	}
	return c.tls.CloseWrite()
}
