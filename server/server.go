// Package server answers: how do auth, proxy and node run in one process?
//
// A server runs any set of these parts. Each is ready before the next starts, because a later one needs the
// earlier: a proxy asks auth, and a node dials a proxy. They stop in the reverse order. Parts of one cluster
// may as well run in several processes, each with a server of its own; then the configuration names the
// addresses of the parts elsewhere, and join tokens.
package server

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/threshold-access/threshold/auth"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/daemon"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/lifecycle"
	"github.com/threshold-access/threshold/internal/member"
	"github.com/threshold-access/threshold/node"
	"github.com/threshold-access/threshold/proxy"
)

const (
	defaultAuthListen  = "127.0.0.1:3025"
	defaultProxyListen = ":" + httpsPort
	defaultReplica     = "auth-1"
	// startTimeout bounds the start of all parts together.
	startTimeout = 2 * time.Minute
	// joinTokenTTL is the life of the tokens by which parts join the auth service of the same process.
	joinTokenTTL = 5 * time.Minute
)

// Config says which parts run. A part whose section is nil does not.
type Config struct {
	// Dir is the data folder; each part has a folder of its own in it. Required.
	Dir string
	// Drain is how long sessions of a part may go on after a stop. Zero means what the settings of the
	// cluster say.
	Drain time.Duration
	// Version is the release that all parts report.
	Version string
	// Log gets what an operator should know. Required.
	Log *slog.Logger

	Auth  *Auth
	Proxy *Proxy
	Node  *Node
}

// Auth configures the auth service.
type Auth struct {
	// Listen is the address of the auth port. Empty means 127.0.0.1:3025. Ignored where Config.Listener is
	// set.
	Listen string
	// Config is the part's own configuration. The server sets Dir, Listener, Version and Log; an empty
	// ReplicaID means "auth-1".
	auth.Config
}

// Proxy configures the proxy.
type Proxy struct {
	// Listen is the address of the public port. Empty means :443. Ignored where Config.Listener is set.
	Listen string
	// TokenFile holds the join token for the first start. Empty means that the auth service of this process
	// invites the proxy.
	TokenFile string
	// Config is the part's own configuration. The server sets Dir, Listener, Token, Version, Drain and Log.
	// An empty AuthAddr means the auth service of this process, an empty Name this machine's host name.
	proxy.Config
}

// Node configures the node.
type Node struct {
	// TokenFile holds the join token for the first start. Empty means that the auth service of this process
	// invites the node.
	TokenFile string
	// GivenLabels are those that the node gets if the auth service of this process invites it.
	GivenLabels identity.Labels
	// Config is the part's own configuration. The server sets Dir, Token, Version, Log and, where it is zero,
	// Drain. No Proxies means the proxy of this process.
	node.Config
}

// Server runs the parts. It is used once.
type Server struct {
	cfg    Config
	ready  *lifecycle.Readiness
	health daemon.Health
	auth   *auth.Server // nil where another process runs it
	// drainTimes are the drain times of the parts that drain. They are set when the server is ready.
	drainTimes []func() time.Duration
}

// New checks that there is something to run. It starts nothing; each part checks its own configuration when
// it starts.
func New(cfg Config) (*Server, error) {
	if cfg.Auth == nil && cfg.Proxy == nil && cfg.Node == nil {
		return nil, componentsMissing.New("server.New")
	}
	if cfg.Dir == "" || cfg.Log == nil {
		return nil, serverIncomplete.New("server.New")
	}
	s := &Server{cfg: cfg, ready: lifecycle.NewReadiness("the server")}
	var err error
	if cfg.Auth != nil {
		s.auth, err = newAuth(cfg)
	}
	return s, err
}

