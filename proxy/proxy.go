// Package proxy is the one public door, port 443.
//
// It wires its rooms: mux finds out what a connection speaks, jump leads people to nodes, tunnels holds the
// nodes' connections, rules carries the signed documents, web serves the pages of a login. It holds no user's
// key, can sign nothing, and stores nothing but its own membership and the last good rules.
package proxy

import (
	"context"
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
	"github.com/threshold-access/threshold/internal/dial"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/lifecycle"
	"github.com/threshold-access/threshold/internal/member"
	signed "github.com/threshold-access/threshold/internal/rules"
	"github.com/threshold-access/threshold/proxy/jump"
	"github.com/threshold-access/threshold/proxy/mux"
	"github.com/threshold-access/threshold/proxy/rules"
	"github.com/threshold-access/threshold/proxy/tunnels"
	"github.com/threshold-access/threshold/proxy/web"
)

// Config says what a proxy needs.
type Config struct {
	// Listener takes everything; required. Run closes it.
	Listener net.Listener
	// Public are the addresses that people use, host or host:port; at least one, the preferred one first.
	Public []string
	// Dir keeps the membership and the last good rules; required.
	Dir string
	// AuthAddr is host:port of auth's port; required.
	AuthAddr string
	// Token is the join token; needed at the first start only.
	Token string
	// Name is wished for at the join; auth decides.
	Name string
	// CertFile and KeyFile hold the certificate that browsers see, PEM; they are read again when they change.
	// Empty: browsers see this proxy's service certificate, which is good for a demo.
	CertFile, KeyFile string
	// ACME gets that certificate by itself. Nil: it does not.
	ACME *ACME
	// Balancers are the networks of balancers in front of the port: what one says of its clients' addresses
	// is believed, by a PROXY header if ProxyProtocol, which then each of its connections must begin with,
	// else by X-Forwarded-For. None: nobody is believed.
	Balancers     []netip.Prefix
	ProxyProtocol bool
	// Transport is how tsh and machines are told to come, in the ping document. Empty: TLS to the port
	// itself, or through balancers that pass it on unopened. WebSocket: through balancers that end TLS; what
	// comes straight is served all the same.
	Transport dial.Transport
	// KeepAlive is how long a WebSocket is silent at most. Zero: egress.KeepAlive.
	KeepAlive time.Duration
	// PenaltyExempt are networks that are never turned away for what came from them.
	PenaltyExempt []netip.Prefix
	// Version is this release, as browsers' clients and logs are told.
	Version string
	// Drain is how long sessions may go on after a stop. Zero means 10 s.
	Drain time.Duration
	// Now is the clock. Zero means time.Now.
	Now func() time.Time
	// Log is required.
	Log *slog.Logger
}

// Member is this machine's membership, as internal/member has it.
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
	ready   chan struct{}  // closed once connections are served
	carrier *rules.Carrier // set before ready is closed
	ended   chan struct{}  // closed once Run has returned
	err     error          // why Run returned; read after ended
}

// New checks the configuration. It starts nothing.
func New(cfg Config) (*Proxy, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if err := cfg.check(); err != nil {
		return nil, err
	}
	return &Proxy{cfg: cfg, ready: make(chan struct{}), ended: make(chan struct{})}, nil
}

func (c Config) check() error {
	var faults []error
	need := func(ok bool, what string) {
		if !ok {
			faults = append(faults, errors.New(what))
		}
	}
	need(c.Listener != nil, "there is no listener")
	need(c.Log != nil, "there is no log")
	need(c.Dir != "", "there is no data directory")
	need(len(c.Public) > 0, "there is no public address")
	need(
		(c.CertFile == "") == (c.KeyFile == ""),
		"a certificate needs its key file, and a key its certificate file",
	)
	need(
		c.ACME == nil || c.CertFile == "" && len(c.ACME.Hosts) > 0,
		"ACME needs names to get certificates for, and no certificate file beside it",
	)
	for _, p := range c.Public {
		need(hostOf(p) != "", fmt.Sprintf("public address %q has no host", p))
	}
	need(
		!c.ProxyProtocol || len(c.Balancers) > 0,
		"the PROXY protocol needs to be told whose: there are no balancers",
	)
	_, _, err := net.SplitHostPort(c.AuthAddr)
	need(err == nil, fmt.Sprintf("auth address %q is not host:port", c.AuthAddr))
	return fault.Wrap(
		errors.Join(faults...),
		fault.Invalid,
		"proxy.New",
		"the proxy's configuration is not complete",
		"correct it, then start again",
	)
}

// hostOf is the host of host or host:port.
func hostOf(addr string) string {
	if host, _, err := net.SplitHostPort(addr); err == nil {
		return host
	}
	return strings.Trim(addr, "[]")
}

