package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/threshold-access/threshold/auth"
	"github.com/threshold-access/threshold/internal/daemon"
	"github.com/threshold-access/threshold/internal/egress"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/lifecycle"
	"github.com/threshold-access/threshold/internal/member"
	"github.com/threshold-access/threshold/node"
	"github.com/threshold-access/threshold/proxy"
)

const (
	defaultAuthListen = "127.0.0.1:3025"
	defaultReplica    = "auth-1"
	startWithin       = 2 * time.Minute
	tokenLife         = 5 * time.Minute
	firstProxyLife    = 30 * time.Minute
)

// stopSlack is what a stop may take beside waiting for sessions.
const stopSlack = 20 * time.Second

// server is the parts that run, and what the later ones need of the earlier.
type server struct {
	spec     spec
	log      *slog.Logger
	stdout   io.Writer
	health   daemon.Health
	manager  daemon.ServiceManager
	stack    *lifecycle.Stack
	auth     *auth.Server // nil where another server runs it
	authAddr string
	public   []string
}

func start(ctx context.Context, o *options, stdout, stderr io.Writer) error {
	if err := o.log.Validate(); err != nil {
		return err
	}
	spec, err := readConfig(o.config)
	if err != nil {
		return err
	}
	if err := ownFolder(spec.Data); err != nil {
		return err
	}
	o.log = o.log.WithDefaults(spec.Log)
	health, err := daemon.ListenHealth(spec.Health)
	if err != nil {
		return err
	}
	log := o.log.Logger(stderr)
	srv := &server{
		spec:    spec,
		log:     log,
		stdout:  stdout,
		stack:   lifecycle.New(ctx),
		manager: daemon.NewServiceManager(log),
	}
	srv.stack.Run("health", func(ctx context.Context) error { return srv.health.Serve(ctx, health, log) })
	srv.stack.Run(
		"watchdog",
		func(ctx context.Context) error { return srv.manager.FeedWatchdog(ctx, &srv.health) },
	)
	err = srv.serve(o)
	if failed := srv.stack.Stop(); failed != nil {
		return failed
	}
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// ownFolder refuses that root writes into the folder of the account that a service runs as: the service could
// read none of it.
func ownFolder(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return nil // whoever makes it owns it
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || os.Geteuid() != 0 || st.Uid == 0 {
		return nil
	}
	owner := strconv.FormatUint(uint64(st.Uid), 10)
	if u, err := user.LookupId(owner); err == nil {
		owner = u.Username
	}
	return fault.New(
		fault.Denied,
		"threshold start",
		"the data folder "+dir+" belongs to the account "+owner+", and this is root",
		"run it as that account: runuser -u "+owner+" -- threshold start …; or make the folder root's: chown -R root "+dir,
	)
}

// serve starts the parts in order, each ready before the next begins, and waits for the end.
func (s *server) serve(o *options) error {
	starting, cancel := context.WithTimeout(s.stack.Context(), startWithin)
	defer cancel()
	for _, part := range []func(context.Context) error{
		func(ctx context.Context) error { return s.startAuth(ctx, o.bootstrap) }, s.startProxy, s.startNode,
	} {
		if err := part(starting); err != nil {
			return err
		}
	}
	return s.run(starting, o)
}

// run is the time between the start of the last part and the stop of the first.
func (s *server) run(starting context.Context, o *options) error {
	if o.firstProxy {
		if err := s.inviteFirst(starting); err != nil {
			return err
		}
	}
	s.health.Started()
	s.log.Info("ready", "version", version, "parts", s.spec.parts())
	s.manager.Ready("runs " + s.spec.parts())
	if o.untilReady {
		return nil
	}
	<-s.stack.Context().Done()
	s.health.Stopping()
	s.log.Info(
		"stopping: sessions may end by themselves, a second signal ends them",
		"within",
		s.spec.drain(),
	)
	s.manager.Stopping(s.longestStop())
	return nil
}

// longestStop is how long a stop may take: parts stop one after the other.
func (s *server) longestStop() time.Duration {
	longest := stopSlack
	for _, drains := range []bool{s.spec.Proxy != nil, s.spec.Node != nil} {
		if drains {
			longest += s.spec.drain()
		}
	}
	return longest
}

// inviteFirst prints the join token of the cluster's first proxy.
func (s *server) inviteFirst(ctx context.Context) error {
	if s.auth == nil {
		return fault.New(
			fault.Invalid,
			"threshold start",
			"--first-proxy is for a server that runs auth",
			"run it where auth runs",
		)
	}
	t, err := s.auth.InviteFirstProxy(ctx, firstProxyLife)
	if err != nil {
		return err
	}
	fmt.Fprintln(s.stdout, t)
	return nil
}

func (s *server) startAuth(ctx context.Context, bootstrapFile string) error {
	if s.spec.Auth == nil {
		if bootstrapFile != "" {
			return fault.New(
				fault.Invalid,
				"threshold start",
				"--bootstrap is for a server that runs auth",
				"add auth to the configuration, or leave out --bootstrap",
			)
		}
		return nil
	}
	var birth []byte
	var err error
	if bootstrapFile != "" {
		if birth, err = readFile(bootstrapFile); err != nil {
			return err
		}
	}
	l, err := listen("spec.auth.listen", s.spec.Auth.Listen, defaultAuthListen)
	if err != nil {
		return err
	}
	s.auth, err = auth.New(auth.Config{
		Dir:           filepath.Join(s.spec.Data, "auth"),
		Listener:      l,
		Bootstrap:     birth,
		BootstrapName: bootstrapFile,
		ReplicaID: cmp.Or(
			s.spec.Auth.Replica,
			defaultReplica,
		),
		Version: version,
		Log:     s.log.With("part", "auth"),
	})
	if err != nil {
		return errors.Join(err, l.Close())
	}
	s.authAddr = l.Addr().String()
	s.stack.Run("auth", s.auth.Run)
	s.health.Add("auth", s.auth.Health)
	if err := s.auth.Ready(ctx); err != nil {
		return err
	}
	// For people whose web certificate is the cluster's own: tsh login --ca-file.
	if err := os.WriteFile(filepath.Join(s.spec.Data, "ca.pem"), s.auth.RootPEM(), 0o644); err != nil {
		return fault.Wrap(
			err,
			fault.Exhausted,
			"threshold start",
			"cannot write ca.pem",
			"look at the disk that holds spec.data",
		)
	}
	s.log.Info("auth is ready", "cluster", s.auth.Cluster(), "pin", s.auth.Pin(), "listen", s.authAddr)
	return nil
}

func (s *server) startProxy(ctx context.Context) error {
	p := s.spec.Proxy
	if p == nil {
		return nil
	}
	l, err := listen("spec.proxy.listen", p.Listen, ":"+httpsPort)
	if err != nil {
		return err
	}
	for _, a := range p.Public {
		a, _ := withPort(a) // checked with the configuration
		s.public = append(s.public, a)
	}
	if p.Auth != "" {
		s.authAddr = p.Auth
	}
	dir := filepath.Join(s.spec.Data, "proxy")
	token, err := s.token(ctx, dir, p.TokenFile, identity.Proxy, nil)
	if err != nil {
		return errors.Join(err, l.Close())
	}
	name, err := hostName(p.Name)
	if err != nil {
		return errors.Join(err, l.Close())
	}
	px, err := proxy.New(
		proxy.Config{Listener: l, Public: s.public, Dir: dir, AuthAddr: s.authAddr, Token: token, Name: name,
			CertFile: p.CertFile, KeyFile: p.KeyFile, ACME: p.acme(), Balancers: p.Balancers, ProxyProtocol: p.ProxyProtocol, PenaltyExempt: p.PenaltyExempt,
			Transport: p.Transport, KeepAlive: p.WebSocketKeepAlive, Version: version, Drain: s.spec.drain(), Log: s.log.With("part", "proxy")},
	)
	if err != nil {
		return errors.Join(err, l.Close())
	}
	s.stack.Run("proxy", px.Run)
	s.health.Add("proxy", px.Health)
	if err := px.Ready(ctx); err != nil {
		return err
	}
	s.log.Info("proxy is ready", "listen", l.Addr(), "public", s.public)
	return nil
}

func (s *server) startNode(ctx context.Context) error {
	n := s.spec.Node
	if n == nil {
		return nil
	}
	var proxies []string
	for _, a := range n.Proxies {
		a, _ := withPort(a) // checked with the configuration
		proxies = append(proxies, a)
	}
	if len(proxies) == 0 {
		proxies = s.public[:1]
	}
	dir := filepath.Join(s.spec.Data, "node")
	token, err := s.token(ctx, dir, n.TokenFile, identity.Node, n.Labels)
	if err != nil {
		return err
	}
	nd, err := node.New(node.Config{
		Dir:     dir,
		Proxies: proxies,
		Token:   token,
		Name:    n.Name,
		Labels:  n.Labels,
		Version: version,
		Egress: egress.Config{
			HTTPSProxy: n.HTTPSProxy,
			NoProxy:    n.NoProxy,
		}.WithDefaults(
			egress.ConfigFromEnv(os.Getenv),
		),
		Drain: s.spec.drain(),
		Log:   s.log.With("part", "node"),
	})
	if err != nil {
		return err
	}
	s.stack.Run("node", nd.Run)
	s.health.Add("node", nd.Health)
	if err := nd.Ready(ctx); err != nil {
		return err
	}
	s.log.Info("node is attached", "proxies", proxies)
	return nil
}

// token gives what a part needs to join: nothing once it is a member, else what its file says, else an
// invitation by our own auth.
func (s *server) token(
	ctx context.Context,
	dir, file string,
	kind identity.Kind,
	labels identity.Labels,
) (string, error) {
	if member.Exists(dir) {
		return "", nil
	}
	if file != "" || s.auth == nil {
		return readToken(file)
	}
	t, err := s.auth.Invite(ctx, kind, labels, tokenLife)
	if err != nil {
		return "", err
	}
	return t.String(), nil
}

func hostName(configured string) (string, error) {
	if configured != "" {
		return configured, nil
	}
	name, err := os.Hostname()
	return name, fault.Wrap(
		err,
		fault.Invalid,
		"threshold start",
		"this machine's host name cannot be read",
		"set spec.proxy.name in the configuration",
	)
}

// listen opens a port early, so that one in use is said before anything starts. key is where the
// configuration names it.
func listen(key, addr, otherwise string) (net.Listener, error) {
	if addr == "" {
		addr = otherwise
	}
	l, err := net.Listen("tcp", addr)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fault.Wrap(
			err,
			fault.Conflict,
			"threshold start",
			addr+" is in use by another program",
			"end that program, or change "+key,
		)
	case errors.Is(err, syscall.EACCES):
		return nil, fault.Wrap(
			err,
			fault.Denied,
			"threshold start",
			"may not listen on "+addr,
			"give the program CAP_NET_BIND_SERVICE, or change "+key,
		)
	}
	return l, fault.Wrap(
		err,
		fault.Invalid,
		"threshold start",
		fmt.Sprintf("cannot listen on %s", addr),
		"change "+key,
	)
}
