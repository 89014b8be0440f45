// Package auth answers: how do the packages of the auth service belong together?
//
// Auth knows and signs: it is the cluster's replicated memory and its certificate authority behind one port.
// This package only connects the others. It opens the store, creates the cluster or opens its keys, builds
// the services and runs them. What each service is for stands in its package comment.
//
// No function here gives a local account access without a certificate. Invite is for the program that auth
// runs in.
package auth

import (
	"context"
	"encoding/pem"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/threshold-access/threshold/auth/bootstrap"
	"github.com/threshold-access/threshold/auth/port"
	"github.com/threshold-access/threshold/ca/rootkey"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/lifecycle"
	"github.com/threshold-access/threshold/raftstore"
)

// Config says what an auth replica needs.
type Config struct {
	// Dir is the data folder. It is created together with the cluster. Required.
	Dir string
	// Listener is the open socket of the auth port; the server closes it. Required.
	Listener net.Listener
	// Bootstrap is the content of the file that a cluster is created from. It is required on an empty data
	// folder and refused on any other.
	Bootstrap []byte
	// ResumeBootstrap accepts a data folder that holds the cluster which Bootstrap names, and opens it. It is
	// for a caller that may have been killed before it knew that the cluster was created.
	ResumeBootstrap bool
	// BootstrapName is what faults call the bootstrap file.
	BootstrapName string
	// RootKey says where the root key of a new cluster goes. It is required together with Bootstrap, unless
	// that says that the store keeps the key, and used only when the cluster is created.
	RootKey RootKeyFile
	// ReplicaID names this replica among the members for ever: a lower-case host name. Required.
	ReplicaID string
	// Version is the release, for the audit log.
	Version string
	// Log gets what an operator should know. Required.
	Log *slog.Logger
	// Now is the clock. Zero means time.Now.
	Now func() time.Time
}

// RootKeyFile is the file to which the root key of a new cluster is written, encrypted by age: for
// recipients, or with a passphrase. The file must not exist.
type RootKeyFile struct {
	Path       string
	Recipients []string // of the form age1…
	Passphrase []byte
}

// Server is one auth replica. All methods but Run may be called at any time by any goroutine.
type Server struct {
	cfg       Config
	bootstrap *bootstrap.File // nil: the cluster exists already
	store     *raftstore.Store
	port      *port.Port

	started  atomic.Bool // Run was called
	ready    *lifecycle.Readiness
	services *services // set by serve before the server is ready, constant after; read it only when ready
}

// storeDir is where in the data folder the replicated store is.
const storeDir = "store"

// bootstrapRemedy is what to do about a data folder without a cluster.
const bootstrapRemedy = "run once: threshold start --bootstrap FILE"

// New checks the configuration and the bootstrap file, and makes a server for Run. It starts nothing and
// opens nothing. What is wrong with the bootstrap file is all reported at once.
func New(cfg Config) (*Server, error) { return newServer(cfg, func(*raftstore.Config) {}) }

