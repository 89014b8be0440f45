package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/threshold-access/threshold/auth"
	"github.com/threshold-access/threshold/auth/oidc/oidctest"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/lifecycle"
	"github.com/threshold-access/threshold/internal/member"
	"github.com/threshold-access/threshold/node"
	"github.com/threshold-access/threshold/proxy"
)

const (
	clusterName = "demo.threshold.test"
	nodeName    = "demo-node"
	startWithin = 60 * time.Second
	tokenLife   = 5 * time.Minute
)

// demo runs the cluster until ctx ends. data is the folder to keep; empty means a temporary one.
func demo(ctx context.Context, listen, data string, out io.Writer) (err error) {
	front, err := open(listen, `choose another port: make demo DEMO_FLAGS="--listen 127.0.0.1:9443"`)
	if err != nil {
		return err
	}
	defer front.Close()
	dir, remove, err := folder(data)
	if err != nil {
		return err
	}
	defer remove()
	logFile, err := os.OpenFile(filepath.Join(dir, "demo.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("open log: %w", err)
	}
	defer logFile.Close()

	c := &cluster{
		dir:   dir,
		front: front,
		proxy: front.Addr().String(),
		log:   slog.New(slog.NewTextHandler(logFile, nil)),
		stack: lifecycle.New(ctx),
	}
	if c.world, err = loadWorld(dir); err != nil {
		return err
	}
	err = c.serve(out)
	// What a part says of its failure explains more than what others saw of it.
	if failed := c.stack.Stop(); failed != nil {
		return failed
	}
	if ctx.Err() != nil {
		return nil // Ctrl-C, perhaps while starting
	}
	return err
}

// serve starts everything, says so, and shows codes until the end.
func (c *cluster) serve(out io.Writer) error {
	starting, cancel := context.WithTimeout(c.stack.Context(), startWithin)
	defer cancel()
	if err := c.start(starting); err != nil {
		return err
	}
	if err := c.present(out); err != nil {
		return err
	}
	return showCodes(c.stack.Context(), out, c.world.People)
}

// open listens, and says what to do when someone else does already.
func open(listen, inUse string) (net.Listener, error) {
	l, err := net.Listen("tcp", listen)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fault.Wrap(err, fault.Conflict, "demo", listen+" is in use by another program", inUse)
	}
	return l, fault.Wrap(
		err,
		fault.Invalid,
		"demo",
		"cannot listen on "+listen,
		"give an address of this machine and a free port: --listen 127.0.0.1:9443",
	)
}

func folder(data string) (dir string, remove func(), err error) {
	if data == "" {
		dir, err = os.MkdirTemp("", "threshold-demo-")
		return dir, func() { _ = os.RemoveAll(dir) }, err
	}
	if dir, err = filepath.Abs(data); err != nil {
		return "", nil, err
	}
	err = os.MkdirAll(dir, 0o700)
	return dir, func() {}, fault.Wrap(
		err,
		fault.Invalid,
		"demo",
		"cannot use the folder "+dir,
		"give a folder that you may write to: --data DIR",
	)
}

// cluster is everything the demo runs.
type cluster struct {
	dir   string
	proxy string // the one port, as people type it
	front net.Listener
	log   *slog.Logger
	stack *lifecycle.Stack
	world *world
	auth  *auth.Server
}

// start brings the parts up in order; each is ready before the next begins.
func (c *cluster) start(ctx context.Context) error {
	if err := c.startProvider(); err != nil {
		return err
	}
	authAddr, err := c.startAuth(ctx)
	if err != nil {
		return err
	}
	if err := c.startProxy(ctx, authAddr); err != nil {
		return err
	}
	if err := c.startNode(ctx); err != nil {
		return err
	}
	return c.enrolPeople(ctx)
}

func (c *cluster) startProvider() error {
	l, err := open(
		c.world.Provider,
		"end that program: a demo over the same folder, perhaps; or begin in another folder: --data DIR",
	)
	if err != nil {
		return err
	}
	c.world.Provider = l.Addr().String()
	if err := c.world.save(); err != nil {
		l.Close()
		return err
	}
	provider, err := oidctest.New(oidctest.Config{
		Issuer: c.world.issuer(),
		Clients: []oidctest.Client{
			{
				ID:        clientID,
				Secret:    c.world.ClientSecret,
				Redirects: []string{"https://" + c.proxy + authrpc.CallbackPath("demo")},
			},
		},
		Users: c.world.users(),
	})
	if err != nil {
		return errors.Join(err, l.Close())
	}
	srv := &http.Server{Handler: provider, ReadHeaderTimeout: 5 * time.Second}
	c.stack.Run("provider", func(ctx context.Context) error {
		go func() {
			<-ctx.Done()
			_ = srv.Close()
		}()
		if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	return nil
}

func (c *cluster) startAuth(ctx context.Context) (addr string, err error) {
	l, err := open("127.0.0.1:0", "try again")
	if err != nil {
		return "", err
	}
	c.auth, err = auth.New(auth.Config{
		Dir:             filepath.Join(c.dir, "auth"),
		Listener:        l,
		Bootstrap:       c.world.bootstrap(),
		BootstrapName:   "bootstrap.yaml",
		ResumeBootstrap: true,
		ReplicaID:       "auth-1",
		Version:         version,
		Log:             c.log.With("part", "auth"),
	})
	if err != nil {
		return "", err
	}
	c.stack.Run("auth", c.auth.Run)
	if err := c.auth.Ready(ctx); err != nil {
		return "", err
	}
	return l.Addr().String(), os.WriteFile(c.caFile(), c.auth.RootPEM(), 0o644)
}

func (c *cluster) caFile() string { return filepath.Join(c.dir, "ca.pem") }

// token invites a machine that is no member yet.
func (c *cluster) token(
	ctx context.Context,
	dir string,
	kind identity.Kind,
	labels identity.Labels,
) (string, error) {
	if member.Exists(dir) {
		return "", nil
	}
	t, err := c.auth.Invite(ctx, kind, labels, tokenLife)
	if err != nil {
		return "", err
	}
	return t.String(), nil
}

func (c *cluster) startProxy(ctx context.Context, authAddr string) error {
	dir := filepath.Join(c.dir, "proxy")
	token, err := c.token(ctx, dir, identity.Proxy, nil)
	if err != nil {
		return err
	}
	p, err := proxy.New(
		proxy.Config{Listener: c.front, Public: []string{c.proxy}, Dir: dir, AuthAddr: authAddr, Token: token,
			Name: "demo-proxy", Version: version, Log: c.log.With("part", "proxy")},
	)
	if err != nil {
		return err
	}
	c.stack.Run("proxy", p.Run)
	return p.Ready(ctx)
}

func (c *cluster) startNode(ctx context.Context) error {
	dir := filepath.Join(c.dir, "node")
	token, err := c.token(ctx, dir, identity.Node, identity.Labels{"env": "demo"})
	if err != nil {
		return err
	}
	n, err := node.New(
		node.Config{Dir: dir, Proxies: []string{c.proxy}, Token: token, Name: nodeName, Version: version,
			Drain: time.Second, Log: c.log.With("part", "node")},
	)
	if err != nil {
		return err
	}
	c.stack.Run("node", n.Run)
	return n.Ready(ctx)
}

// roots trusts the cluster's own root: the demo's web certificate is under it.
func (c *cluster) roots() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(c.auth.RootPEM())
	return pool
}
