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
	"github.com/threshold-access/threshold/internal/fault"
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
	// Drain is how long sessions of a part may go on after a stop. Zero means 10 s.
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
}

// New checks that there is something to run. It starts nothing; each part checks its own configuration when
// it starts.
func New(cfg Config) (*Server, error) {
	if cfg.Auth == nil && cfg.Proxy == nil && cfg.Node == nil {
		return nil, fault.New(
			fault.Invalid,
			"server.New",
			"there is no part to run",
			"configure auth, proxy or node",
		)
	}
	if cfg.Dir == "" || cfg.Log == nil {
		return nil, fault.New(
			fault.Internal,
			"server.New",
			"the data folder or the log is missing",
			"report this defect",
		)
	}
	cfg.Drain = cmp.Or(cfg.Drain, defaultDrain)
	s := &Server{cfg: cfg, ready: lifecycle.NewReadiness("the server")}
	var err error
	if cfg.Auth != nil {
		s.auth, err = newAuth(cfg)
	}
	return s, err
}

// newAuth opens the auth port early, so that one in use is reported before anything starts.
func newAuth(cfg Config) (*auth.Server, error) {
	c := cfg.Auth.Config
	if c.Listener == nil {
		l, err := Listen(cmp.Or(cfg.Auth.Listen, defaultAuthListen), "change spec.auth.listen")
		if err != nil {
			return nil, err
		}
		c.Listener = l
	}
	c.Dir = filepath.Join(cfg.Dir, "auth")
	c.ReplicaID = cmp.Or(c.ReplicaID, defaultReplica)
	c.Version, c.Log = cfg.Version, cfg.Log.With("part", "auth")
	srv, err := auth.New(c)
	if err != nil {
		return nil, errors.Join(err, c.Listener.Close())
	}
	cfg.Auth.Listener = c.Listener
	return srv, nil
}

// Health reports how the parts are. Its list is complete once the server is ready.
func (s *Server) Health() *daemon.Health { return &s.health }

// Ready waits until every part is ready. It returns why the server ended when it ends before.
func (s *Server) Ready(ctx context.Context) error { return s.ready.Wait(ctx) }

// RootPEM is the cluster root's certificate; nil where this process runs no auth service, and before it is
// ready.
func (s *Server) RootPEM() []byte {
	if s.auth == nil {
		return nil
	}
	return s.auth.RootPEM()
}

// InviteFirstProxy makes a join token for the cluster's first proxy, good for ttl. It is refused once there
// is a proxy.
func (s *Server) InviteFirstProxy(ctx context.Context, ttl time.Duration) (authrpc.Token, error) {
	if s.auth == nil {
		return authrpc.Token{}, fault.New(
			fault.Invalid,
			"threshold start",
			"--first-proxy is for a server that runs auth",
			"run it on the machine whose configuration has an auth section",
		)
	}
	return s.auth.InviteFirstProxy(ctx, ttl)
}

// Run starts the parts in order and serves until ctx ends, or until a part fails. It returns nil after a
// clean stop, also while starting.
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

// start starts the parts in order. Each is ready before the next one starts.
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
		return fault.Wrap(
			err,
			fault.Exhausted,
			"threshold start",
			"cannot write ca.pem",
			"check the disk that holds spec.data",
		)
	}
	s.cfg.Log.Info(
		"auth is ready",
		"cluster", s.auth.Cluster(),
		"pin", s.auth.Pin(),
		"listen", s.cfg.Auth.Listener.Addr(),
	)
	return nil
}

func (s *Server) startProxy(ctx context.Context, stack *lifecycle.Stack) error {
	if s.cfg.Proxy == nil {
		return nil
	}
	c := s.cfg.Proxy.Config
	if c.AuthAddr == "" && s.auth != nil {
		c.AuthAddr = s.cfg.Auth.Listener.Addr().String()
	}
	c.Dir = filepath.Join(s.cfg.Dir, "proxy")
	c.Version, c.Drain, c.Log = s.cfg.Version, s.cfg.Drain, s.cfg.Log.With("part", "proxy")
	var err error
	if c.Name == "" {
		if c.Name, err = os.Hostname(); err != nil {
			return fault.Wrap(
				err,
				fault.Invalid,
				"threshold start",
				"this machine's host name cannot be read",
				"set spec.proxy.name in the configuration",
			)
		}
	}
	if c.Listener == nil {
		if c.Listener, err = Listen(cmp.Or(s.cfg.Proxy.Listen, defaultProxyListen), "change spec.proxy.listen"); err != nil {
			return err
		}
	}
	if c.Token, err = s.joinToken(ctx, c.Dir, s.cfg.Proxy.TokenFile, identity.Proxy, nil); err != nil {
		return errors.Join(err, c.Listener.Close())
	}
	p, err := proxy.New(c)
	if err != nil {
		return errors.Join(err, c.Listener.Close())
	}
	stack.Run("proxy", p.Run)
	s.health.Add("proxy", p.Health)
	if err := p.Ready(ctx); err != nil {
		return err
	}
	s.cfg.Log.Info("proxy is ready", "listen", c.Listener.Addr(), "public", c.Public)
	return nil
}

func (s *Server) startNode(ctx context.Context, stack *lifecycle.Stack) error {
	if s.cfg.Node == nil {
		return nil
	}
	c := s.cfg.Node.Config
	if len(c.Proxies) == 0 && s.cfg.Proxy != nil {
		c.Proxies = s.cfg.Proxy.Public[:1]
	}
	c.Dir = filepath.Join(s.cfg.Dir, "node")
	c.Version, c.Drain, c.Log = s.cfg.Version, cmp.Or(c.Drain, s.cfg.Drain), s.cfg.Log.With("part", "node")
	var err error
	if c.Token, err = s.joinToken(ctx, c.Dir, s.cfg.Node.TokenFile, identity.Node, c.Labels); err != nil {
		return err
	}
	n, err := node.New(c)
	if err != nil {
		return err
	}
	stack.Run("node", n.Run)
	s.health.Add("node", n.Health)
	if err := n.Ready(ctx); err != nil {
		return err
	}
	s.cfg.Log.Info("node is attached", "proxies", c.Proxies)
	return nil
}

// joinToken is what a part needs to join: nothing once it is a member, else the token in its file, else an
// invitation by the auth service of this process. It is empty where there is none of these, and the part says
// what to do.
func (s *Server) joinToken(
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
	t, err := s.auth.Invite(ctx, kind, labels, joinTokenTTL)
	if err != nil {
		return "", err
	}
	return t.String(), nil
}