// newServer is New for tests, too: adjustStore may change the store's configuration.
func newServer(cfg Config, adjustStore func(*raftstore.Config)) (*Server, error) {
	const op = "auth.New"
	if cfg.Dir == "" || cfg.Listener == nil || cfg.Log == nil {
		return nil, authConfigIncomplete.New(op)
	}
	if err := identity.CheckMachineName(cfg.ReplicaID); err != nil {
		return nil, replicaIDInvalid.Wrap(err, op, fault.Args{"why": err.Error()})
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	server := &Server{cfg: cfg, ready: lifecycle.NewReadiness("auth")}
	var err error
	if cfg.Bootstrap != nil {
		if server.bootstrap, err = bootstrap.Parse(cfg.BootstrapName, cfg.Bootstrap); err != nil {
			return nil, err
		}
		if err := checkRootKeyFile(server.bootstrap, cfg.RootKey); err != nil {
			return nil, err
		}
	}
	server.port, err = port.New(port.Config{Listener: cfg.Listener, Log: cfg.Log, Now: cfg.Now})
	if err != nil {
		return nil, err
	}
	storeConfig := raftstore.Config{
		Dir:       filepath.Join(cfg.Dir, storeDir),
		ReplicaID: cfg.ReplicaID,
		Stream:    server.port.Raft(),
		Bootstrap: true, // a folder without a log always becomes a cluster of one replica
		Log:       cfg.Log,
		Now:       cfg.Now,
	}
	adjustStore(&storeConfig)
	if server.store, err = raftstore.New(storeConfig); err != nil {
		return nil, err
	}
	return server, nil
}

// checkRootKeyFile returns a fault unless the configuration says where the root key of a new cluster goes, if
// it must say it.
func checkRootKeyFile(b *bootstrap.File, file RootKeyFile) error {
	if b.RootInStore() {
		return nil
	}
	if file.Path == "" {
		return rootKeyHomeless.New("auth.New")
	}
	return rootkey.Protection{Recipients: file.Recipients, Passphrase: file.Passphrase}.Check()
}

// Run serves until ctx ends, and then returns nil. It returns a fault if the server cannot start, or if a
// service or the store fails.
//
// A failed disk does not end Run: reads are answered from memory, changes are refused with a remedy, and Run
// returns the fault of the disk when ctx ends.
func (s *Server) Run(ctx context.Context) (err error) {
	if s.started.Swap(true) {
		return authRunTwice.New("auth.Run")
	}
	defer func() { s.ready.End(err) }()
	defer s.port.Close() // for a return before the port runs, which else closes its socket itself
	if err := s.checkFolder(); err != nil {
		return err
	}
	// The store has a context of its own, so that it stops after everything that writes to it. Its goroutine
	// ends when stopStore is called; Run waits for it.
	storeCtx, stopStore := context.WithCancel(context.WithoutCancel(ctx))
	defer stopStore()
	storeErr := make(chan error, 1)
	go func() { storeErr <- s.store.Run(storeCtx) }()
	serveErr := s.serve(ctx)
	if s.ready.IsReady() {
		refusals := s.services.logins.Refusals()
		s.cfg.Log.Info("auth stopped", "connections", s.port.Counts(), "logins_refused", refusals)
	}
	stopStore()
	if err := <-storeErr; err != nil {
		return err // if serve failed too, this is the cause
	}
	if ctx.Err() != nil && errors.Is(serveErr, context.Canceled) {
		return nil // ctx ended while serve was still opening
	}
	return serveErr
}

// checkFolder returns fault NotFound for a data folder without a store, unless a cluster is to be created in
// it. It runs before the store is opened, which would make files in a wrong folder.
func (s *Server) checkFolder() error {
	_, err := os.Stat(filepath.Join(s.cfg.Dir, storeDir))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if s.bootstrap == nil {
			return s.noClusterFault()
		}
		return nil
	case err != nil:
		return authDataUnreadable.Wrap(err, "auth.Run", fault.Args{"folder": s.cfg.Dir})
	}
	return nil
}

func (s *Server) noClusterFault() error {
	return clusterMissing.New("auth.Run", fault.Args{"folder": s.cfg.Dir})
}

// serve waits for the store, creates or opens the cluster, opens the port, and runs the services until ctx
// ends or one of them fails. It returns when all of them have ended, and wipes the private keys.
func (s *Server) serve(ctx context.Context) error {
	if err := s.store.Ready(ctx); err != nil {
		return err
	}
	svc, err := s.open(ctx)
	if err != nil {
		return err
	}
	defer svc.keys.Wipe()
	// The port needs a certificate, and a machine that joins needs the rules: both exist before the port
	// opens.
	if err := svc.certificate.Renew(ctx); err != nil {
		return err
	}
	if err := svc.publisher.Publish(ctx); err != nil {
		return err
	}
	if err := s.recordStart(ctx, svc); err != nil {
		return err
	}
	s.services = svc
	s.ready.Set() // services is set; the socket is open, and who connects waits only until the port accepts
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.port.Run(ctx, portConfig(svc)) })
	g.Go(func() error { return svc.publisher.Run(ctx) })
	g.Go(func() error { return svc.certificate.Run(ctx) })
	g.Go(func() error { return svc.auditLog.Run(ctx) })
	g.Go(func() error { return removeEndedLocks(ctx, svc.state.Locks, s.cfg.Now, s.cfg.Log) })
	return g.Wait()
}

// Ready waits until the services are built and the port is about to accept connections. If the server ends
// before, it returns what Run returned, or a fault.
func (s *Server) Ready(ctx context.Context) error { return s.ready.Wait(ctx) }

// Pin is the hash of the cluster root's public key; zero before Ready.
func (s *Server) Pin() identity.Pin {
	if !s.ready.IsReady() {
		return identity.Pin{}
	}
	return s.services.keys.Pin()
}

// Cluster is the cluster's name; "" before Ready.
func (s *Server) Cluster() string {
	if !s.ready.IsReady() {
		return ""
	}
	return s.services.keys.Cluster()
}

// RootPEM is the cluster root's certificate; nil before Ready.
func (s *Server) RootPEM() []byte {
	if !s.ready.IsReady() {
		return nil
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.services.keys.Root().Raw})
}

// Counts are the counters of the auth port.
func (s *Server) Counts() port.Counts { return s.port.Counts() }
