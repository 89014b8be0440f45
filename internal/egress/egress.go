// Package egress answers: how does a connection get from this machine to a proxy?
//
// It gets there directly; or through the HTTP proxy that a company puts before the Internet (HTTPS_PROXY,
// NO_PROXY); or inside a WebSocket, where a balancer terminates TLS in front of the proxy and the proxy's
// ping document says so; or through an HTTP proxy and inside a WebSocket. In each case the caller gets its
// own TLS connection, end to end and pinned: HTTP proxy and balancer only copy its bytes
// (docs/decisions/0010).
//
// tsh and the agent connect this way, also for their calls of auth. A proxy's own connection to auth does
// not: it is inside the cluster's network.
package egress

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/url"
	"strings"
	"sync"

	"golang.org/x/net/http/httpproxy"

	"github.com/threshold-access/threshold/internal/coalesce"
	"github.com/threshold-access/threshold/internal/dial"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/keepalive"
)

// Config says how this machine reaches the Internet. The zero value means directly.
type Config struct {
	// HTTPSProxy is the HTTP proxy: http:// or https://, [user:password@]host[:port]. Without a scheme,
	// http:// is assumed. Empty means none.
	HTTPSProxy string
	// NoProxy lists what is reached directly, as Go and curl read NO_PROXY: hosts, .domains, addresses and
	// networks, separated by commas, or *. This machine itself is always reached directly.
	NoProxy string
	// LearnTransport makes the Dialer fetch each proxy's ping document, which says whether to connect by TLS
	// or by WebSocket: before the first connection to the proxy, and again after a connection failed there.
	// When false, the Dialer uses what SetTransport set for the proxy, or else TLS.
	LearnTransport bool
}

// ConfigFromEnv reads HTTPS_PROXY and NO_PROXY, or their names in lower case, which take precedence as they
// do for curl. HTTP_PROXY is for unencrypted connections, of which there are none.
func ConfigFromEnv(getenv func(string) string) Config {
	first := func(names ...string) string {
		for _, n := range names {
			if v := getenv(n); v != "" {
				return v
			}
		}
		return ""
	}
	return Config{HTTPSProxy: first("https_proxy", "HTTPS_PROXY"), NoProxy: first("no_proxy", "NO_PROXY")}
}

// WithDefaults returns c with its empty fields set from other, as a file's from the environment's.
func (c Config) WithDefaults(other Config) Config {
	c.HTTPSProxy, c.NoProxy = cmp.Or(c.HTTPSProxy, other.HTTPSProxy), cmp.Or(c.NoProxy, other.NoProxy)
	return c
}

// Dialer opens connections to proxies. The zero value connects directly. It is safe for concurrent use.
type Dialer struct {
	proxyURL func(*url.URL) (*url.URL, error) // returns the HTTP proxy for a URL, or nil; nil: there is none
	learns   bool                             // Config.LearnTransport

	mu         sync.Mutex                // guards transports; not held while a connection is opened
	transports map[string]dial.Transport // by the proxy's address
}

// New checks the configuration. It opens nothing.
func New(cfg Config) (*Dialer, error) {
	d := &Dialer{learns: cfg.LearnTransport}
	if cfg.HTTPSProxy == "" {
		return d, nil
	}
	proxy, err := parseProxy(cfg.HTTPSProxy)
	if err != nil {
		return nil, err
	}
	d.proxyURL = (&httpproxy.Config{HTTPSProxy: proxy.String(), NoProxy: cfg.NoProxy}).ProxyFunc()
	return d, nil
}

// parseProxy parses a proxy's address as Config.HTTPSProxy has it, and returns its scheme, host, port, user
// and password. The error is a fault that never contains the address, because that may have a password in it.
func parseProxy(s string) (*url.URL, error) {
	if !strings.Contains(s, "://") {
		s = "http://" + s
	}
	invalidFault := func(why string) error {
		return httpProxyAddressInvalid.New("egress", fault.Args{"why": why})
	}
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return nil, invalidFault("is malformed")
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, invalidFault("begins with " + u.Scheme +
			"://, and only http:// and https:// proxies are supported")
	case u.Hostname() == "":
		return nil, invalidFault("has no host")
	}
	return &url.URL{Scheme: u.Scheme, User: u.User, Host: u.Host}, nil
}

