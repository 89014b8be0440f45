// Package proxy is the public entry of a cluster, on port 443.
//
// It connects its packages: mux detects the protocol of each connection, jump connects users to nodes,
// tunnels holds the connections of nodes, rules holds the signed rules, web serves the login pages, and
// webcert has the certificate for browsers. A proxy has no keys of users and can sign nothing for the
// cluster. On disk it has its membership, the last valid rules, and the certificates from ACME.
package proxy

import (
	"cmp"
	"context"
	"crypto"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/connqueue"
	"github.com/threshold-access/threshold/internal/dial"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/lifecycle"
	"github.com/threshold-access/threshold/internal/member"
	signed "github.com/threshold-access/threshold/internal/rules"
	"github.com/threshold-access/threshold/proxy/jump"
	"github.com/threshold-access/threshold/proxy/mux"
	"github.com/threshold-access/threshold/proxy/rules"
	"github.com/threshold-access/threshold/proxy/tunnels"
	"github.com/threshold-access/threshold/proxy/web"
	"github.com/threshold-access/threshold/proxy/webcert"
)

// Config says what a proxy needs.
type Config struct {
	// Listener accepts every connection. Required. Run closes it.
	Listener net.Listener
	// Public are the addresses that users type, host or host:port, the preferred one first. At least one.
	Public []string
	// Dir is the directory for what the proxy keeps on disk. Required.
	Dir string
	// AuthAddr is host:port of the auth service. Required.
	AuthAddr string
	// Token is the join token. It is needed only at the first start.
	Token string
	// Name is the name that the proxy asks for when it joins. The auth service decides.
	Name string
	// CertFile and KeyFile hold the certificate for browsers and its key, in PEM form. They are read again
	// when they change. Empty, and without ACME: browsers see the service certificate of this proxy, which
	// is good for a demo.
	CertFile, KeyFile string
	// ACME gets the certificate for browsers from an authority. Nil: it is not used.
	ACME *webcert.ACME
	// Balancers are the networks of load balancers in front of the port, which may say for which client
	// they connect. With ProxyProtocol they do so in a PROXY header, which each of their connections must
	// begin with. Without it they do so in X-Forwarded-For. Empty: nobody may.
	Balancers     []netip.Prefix
	ProxyProtocol bool
	// Transport tells tsh and machines, in the ping document, how to connect. Empty means TLS to the port
	// itself, or through balancers that pass TLS on. WebSocket is for balancers that end TLS; direct
	// connections work all the same.
	Transport dial.Transport
	// KeepAlive is how long a WebSocket may be silent. Zero means egress.KeepAliveInterval.
	KeepAlive time.Duration
	// PenaltyExempt are networks that are never penalised for garbage, invalid certificates and stalls.
	PenaltyExempt []netip.Prefix
	// Version is this release, as the ping document and logs show it.
	Version string
	// Drain is how long sessions may go on after a stop. Zero means what the settings of the cluster say.
	Drain time.Duration
	// Now is the clock. Nil means time.Now.
	Now func() time.Time
	// Log is required.
	Log *slog.Logger
}

// Member is the membership of this machine, as internal/member implements it.
type Member interface {
	Identity() identity.Identity
	Pin() identity.Pin
	TLSCertificate() (*tls.Certificate, error)
	HostSigner() (ssh.Signer, error)
	Auth() *authrpc.Client
	FirstRules() signed.Set
	Run(ctx context.Context) error
}

// Proxy is one proxy.
type Proxy struct {
	cfg     Config
	ready   *lifecycle.Readiness
	carrier *rules.Carrier // set before the proxy is ready
}

// New checks the configuration and reports all its faults at once. It starts nothing.
func New(cfg Config) (*Proxy, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if err := cfg.check(); err != nil {
		return nil, err
	}
	return &Proxy{cfg: cfg, ready: lifecycle.NewReadiness("the proxy")}, nil
}