// newAuth returns the auth service, which is not started yet. It opens the auth port already, so that a port
// that is in use is reported before anything starts, and keeps the listener in cfg.Auth: startProxy needs its
// address.
func newAuth(cfg Config) (*auth.Server, error) {
	authCfg := cfg.Auth.Config
	if authCfg.Listener == nil {
		l, err := Listen(cmp.Or(cfg.Auth.Listen, defaultAuthListen), "change spec.auth.listen")
		if err != nil {
			return nil, err
		}
		authCfg.Listener = l
	}
	authCfg.Dir = filepath.Join(cfg.Dir, "auth")
	authCfg.ReplicaID = cmp.Or(authCfg.ReplicaID, defaultReplica)
	authCfg.Version, authCfg.Log = cfg.Version, cfg.Log.With("part", "auth")
	srv, err := auth.New(authCfg)
	if err != nil {
		return nil, errors.Join(err, authCfg.Listener.Close())
	}
	cfg.Auth.Listener = authCfg.Listener
	return srv, nil
}

// Health reports how the parts are. Its list is complete once the server is ready.
func (s *Server) Health() *daemon.Health { return &s.health }

// Ready waits until every part is ready, and then returns nil. It returns an error when ctx ends before that,
// and the reason when the server does.
func (s *Server) Ready(ctx context.Context) error { return s.ready.Wait(ctx) }

// DrainTime is how long sessions may go on after a stop: proxy and node drain one after the other. It may be
// called when the server is ready.
func (s *Server) DrainTime() (total time.Duration) {
	for _, drainTime := range s.drainTimes {
		total += drainTime()
	}
	return total
}

// RootPEM returns the cluster root's certificate in PEM form. It is nil if this process runs no auth service,
// and until that is ready.
func (s *Server) RootPEM() []byte {
	if s.auth == nil {
		return nil
	}
	return s.auth.RootPEM()
}

// InviteFirstProxy makes a join token for the cluster's first proxy, which is valid for ttl. names are the
// public names that the proxy may have; none means the cluster's name. InviteFirstProxy returns a fault if
// there is a proxy already or this process runs no auth service.
func (s *Server) InviteFirstProxy(
	ctx context.Context, names []string, ttl time.Duration,
) (authrpc.Token, error) {
	if s.auth == nil {
		return authrpc.Token{}, firstProxyWithoutAuth.New("threshold start")
	}
	return s.auth.InviteFirstProxy(ctx, names, ttl)
}