// Ready waits until connections are served. It fails when Run ends before.
func (p *Proxy) Ready(ctx context.Context) error {
	select {
	case <-p.ready:
		return nil
	case <-p.ended:
		if p.err != nil {
			return p.err
		}
		return errors.New("the proxy was stopped before it was ready")
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Run enters the cluster and serves until ctx ends; then sessions may go on for Drain. It is called once.
func (p *Proxy) Run(ctx context.Context) error {
	return p.run(ctx, func(ctx context.Context) (Member, error) {
		var names []string
		for _, a := range p.cfg.Public {
			names = append(names, hostOf(a))
		}
		return member.LoadOrJoin(
			ctx,
			member.Config{
				Dir:         p.cfg.Dir,
				Kind:        identity.Proxy,
				AuthAddr:    p.cfg.AuthAddr,
				Token:       p.cfg.Token,
				Name:        p.cfg.Name,
				PublicNames: names,
				Now:         p.cfg.Now,
				Log:         p.cfg.Log,
			},
		)
	})
}

func (p *Proxy) run(ctx context.Context, enter func(context.Context) (Member, error)) error {
	defer close(p.ended)
	defer p.cfg.Listener.Close()
	m, err := enter(ctx)
	if err == nil {
		err = p.serve(ctx, m)
	}
	p.err = err
	return err
}

// serve wires the rooms and runs them. They stop in the reverse of their start: first nobody comes in any
// more and sessions end, then the pages, the reports to auth, the rules, and last the membership.
func (p *Proxy) serve(ctx context.Context, m Member) error {
	cfg, me := p.cfg, m.Identity()
	shown, err := p.webCertificate(ctx, m)
	if err != nil {
		return err
	}
	carrier, err := rules.New(rules.Config{
		Pin:   m.Pin(),
		First: m.FirstRules(),
		Path:  filepath.Join(cfg.Dir, "rules.json"),
		Auth:  m.Auth(),
		Now:   cfg.Now,
		Log:   cfg.Log,
	})
	if err != nil {
		return err
	}
	ways := tunnels.New(
		tunnels.Config{Proxy: me.Name, Auth: m.Auth(), Rules: carrier, Now: cfg.Now, Log: cfg.Log},
	)
	fronts := jump.New(jump.Config{
		Cluster:    me.Cluster,
		Rules:      carrier,
		Nodes:      ways,
		Auth:       m.Auth(),
		HostSigner: m.HostSigner,
		Now:        cfg.Now,
		Log:        cfg.Log,
	})
	var door *mux.Mux
	forwarders := cfg.Balancers
	if cfg.ProxyProtocol { // then a header of HTTP is anybody's, as a client may well come from a balancer's network
		forwarders = nil
	}
	site := web.New(web.Config{
		Auth:      m.Auth(),
		Public:    cfg.Public,
		Cluster:   me.Cluster,
		Pin:       m.Pin(),
		Version:   cfg.Version,
		Transport: cfg.Transport,
		Connect:   func(outer, stream net.Conn) { door.ServeStream(outer, stream) },
		KeepAlive: cfg.KeepAlive,
		Balancers: forwarders,
		Now:       cfg.Now,
		Log:       cfg.Log,
	})
	browsers := newHandover(cfg.Listener.Addr())
	door = mux.New(mux.Config{
		Listener:          cfg.Listener,
		Cluster:           me.Cluster,
		AuthAddr:          cfg.AuthAddr,
		Rules:             carrier,
		SignForwardedFrom: signForwardedFrom(m),
		Service:           m.TLSCertificate,
		Web:               shown.cert,
		Challenge:         shown.challenge,
		ServeSSH:          fronts.ServeSSH,
		ServeDial:         fronts.ServeDial,
		ServeTunnel:       ways.Attach,
		ServeWeb:          browsers.take,
		Balancers:         cfg.Balancers,
		ProxyProtocol:     cfg.ProxyProtocol,
		Exempt:            cfg.PenaltyExempt,
		Drain:             cfg.Drain,
		Now:               cfg.Now,
		Log:               cfg.Log,
	})

	stack := lifecycle.New(ctx)
	stack.Run("membership", m.Run)
	stack.Run("rules", carrier.Run)
	stack.Run("tunnels", ways.Run)
	stack.Run("web", func(ctx context.Context) error { return site.Run(ctx, browsers) })
	stack.Run("port", door.Run)
	stack.Run("web certificate", shown.run)
	p.carrier = carrier
	close(p.ready)
	<-stack.Context().Done()
	err = stack.Stop()
	cfg.Log.Info("proxy stopped", "connections", door.Counters())
	return err
}