// check returns one fault of kind Invalid that names every mistake in the configuration, or nil.
func (c Config) check() error {
	var faults []error
	need := func(ok bool, fault string) {
		if !ok {
			faults = append(faults, errors.New(fault))
		}
	}
	need(c.Listener != nil, "there is no listener")
	need(c.Log != nil, "there is no log")
	need(c.Dir != "", "there is no data directory")
	need(len(c.Public) > 0, "there is no public address")
	need((c.CertFile == "") == (c.KeyFile == ""), "the certificate file and the key file need each other")
	need(c.ACME == nil || len(c.ACME.Hosts) > 0, "ACME needs at least one host name")
	need(c.ACME == nil || c.CertFile == "", "ACME and a certificate file exclude each other")
	for _, addr := range c.Public {
		need(hostOf(addr) != "", fmt.Sprintf("public address %q has no host", addr))
	}
	need(!c.ProxyProtocol || len(c.Balancers) > 0, "the PROXY protocol needs a list of balancers")
	_, _, err := net.SplitHostPort(c.AuthAddr)
	need(err == nil, fmt.Sprintf("auth address %q is not host:port", c.AuthAddr))
	return proxyConfigInvalid.Wrap(errors.Join(faults...), "proxy.New")
}

// hostOf returns the host of an address, which is host or host:port.
func hostOf(addr string) string {
	if host, _, err := net.SplitHostPort(addr); err == nil {
		return host
	}
	return strings.Trim(addr, "[]")
}

// PublicNames returns the host names and addresses in Public, without ports.
func (cfg Config) PublicNames() (names []string) {
	for _, addr := range cfg.Public {
		names = append(names, hostOf(addr))
	}
	return names
}

// Ready waits until connections are served, and then returns nil. It returns an error when ctx or Run ends
// before that.
func (p *Proxy) Ready(ctx context.Context) error { return p.ready.Wait(ctx) }

// DrainTime is how long sessions may go on after a stop: Config.Drain, or what the settings of the cluster
// say now. It may be called when the proxy is ready.
func (p *Proxy) DrainTime() time.Duration {
	settings := p.carrier.Current().Policy.Settings.WithDefaults()
	return cmp.Or(p.cfg.Drain, time.Duration(settings.Drain))
}

// Run joins the cluster, if the proxy is no member yet, and serves until ctx ends. Then sessions may go on
// for Drain. Run closes the listener and waits for everything that it started. It returns nil after a clean
// stop. It is called once.
func (p *Proxy) Run(ctx context.Context) error {
	return p.run(ctx, func(ctx context.Context) (Member, error) {
		return member.LoadOrJoin(ctx, member.Config{
			Dir:         p.cfg.Dir,
			Kind:        identity.Proxy,
			AuthAddr:    p.cfg.AuthAddr,
			Token:       p.cfg.Token,
			Name:        p.cfg.Name,
			PublicNames: p.cfg.PublicNames(),
			Now:         p.cfg.Now,
			Log:         p.cfg.Log,
		})
	})
}

// run is Run with a function that loads the membership, which tests replace.
func (p *Proxy) run(ctx context.Context, load func(context.Context) (Member, error)) (err error) {
	defer func() { p.ready.End(err) }() // whoever waits in Ready learns why the proxy ended
	defer p.cfg.Listener.Close()
	membership, err := load(ctx)
	if err != nil {
		return err
	}
	return p.serve(ctx, membership)
}

