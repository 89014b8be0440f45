// Package egress answers: how does a connection get from here to a proxy?
//
// Straight, through the HTTP proxy that a company puts before the Internet (HTTPS_PROXY, NO_PROXY), or inside
// a WebSocket where a balancer ends TLS in front of the proxy and its ping document says so; or both.
// Whatever the way, what the caller gets is its own TLS connection, end to end and pinned: nothing on the way
// is trusted with more than carrying bytes (docs/decisions/0010).
//
// tsh, the agent and their calls of auth go this way. A proxy's own link to auth does not: it is inside the
// cluster's network.
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

// Config says what stands between this machine and the Internet. The zero value means nothing does.
type Config struct {
	// HTTPSProxy is the HTTP proxy: http:// or https://, [user:password@]host[:port]. Without a scheme
	// http:// is meant. Empty: none.
	HTTPSProxy string
	// NoProxy lists what is reached without it, as Go and curl read NO_PROXY: hosts, .domains, addresses and
	// networks, with commas, or *. This machine itself never goes by a proxy.
	NoProxy string
	// LearnTransport makes the Way ask each proxy how it wants to be spoken to: before the first connection,
	// and again after one that failed on the way. Without it Use says so, and TLS is meant where nobody did.
	LearnTransport bool
}

// ConfigFromEnv reads HTTPS_PROXY and NO_PROXY, or their names in lower case, which win as they do for curl.
// HTTP_PROXY is for connections in the clear, of which there are none.
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

// WithDefaults is c with what it does not say taken from other: a file's from the environment's.
func (c Config) WithDefaults(other Config) Config {
	c.HTTPSProxy, c.NoProxy = cmp.Or(c.HTTPSProxy, other.HTTPSProxy), cmp.Or(c.NoProxy, other.NoProxy)
	return c
}

// Dialer is a way out. The zero value leads straight. It is safe for concurrent use.
type Dialer struct {
	proxyURL func(*url.URL) (*url.URL, error) // nil: straight
	learns   bool

	mu         sync.Mutex // guards known
	transports map[string]dial.Transport
}

// New checks the configuration. It opens nothing.
func New(cfg Config) (*Dialer, error) {
	w := &Dialer{learns: cfg.LearnTransport}
	if cfg.HTTPSProxy == "" {
		return w, nil
	}
	u, err := parseProxy(cfg.HTTPSProxy)
	if err != nil {
		return nil, err
	}
	w.proxyURL = (&httpproxy.Config{HTTPSProxy: u.String(), NoProxy: cfg.NoProxy}).ProxyFunc()
	return w, nil
}

// parseProxy never repeats the address in its error: there may be a password in it.
func parseProxy(s string) (*url.URL, error) {
	if !strings.Contains(s, "://") {
		s = "http://" + s
	}
	bad := func(why string) error {
		return fault.New(
			fault.Invalid,
			"egress",
			"the address in HTTPS_PROXY (https_proxy in a file) "+why,
			"write http://HOST:PORT, or http://USER:PASSWORD@HOST:PORT with what is odd in them as %XX",
		)
	}
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return nil, bad("cannot be read")
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, bad("begins with " + u.Scheme + "://, and only http:// and https:// proxies are known")
	case u.Hostname() == "":
		return nil, bad("has no host")
	}
	return &url.URL{Scheme: u.Scheme, User: u.User, Host: u.Host}, nil
}

// HasPassword reports whether the address of an HTTP proxy has a password in it, which should not stand where
// others can read it.
func HasPassword(proxy string) bool {
	u, err := parseProxy(proxy)
	if err != nil {
		return false
	}
	_, has := u.User.Password()
	return has
}

// DialContext opens a TCP connection to addr (host:port), or a tunnel of the HTTP proxy's there.
func (w *Dialer) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	if w.proxyURL == nil {
		return dialDirect(ctx, network, addr)
	}
	by, err := w.proxyURL(&url.URL{Scheme: "https", Host: addr})
	if err != nil {
		return nil, err
	}
	if by == nil {
		return dialDirect(ctx, network, addr)
	}
	return connectThrough(ctx, by, addr)
}

func dialDirect(ctx context.Context, network, addr string) (net.Conn, error) {
	return keepalive.Dialer().DialContext(ctx, network, addr)
}

// DialTLS opens a TLS connection to the proxy at addr and finishes its handshake. cfg says whom to trust: see
// identity.PinnedTLS.
func (w *Dialer) DialTLS(ctx context.Context, addr string, cfg *tls.Config) (*tls.Conn, error) {
	transport, err := w.transportOf(ctx, addr)
	if err != nil {
		return nil, err
	}
	conn, err := w.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err // of the network: it says nothing of how the proxy wants to be spoken to
	}
	if transport == dial.WebSocket {
		if conn, err = openWebSocket(ctx, conn, addr); err != nil {
			w.forgetTransport(addr)
			return nil, err
		}
	}
	tc, err := handshake(ctx, conn, addr, cfg)
	if err != nil {
		w.forgetTransport(addr)
		return nil, err
	}
	return tc, nil
}

// handshake owns conn.
func handshake(ctx context.Context, conn net.Conn, addr string, cfg *tls.Config) (*tls.Conn, error) {
	if cfg.ServerName == "" {
		cfg = cfg.Clone()
		cfg.ServerName = hostOf(addr)
	}
	tc := tls.Client(coalesce.UnderTLS(conn), cfg)
	if err := tc.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, err
	}
	return tc, nil
}

func hostOf(addr string) string {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return addr
	}
	return host
}

// SetTransport says how the proxy at addr wants to be spoken to, as its ping document said. Empty means TLS.
func (w *Dialer) SetTransport(addr string, t dial.Transport) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.transports == nil {
		w.transports = map[string]dial.Transport{}
	}
	w.transports[addr] = t
}

func (w *Dialer) forgetTransport(addr string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.learns {
		delete(w.transports, addr)
	}
}

// transportOf is how to speak to the proxy at addr.
func (w *Dialer) transportOf(ctx context.Context, addr string) (dial.Transport, error) {
	w.mu.Lock()
	t, known := w.transports[addr]
	w.mu.Unlock()
	if known || !w.learns {
		return t, nil
	}
	return w.LearnTransport(ctx, addr)
}

// LearnTransport asks the proxy at addr how it wants to be spoken to, and does so from now on. One that
// answers, but not with a ping document of ours, is spoken to in TLS.
func (w *Dialer) LearnTransport(ctx context.Context, addr string) (dial.Transport, error) {
	ping, err := w.ping(ctx, addr)
	var odd *notPingError
	switch {
	case errors.As(err, &odd):
		return dial.TLS, nil // asked again next time
	case err != nil:
		return "", err
	}
	w.SetTransport(addr, ping.Transport)
	return ping.Transport, nil
}