// HasPassword reports whether the address of an HTTP proxy has a password in it. Such an address should not
// be where others can read it, as in arguments.
func HasPassword(proxy string) bool {
	u, err := parseProxy(proxy)
	if err != nil {
		return false
	}
	_, has := u.User.Password()
	return has
}

// DialContext opens a TCP connection to addr (host:port), or a tunnel to it through the HTTP proxy.
func (d *Dialer) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	if d.proxyURL == nil {
		return dialDirect(ctx, network, addr)
	}
	httpProxy, err := d.proxyURL(&url.URL{Scheme: "https", Host: addr})
	if err != nil {
		return nil, err
	}
	if httpProxy == nil { // NO_PROXY has addr
		return dialDirect(ctx, network, addr)
	}
	return connectThrough(ctx, httpProxy, addr)
}

// dialDirect opens a TCP connection that detects a vanished peer.
func dialDirect(ctx context.Context, network, addr string) (net.Conn, error) {
	return keepalive.Dialer().DialContext(ctx, network, addr)
}

// DialTLS opens a TLS connection to the proxy at addr, by the transport of that proxy, and finishes its
// handshake. cfg says which servers to trust: see identity.PinnedTLS. If the connection fails at the proxy,
// and the Dialer learns transports, the next call learns the transport again, as it may have changed.
func (d *Dialer) DialTLS(ctx context.Context, addr string, cfg *tls.Config) (*tls.Conn, error) {
	transport, err := d.transportOf(ctx, addr)
	if err != nil {
		return nil, err
	}
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err // the proxy was not reached, so its transport may be right
	}
	if transport == dial.WebSocket {
		if conn, err = openWebSocket(ctx, conn, addr); err != nil {
			d.forgetTransport(addr)
			return nil, err
		}
	}
	tlsConn, err := handshake(ctx, conn, addr, cfg)
	if err != nil {
		d.forgetTransport(addr)
		return nil, err
	}
	return tlsConn, nil
}

// handshake runs the client's side of a TLS handshake over conn. If cfg names no server, it asks for the host
// of addr. It closes conn if the handshake fails.
func handshake(ctx context.Context, conn net.Conn, addr string, cfg *tls.Config) (*tls.Conn, error) {
	if cfg.ServerName == "" {
		cfg = cfg.Clone()
		cfg.ServerName = hostOf(addr)
	}
	tlsConn := tls.Client(coalesce.UnderTLS(conn), cfg)
	if err := tlsConn.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, err
	}
	return tlsConn, nil
}

func hostOf(addr string) string {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return addr
	}
	return host
}

// SetTransport sets the transport of the proxy at addr, as its ping document said. Empty means TLS.
func (d *Dialer) SetTransport(addr string, t dial.Transport) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.transports == nil {
		d.transports = map[string]dial.Transport{}
	}
	d.transports[addr] = t
}

// forgetTransport makes the next connection to addr learn the transport again. It does nothing to a Dialer
// that does not learn transports, which would lose what SetTransport set.
func (d *Dialer) forgetTransport(addr string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.learns {
		delete(d.transports, addr)
	}
}

// transportOf returns the transport of the proxy at addr. It fetches the proxy's ping document if the
// transport is not known and the Dialer learns transports.
func (d *Dialer) transportOf(ctx context.Context, addr string) (dial.Transport, error) {
	d.mu.Lock()
	t, known := d.transports[addr]
	d.mu.Unlock()
	if known || !d.learns {
		return t, nil
	}
	return d.LearnTransport(ctx, addr)
}

// LearnTransport fetches the ping document of the proxy at addr and returns the transport in it, which the
// Dialer uses for that proxy from now on. If a server answers, but without a ping document, LearnTransport
// returns TLS and keeps nothing: the next connection asks again. An error means that no server was reached.
func (d *Dialer) LearnTransport(ctx context.Context, addr string) (dial.Transport, error) {
	ping, err := d.ping(ctx, addr)
	var noPing *notPingError
	switch {
	case errors.As(err, &noPing):
		return dial.TLS, nil
	case err != nil:
		return "", err
	}
	d.SetTransport(addr, ping.Transport)
	return ping.Transport, nil
}