// serve makes the parts of the proxy, connects them, and runs them until ctx ends or one of them fails. It
// returns the error of a part that failed, and nil after a clean stop.
//
// The parts stop in the reverse order of their start: the port takes no more connections and drains its
// sessions, then the web server stops, then the reports to the auth service, the rules, and last the
// membership, which all of them use.
func (p *Proxy) serve(ctx context.Context, membership Member) error {
	cfg := p.cfg
	cert, err := webcert.New(ctx, webcert.Config{
		CertFile: cfg.CertFile,
		KeyFile:  cfg.KeyFile,
		ACME:     cfg.ACME,
		ACMEDir:  filepath.Join(cfg.Dir, "acme"),
		Service:  membership.TLSCertificate,
		Now:      cfg.Now,
		Log:      cfg.Log,
	})
	if err != nil {
		return err
	}
	carrier, err := rules.New(rules.Config{
		Pin:   membership.Pin(),
		First: membership.FirstRules(),
		Path:  filepath.Join(cfg.Dir, "rules.json"),
		Auth:  membership.Auth(),
		Now:   cfg.Now,
		Log:   cfg.Log,
	})
	if err != nil {
		return err
	}
	acknowledgements := rules.NewAcknowledgements(rules.AcknowledgementsConfig{
		Rules: carrier,
		ID:    membership.Identity().ID,
		Key:   func() (crypto.Signer, error) { return serviceKey(membership) },
		Auth:  membership.Auth(),
		Now:   cfg.Now,
		Log:   cfg.Log,
	})
	nodes := tunnels.New(tunnels.Config{
		Proxy:       membership.Identity().Name,
		ProxyID:     membership.Identity().ID,
		Auth:        membership.Auth(),
		Rules:       carrier,
		Acknowledge: acknowledgements.Source,
		Now:         cfg.Now,
		Log:         cfg.Log,
	})
	// The port hands connections of browsers to the web server by this queue. The web server hands the byte
	// streams inside WebSockets back to the port. The two need each other, so port is set after site is made;
	// no request can come before that.
	browsers := connqueue.New(cfg.Listener.Addr())
	var port *mux.Mux
	site := web.New(p.webConfig(membership, func(outer, stream net.Conn) { port.ServeStream(outer, stream) }))
	users := jump.New(jump.Config{
		Cluster:    membership.Identity().Cluster,
		Proxy:      membership.Identity().Name,
		ProxyID:    membership.Identity().ID,
		Rules:      carrier,
		Nodes:      nodes,
		Auth:       membership.Auth(),
		HostSigner: membership.HostSigner,
		Now:        cfg.Now,
		Log:        cfg.Log,
	})
	muxCfg := p.muxConfig(membership, carrier, nodes, users)
	muxCfg.Web, muxCfg.Challenge = cert.Get, cert.Challenge
	muxCfg.ServeWeb = func(conn net.Conn) {
		// The web server outlives ctx: it closes the queue when it stops.
		_ = browsers.Put(context.WithoutCancel(ctx), conn)
	}
	port = mux.New(muxCfg)

	stack := lifecycle.New(ctx)
	stack.Run("membership", membership.Run)
	stack.Run("rules", carrier.Run)
	stack.Run("acknowledgements of rules", acknowledgements.Run)
	stack.Run("tunnels", nodes.Run)
	stack.Run("open relays", users.Run)
	stack.Run("web", func(ctx context.Context) error { return site.Run(ctx, browsers) })
	stack.Run("port", port.Run)
	stack.Run("web certificate", cert.Run)
	p.carrier = carrier // before ready is set, because Health then uses it
	p.ready.Set()
	<-stack.Context().Done()
	err = stack.Stop()
	cfg.Log.Info("proxy stopped", "connections", port.Counters())
	return err
}

// webConfig returns the configuration of the web server. connect takes over the byte stream inside a
// WebSocket: outer is the connection of the WebSocket.
func (p *Proxy) webConfig(membership Member, connect func(outer, stream net.Conn)) web.Config {
	balancers := p.cfg.Balancers
	if p.cfg.ProxyProtocol {
		// The client's address is in the PROXY header. X-Forwarded-For is then believed from nobody: a
		// client in the balancers' own network could send it with any address.
		balancers = nil
	}
	return web.Config{
		Auth:      membership.Auth(),
		Public:    p.cfg.Public,
		Cluster:   membership.Identity().Cluster,
		Pin:       membership.Pin(),
		Version:   p.cfg.Version,
		Transport: p.cfg.Transport,
		Connect:   connect,
		KeepAlive: p.cfg.KeepAlive,
		Balancers: balancers,
		Now:       p.cfg.Now,
		Log:       p.cfg.Log,
	}
}

// muxConfig returns the configuration of the port, except for Web, Challenge and ServeWeb, which serve adds.
func (p *Proxy) muxConfig(
	membership Member, carrier *rules.Carrier, nodes *tunnels.Tunnels, users *jump.Server,
) mux.Config {
	return mux.Config{
		Listener:          p.cfg.Listener,
		Cluster:           membership.Identity().Cluster,
		AuthAddr:          p.cfg.AuthAddr,
		Rules:             carrier,
		SignForwardedFrom: signForwardedFrom(membership),
		Service:           membership.TLSCertificate,
		ServeSSH:          users.ServeSSH,
		ServeDial:         users.ServeDial,
		ServeTunnel:       nodes.Attach,
		Balancers:         p.cfg.Balancers,
		ProxyProtocol:     p.cfg.ProxyProtocol,
		Exempt:            p.cfg.PenaltyExempt,
		Drain:             p.cfg.Drain,
		Now:               p.cfg.Now,
		Log:               p.cfg.Log,
	}
}
