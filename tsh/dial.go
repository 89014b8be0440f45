package tsh

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/coalesce"
	"github.com/threshold-access/threshold/internal/dial"
	"github.com/threshold-access/threshold/internal/egress"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/wire"
	"github.com/threshold-access/threshold/tsh/profile"
)

const (
	// connectTime bounds a connection to the proxy, its TLS handshake included.
	connectTime = 15 * time.Second
	// nextProxyTime is connectTime where there is another proxy to try.
	nextProxyTime = 5 * time.Second
)

// proxyDialer opens connections to Threshold proxies, through an HTTP proxy if the environment names one. err
// is what is wrong with that part of the environment, or nil. Each connection fails with it, so that commands
// that need no connection still work.
type proxyDialer struct {
	egress *egress.Dialer
	err    error
}

// newProxyDialer returns a dialer that obeys HTTPS_PROXY and NO_PROXY.
func newProxyDialer(getenv func(string) string) proxyDialer {
	dialer, err := egress.New(egress.ConfigFromEnv(getenv))
	if err != nil {
		return proxyDialer{egress: &egress.Dialer{}, err: err}
	}
	return proxyDialer{egress: dialer}
}

// DialTLS implements authrpc.Dialer.
func (d proxyDialer) DialTLS(ctx context.Context, addr string, cfg *tls.Config) (*tls.Conn, error) {
	if d.err != nil {
		return nil, d.err
	}
	return d.egress.DialTLS(ctx, addr, cfg)
}

// DialContext opens a connection without TLS, for net/http, which adds it.
func (d proxyDialer) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	if d.err != nil {
		return nil, d.err
	}
	return d.egress.DialContext(ctx, network, addr)
}

// reach opens a TLS connection to the first proxy of the login that can be reached, in the order of the
// profile, and returns its address. The proxy that was reached last is tried first. check may refuse a proxy
// by a proxyLocked fault, and then the next one is tried; nil accepts all. If none is left, reach returns
// such a fault, or, if there was none, the error and the address of the first proxy that it tried. An error
// other than that a proxy is locked or cannot be reached, as when one belongs to another cluster, is returned
// at once. tlsFault understands the error.
func (a *app) reach(
	ctx context.Context,
	prof *profile.Profile,
	cfg *tls.Config,
	check func(*tls.Conn) error,
) (conn *tls.Conn, addr string, err error) {
	begin := int(a.reached.Load())
	for i := range prof.Proxies {
		index := (begin + i) % len(prof.Proxies)
		proxy := prof.Proxies[index].Address
		isLast := i == len(prof.Proxies)-1
		limit := nextProxyTime
		if isLast {
			limit = connectTime
		}
		tried, failed := a.dialWithin(ctx, limit, proxy, cfg)
		if failed == nil && check != nil {
			if failed = check(tried); failed != nil {
				_ = tried.Close()
			}
		}
		isLocked := fault.CodeOf(failed) == proxyLocked.Name
		switch {
		case failed == nil:
			a.reached.Store(int32(index))
			return tried, proxy, nil
		case ctx.Err() != nil || !isLocked && !fault.Is(tlsFault(proxy, failed), fault.Unavailable):
			return nil, proxy, failed
		case err == nil || isLocked:
			addr, err = proxy, failed
		}
		if isLocked && !isLast {
			fmt.Fprintf(a.Stderr, "tsh: %s; trying the next proxy\n", fault.Message(failed))
		}
	}
	return nil, addr, err
}

// dialWithin is DialTLS with a bound on its time.
func (a *app) dialWithin(
	ctx context.Context, limit time.Duration, addr string, cfg *tls.Config,
) (*tls.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return a.dialer.DialTLS(ctx, addr, cfg)
}

// loginDialer implements authrpc.Dialer by reach.
type loginDialer struct {
	app  *app
	prof *profile.Profile
}

// DialTLS ignores the address, which is that of the first proxy.
func (d loginDialer) DialTLS(ctx context.Context, _ string, cfg *tls.Config) (*tls.Conn, error) {
	// The TLS connection is one to the auth service, so the proxy on the way is not known, and reads nothing.
	conn, _, err := d.app.reach(ctx, d.prof, cfg, nil)
	return conn, err
}

// dialTLS connects to a proxy and finishes the handshake.
func (a *app) dialTLS(ctx context.Context, addr string, cfg *tls.Config) (*tls.Conn, error) {
	conn, err := a.dialWithin(ctx, connectTime, addr, cfg)
	if err != nil {
		return nil, tlsFault(addr, err)
	}
	return conn, nil
}