// Run starts the parts in order, serves until ctx ends or a part fails, and stops the parts in the reverse
// order. It returns nil after a clean stop, also if ctx ends while the parts start, else the error of the
// part that failed. It is called once.
func (s *Server) Run(ctx context.Context) (err error) {
	defer func() { s.ready.End(err) }()
	stack := lifecycle.New(ctx)
	err = s.start(stack)
	if err == nil {
		s.health.Started()
		s.ready.Set()
		<-stack.Context().Done()
		s.health.Stopping()
	}
	// A failed part explains more than what the others saw of it.
	if failed := stack.Stop(); failed != nil {
		return failed
	}
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// start starts the parts in order, within startTimeout in all. Each is ready before the next one starts.
// After an error the parts that have been started run on; the caller stops them.
func (s *Server) start(stack *lifecycle.Stack) error {
	ctx, cancel := context.WithTimeout(stack.Context(), startTimeout)
	defer cancel()
	type startPart func(context.Context, *lifecycle.Stack) error
	for _, start := range []startPart{s.startAuth, s.startProxy, s.startNode} {
		if err := start(ctx, stack); err != nil {
			return err
		}
	}
	return nil
}

// startAuth starts the auth service, waits until it is ready, and writes the cluster root's certificate to
// ca.pem. It does nothing if another process runs the auth service.
func (s *Server) startAuth(ctx context.Context, stack *lifecycle.Stack) error {
	if s.auth == nil {
		return nil
	}
	stack.Run("auth", s.auth.Run)
	s.health.Add("auth", s.auth.Health)
	if err := s.auth.Ready(ctx); err != nil {
		return err
	}
	// Users whose proxy shows the cluster's own web certificate need the file: tsh login --ca-file.
	if err := os.WriteFile(filepath.Join(s.cfg.Dir, "ca.pem"), s.auth.RootPEM(), 0o644); err != nil {
		return caFileUnwritable.Wrap(err, "threshold start")
	}
	s.cfg.Log.Info(
		"auth is ready",
		"cluster", s.auth.Cluster(),
		"pin", s.auth.Pin(),
		"listen", s.cfg.Auth.Listener.Addr(),
	)
	return nil
}

// startProxy opens the public port, starts the proxy and waits until it serves. It does nothing if this
// server has no proxy part.
func (s *Server) startProxy(ctx context.Context, stack *lifecycle.Stack) error {
	if s.cfg.Proxy == nil {
		return nil
	}
	cfg := s.cfg.Proxy.Config
	if cfg.AuthAddr == "" && s.auth != nil {
		cfg.AuthAddr = s.cfg.Auth.Listener.Addr().String()
	}
	cfg.Dir = filepath.Join(s.cfg.Dir, "proxy")
	cfg.Version, cfg.Drain, cfg.Log = s.cfg.Version, s.cfg.Drain, s.cfg.Log.With("part", "proxy")
	var err error
	if cfg.Name == "" {
		if cfg.Name, err = os.Hostname(); err != nil {
			return hostNameUnreadable.Wrap(err, "threshold start")
		}
	}
	if cfg.Listener == nil {
		addr := cmp.Or(s.cfg.Proxy.Listen, defaultProxyListen)
		if cfg.Listener, err = Listen(addr, "change spec.proxy.listen"); err != nil {
			return err
		}
	}
	cfg.Token, err = s.joinToken(ctx, cfg.Dir, s.cfg.Proxy.TokenFile, auth.Invitation{
		Kind:        identity.Proxy,
		PublicNames: cfg.PublicNames(),
	})
	if err != nil {
		return errors.Join(err, cfg.Listener.Close())
	}
	part, err := proxy.New(cfg)
	if err != nil {
		return errors.Join(err, cfg.Listener.Close())
	}
	stack.Run("proxy", part.Run)
	s.health.Add("proxy", part.Health)
	if err := part.Ready(ctx); err != nil {
		return err
	}
	s.drainTimes = append(s.drainTimes, part.DrainTime)
	s.cfg.Log.Info("proxy is ready", "listen", cfg.Listener.Addr(), "public", cfg.Public)
	return nil
}

// startNode starts the node and waits until it is attached to a proxy. It does nothing if this server has no
// node part.
func (s *Server) startNode(ctx context.Context, stack *lifecycle.Stack) error {
	if s.cfg.Node == nil {
		return nil
	}
	cfg := s.cfg.Node.Config
	if len(cfg.Proxies) == 0 && s.cfg.Proxy != nil {
		cfg.Proxies = s.cfg.Proxy.Public[:1] // the preferred address
	}
	cfg.Dir = filepath.Join(s.cfg.Dir, "node")
	cfg.Version, cfg.Log = s.cfg.Version, s.cfg.Log.With("part", "node")
	cfg.Drain = cmp.Or(cfg.Drain, s.cfg.Drain)
	var err error
	cfg.Token, err = s.joinToken(ctx, cfg.Dir, s.cfg.Node.TokenFile, auth.Invitation{
		Kind:   identity.Node,
		Labels: s.cfg.Node.GivenLabels,
	})
	if err != nil {
		return err
	}
	part, err := node.New(cfg)
	if err != nil {
		return err
	}
	stack.Run("node", part.Run)
	s.health.Add("node", part.Health)
	if err := part.Ready(ctx); err != nil {
		return err
	}
	s.drainTimes = append(s.drainTimes, part.DrainTime)
	s.cfg.Log.Info("node is attached", "proxies", cfg.Proxies)
	return nil
}

// joinToken returns the token by which a part joins the cluster. It is empty if the membership in dir shows
// that the part is a member already. Else it is the token in file, or without a file a new one from the auth
// service of this process. Without any of these it is empty too; the part then reports that it needs one.
func (s *Server) joinToken(
	ctx context.Context,
	dir, file string,
	who auth.Invitation,
) (string, error) {
	if member.Exists(dir) {
		return "", nil
	}
	if file != "" || s.auth == nil {
		return readToken(file)
	}
	who.TTL = joinTokenTTL
	token, err := s.auth.Invite(ctx, who)
	if err != nil {
		return "", err
	}
	return token.String(), nil
}
