// Package demo answers: how does somebody try Threshold without a cluster, a provider or an authenticator
// app?
//
// It runs a server with all parts beside a small OIDC provider, enrols two users, and prints their passwords
// and current TOTP codes. The provider is a test double, so no production program imports this package.
package demo

import (
	"context"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/threshold-access/threshold/auth"
	"github.com/threshold-access/threshold/auth/oidc/oidctest"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/lifecycle"
	"github.com/threshold-access/threshold/node"
	"github.com/threshold-access/threshold/proxy"
	"github.com/threshold-access/threshold/server"
)

const (
	clusterName = "demo.threshold.test"
	proxyName   = "demo-proxy"
	nodeName    = "demo-node"
	// nodeDrain is short: whoever presses Ctrl-C wants the demo to end.
	nodeDrain = time.Second
	// readyTimeout bounds the start and the enrolments together.
	readyTimeout = time.Minute
)

// Main is the command line of the program threshold-demo. It returns the exit status: 0 after a clean stop, 1
// after a fault, 2 for a wrong command line. args are the words after the program's name.
func Main(ctx context.Context, version string, args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("threshold-demo", flag.ContinueOnError)
	listen := flags.String("listen", "127.0.0.1:8443", "`address` of the cluster's public port")
	dir := flags.String("data", "",
		"keep the data in this `folder` (default: a temporary one, removed at the end)")
	showVersion := flags.Bool("version", false, "print the version and exit")
	flags.SetOutput(io.Discard) // an error is printed without the whole help around it
	err := flags.Parse(args)
	if err == nil && flags.NArg() > 0 {
		err = fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(stdout, "threshold-demo runs a whole Threshold cluster on this machine until Ctrl-C.\n\n")
		flags.SetOutput(stdout)
		flags.PrintDefaults()
		return 0
	case err != nil:
		fmt.Fprintf(stderr, "threshold-demo: error: %v\nthreshold-demo: hint: run: threshold-demo -h\n", err)
		return 2
	case *showVersion:
		fmt.Fprintln(stdout, "threshold-demo", version)
		return 0
	}
	if err := run(ctx, version, *listen, *dir, stdout); err != nil {
		fault.Report(stderr, "threshold-demo", err)
		return 1
	}
	return 0
}

// cluster is everything that the demo runs.
type cluster struct {
	dir    string
	public string // host:port of the public port, as users type it
	state  *state
	server *server.Server
	stack  *lifecycle.Stack
}

// run runs the cluster until ctx ends, and then returns nil. listen is the address of the public port. dir is
// the folder for the data; empty means a temporary one, which is removed at the end.
func run(ctx context.Context, version, listen, dir string, out io.Writer) error {
	public, err := server.Listen(listen,
		`choose another port: make demo DEMO_FLAGS="--listen 127.0.0.1:9443"`)
	if err != nil {
		return err
	}
	defer public.Close()
	dir, remove, err := dataFolder(dir)
	if err != nil {
		return err
	}
	defer remove()
	logFile, err := os.OpenFile(filepath.Join(dir, "demo.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("open log: %w", err)
	}
	defer logFile.Close()

	c := &cluster{dir: dir, public: public.Addr().String(), stack: lifecycle.New(ctx)}
	err = c.serve(public, version, slog.New(slog.NewTextHandler(logFile, nil)), out)
	if failed := c.stack.Stop(); failed != nil {
		return failed // a failed part explains more than what the others saw of it
	}
	if ctx.Err() != nil {
		return nil // Ctrl-C, perhaps while starting
	}
	return err
}

// dataFolder makes the folder for the data, with the given name, or a temporary one if the name is empty. The
// caller calls remove at the end: it removes a temporary folder and leaves a named one.
func dataFolder(named string) (dir string, remove func(), err error) {
	if named == "" {
		dir, err = os.MkdirTemp("", temporaryPrefix)
		return dir, func() { _ = os.RemoveAll(dir) }, err
	}
	if dir, err = filepath.Abs(named); err != nil {
		return "", nil, err
	}
	err = os.MkdirAll(dir, 0o700)
	return dir, func() {}, demoFolderUnusable.Wrap(err, "demo", fault.Args{"folder": dir})
}

// serve starts the provider and the server, enrols the users, prints the commands to type next, and then
// prints the current codes until the cluster stops. What it starts runs in c.stack, which the caller stops.
func (c *cluster) serve(public net.Listener, version string, log *slog.Logger, out io.Writer) error {
	ctx, cancel := context.WithTimeout(c.stack.Context(), readyTimeout) // only for the start
	defer cancel()
	var err error
	if c.state, err = loadState(c.dir); err != nil {
		return err
	}
	if err := c.startProvider(); err != nil {
		return err
	}
	if c.server, err = server.New(c.serverConfig(public, version, log)); err != nil {
		return err
	}
	c.stack.Run("server", c.server.Run)
	if err := c.server.Ready(ctx); err != nil {
		return err
	}
	if err := c.enrolUsers(ctx); err != nil {
		return err
	}
	if err := c.present(out); err != nil {
		return err
	}
	return printCodes(c.stack.Context(), out, c.state.Users)
}

// startProvider starts the OIDC provider in c.stack. The provider listens on the address of earlier runs: it
// is part of the issuer URL, so it must not change between runs. In the first run the system chooses the
// port, and startProvider saves the address.
func (c *cluster) startProvider() error {
	listener, err := server.Listen(c.state.Provider,
		"end another demo that uses the same folder, or use another folder: --data DIR")
	if err != nil {
		return err
	}
	c.state.Provider = listener.Addr().String()
	if err := c.state.save(); err != nil {
		return errors.Join(err, listener.Close())
	}
	provider, err := oidctest.New(oidctest.Config{
		Issuer: c.state.issuer(),
		Clients: []oidctest.Client{{
			ID:        clientID,
			Secret:    c.state.ClientSecret,
			Redirects: []string{"https://" + c.public + authrpc.CallbackPath("demo")},
		}},
		Users: c.state.providerUsers(),
	})
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	srv := &http.Server{Handler: provider, ReadHeaderTimeout: 5 * time.Second}
	c.stack.Run("provider", func(ctx context.Context) error {
		stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
		defer stop()
		if err := srv.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	return nil
}

// serverConfig returns the configuration of a server with all parts. ResumeBootstrap is set, so that the
// cluster of an earlier run is opened: that run may have been killed before it had saved anything of its own.
func (c *cluster) serverConfig(public net.Listener, version string, log *slog.Logger) server.Config {
	return server.Config{
		Dir:     c.dir,
		Version: version,
		Log:     log,
		Auth: &server.Auth{Listen: "127.0.0.1:0", Config: auth.Config{
			Bootstrap:       c.state.bootstrap(),
			BootstrapName:   "bootstrap.yaml",
			ResumeBootstrap: true,
		}},
		Proxy: &server.Proxy{Config: proxy.Config{
			Listener: public,
			Public:   []string{c.public},
			Name:     proxyName,
		}},
		Node: &server.Node{
			GivenLabels: identity.Labels{"env": "demo"},
			Config:      node.Config{Name: nodeName, Drain: nodeDrain},
		},
	}
}

// caFile is the path of the file with the cluster root's certificate, which the server writes.
func (c *cluster) caFile() string { return filepath.Join(c.dir, "ca.pem") }

// roots returns a pool with the cluster's root, which has signed the demo's web certificate.
func (c *cluster) roots() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(c.server.RootPEM())
	return pool
}