// tlsFault returns the fault for err, the error of a TLS connection to the proxy at addr: Denied if the
// server belongs to a cluster other than the pinned one, Expired for a server certificate that is not valid
// now, Unauthenticated if the server refuses the client certificate, and Unavailable if there is no
// connection. If err is a fault already, from an HTTP proxy on the way, it is returned unchanged. It returns
// context.Canceled if the user interrupted tsh.
func tlsFault(addr string, err error) error {
	var pin *identity.PinError
	var expired *identity.ExpiredError
	var alert tls.AlertError
	var f *fault.Error
	switch {
	case errors.Is(err, context.Canceled):
		return context.Canceled
	case errors.As(err, &f):
		return f
	case errors.As(err, &pin):
		return proxyPinWrong.Wrap(err, "", fault.Args{"proxy": addr, "pin": pin.Want.String()})
	case errors.As(err, &expired):
		return proxyCertificateExpired.Wrap(err, "", fault.Args{"why": expired.Error()})
	case isRemoteAlert(err), errors.As(err, &alert): // crypto/tls reports an alert in either form
		return loginCertificateRefused.Wrap(err, "")
	}
	return unreachableFault(addr, err)
}

// isRemoteAlert reports whether err is a TLS alert that the server sent. crypto/tls wraps it so.
func isRemoteAlert(err error) bool {
	var opErr *net.OpError
	return errors.As(err, &opErr) && opErr.Op == "remote error"
}

// auth returns a client of the auth service that shows the login's certificate.
func (a *app) auth(prof *profile.Profile) *authrpc.Client {
	cert := certificate(prof)
	cfg := identity.PinnedTLS(prof.Pin, prof.Cluster, identity.ALPNAuth, cert, a.Now, identity.Auth)
	return authrpc.NewClientWithDialer(loginDialer{a, prof}, prof.FirstProxy().Address, cfg)
}

// certificate is the callback by which TLS gets the client certificate of the login.
func certificate(prof *profile.Profile) func() (*tls.Certificate, error) {
	return func() (*tls.Certificate, error) { return &prof.X509, nil }
}

// nodeConn is a connection to a node through the proxy. The first Write sends the dial request before its
// bytes. If the proxy refuses the request, the first Read returns the refusal as its error. nodeConn keeps
// the refusal for refused, because SSH, which calls Read, replaces that error by one of its own.
//
// The first Read also takes the locks of machines from the proxy's reply, so that they count already for this
// connection: the node's host certificate comes after the reply.
type nodeConn struct {
	*dial.NodeConn
	tls   *tls.Conn
	addr  string // of the proxy
	locks *machineLocks

	learned sync.Once
	learn   func() error // takes the locks from the reply; an error if this proxy is locked by them
	locked  error        // what learn has returned; set within learned

	mu      sync.Mutex // guards refusal: SSH reads in a goroutine of its own
	refusal error      // the first refusal; nil: none so far
}

// dialNode connects to the proxy and prepares a dial request for the node with this whole name. It does not
// wait for the proxy's answer: a refusal is the error of the first Read. features is what the SSH client that
// will use the connection understands.
func (a *app) dialNode(
	ctx context.Context, prof *profile.Profile, name string, features wire.Features,
) (*nodeConn, error) {
	cert := certificate(prof)
	cfg := identity.PinnedTLS(prof.Pin, prof.Cluster, identity.ALPNDial, cert, a.Now, identity.Proxy)
	locks := a.machineLocks(prof)
	conn, addr, err := a.reach(ctx, prof, cfg, locks.checkProxy)
	if err != nil {
		return nil, tlsFault(addr, err)
	}
	held := locks.current().Revision()
	request := dial.Request{Node: name, Features: features, MachineLocks: &held}
	stream := dial.Client(coalesce.Conn(conn), request)
	learn := func() error {
		locks.learn(ctx, stream.Reply())
		return locks.checkProxy(conn)
	}
	return &nodeConn{NodeConn: stream, tls: conn, addr: addr, locks: locks, learn: learn}, nil
}

// Read stores the first refusal of the proxy in c.refusal. After a reply by which the proxy itself is locked
// it returns no bytes.
func (c *nodeConn) Read(b []byte) (int, error) {
	n, err := c.NodeConn.Read(b)
	c.learned.Do(func() { c.locked = c.learn() })
	if c.locked != nil {
		n, err = 0, c.locked
	}
	if err != nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.refusal == nil {
			c.refusal = dialRefusal(c.addr, err)
		}
	}
	return n, err
}

// refused returns why the proxy opened no connection to the node, or nil if it has not refused.
func (c *nodeConn) refused() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.refusal
}

// dialRefusal returns the refusal that err, an error of Read, contains: a refusedError if the proxy answered
// the dial request with a fault, or the fault for a refused client certificate. It returns nil if the
// connection merely ended.
func dialRefusal(addr string, err error) error {
	var f *fault.Error
	switch {
	case errors.As(err, &f):
		return &refusedError{f}
	case isRemoteAlert(err): // in TLS 1.3 the alert comes after the client's handshake is complete
		return tlsFault(addr, err)
	}
	return nil
}

// refusedError is the answer of a proxy that refuses a dial request. It is not used if the proxy gives no
// answer.
type refusedError struct{ fault *fault.Error }

func (e *refusedError) Error() string { return e.fault.Error() }

func (e *refusedError) Unwrap() error { return e.fault }

// CloseWrite ends the stream to the node. What the node still sends can be read.
func (c *nodeConn) CloseWrite() error {
	if _, err := c.Write(nil); err != nil { // sends the dial request if nothing has been written yet
		return err
	}
	return c.tls.CloseWrite()
}
